"""Sources: services that tasks are sent to."""

import time
from typing import Any

from chain.client.blocking import operation
from chain.client.chain_config import Network
from chain.client.errors import NoSuchSource
from chain.client.interface import Undecodable, checksum
from chain.client.keys import PrivateKey
from chain.client.logs import created
from chain.client.pinning import TIMEOUT as PIN_SECONDS
from chain.client.pinning import pin
from chain.client.sending import RECEIPT_SECONDS, Call, transact
from chain.client.steps import Steps
from chain.client.types import DeliveryMethod, Environment, Source, SourceInfo, SourceStatus
from chain.client.views import Session, View, chosen_network, opened, read, read_checked


@operation
def publish_source(
    source_info: SourceInfo,
    private_key: PrivateKey | None = None,
    *,
    network: Network | None = None,
    pin_timeout: float = PIN_SECONDS,
    receipt_timeout: float = RECEIPT_SECONDS,
    total_timeout: float | None = None,
) -> Steps[str]:
    """Publish a source to the Nexus contract; the address of the created source contract.

    Args:
        source_info: SourceInfo object containing source configuration
        private_key: Private key for signing the transaction. If None, will use CLIENT_PRIVATE_KEY environment variable.
        network: another network than `ChainConfig`'s
        pin_timeout, receipt_timeout: for uploading the metadata, and for being mined, in seconds
        total_timeout: for the whole call; nothing is sent after it

    Raises `ChainError`; see `chain.client.errors`.
    """
    session = yield from opened(private_key, network, total_timeout=total_timeout)
    # The node is asked before anything is uploaded.
    yield from read_checked(session, [])
    call = yield from _described(session, source_info, pin_timeout, "publishSource")
    receipt = yield from transact(session, call, receipt_timeout=receipt_timeout)
    return created(session.network, receipt, "SourcePublished", "source")


@operation
def update_source(
    source: str,
    source_info: SourceInfo,
    private_key: PrivateKey | None = None,
    *,
    network: Network | None = None,
    pin_timeout: float = PIN_SECONDS,
    receipt_timeout: float = RECEIPT_SECONDS,
) -> Steps[str]:
    """Replace what a source says of itself; the transaction's hash. Only its client may."""
    session = yield from opened(private_key, network)
    yield from read_checked(session, [])
    address = checksum(source, "source")
    call = yield from _described(session, source_info, pin_timeout, "updateSource", address)
    return (yield from transact(session, call, receipt_timeout=receipt_timeout)).tx_hash


@operation
def inactivate_source(
    source: str, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """Take no more tasks, for ever; the transaction's hash. Tasks that run go on."""
    session = yield from opened(private_key, network)
    nexus = session.network.contract("NEXUS")
    call = Call("Nexus", nexus, "inactivateSource", (checksum(source, "source"),))
    return (yield from transact(session, call)).tx_hash


@operation
def get_source(source: str, *, network: Network | None = None) -> Steps[Source]:
    """A source as it stands on the chain, in one round trip. Raises `NoSuchSource`."""
    address = checksum(source, "source")
    chosen = yield from chosen_network(network)
    try:
        status, params = yield from read(chosen, source_views(address))
    except Undecodable:
        raise no_source(address, chosen) from None
    return described(address, status, params)


def source_views(address: str) -> list[View]:
    return [View("Source", address, "getStatus"), View("Source", address, "getSourceParams")]


def described(address: str, status: int, params: tuple[Any, ...]) -> Source:
    """From the values of `source_views`."""
    client, metadata, environments, payment, lockup, duration, private, optional, delivery, updated = params
    return Source(
        address=address,
        client=client,
        status=SourceStatus(status),
        imageMetadataUrl=metadata,
        imageEnvironments=Environment(environments),
        minPayment=payment,
        minAvailableLockup=lockup,
        maxExpiryDuration=duration,
        privacyEnabled=private,
        optionalParamsUrl=optional,
        deliveryMethod=DeliveryMethod(delivery),
        lastUpdateTime=updated,
    )


def no_source(address: str, network: Network) -> NoSuchSource:
    return NoSuchSource(f"There is no source at {address} on {network.name}.")


def _described(
    session: Session, info: SourceInfo, pin_timeout: float, function: str, *before: Any
) -> Steps[Call]:
    """The call that carries a source's description, once that is pinned."""

    def call(link: str) -> Call:
        params = _params(session, info, link)
        return Call("Nexus", session.network.contract("NEXUS"), function, (*before, params))

    # Numbers that do not fit are told before the upload.
    _ = call("").data
    link = yield from pin(
        session.network, info.metadata(), "imageMetadata.json", deadline=session.deadline, timeout=pin_timeout
    )
    return call(link)


def _params(session: Session, info: SourceInfo, link: str) -> tuple[Any, ...]:
    return (
        session.signer.address,
        link,
        int(info.imageEnvs.environments()),
        info.minPayment,
        info.minAvailableLockup,
        info.maxExpiryDuration,
        False,
        "",
        info.deliveryMethod.value,
        int(time.time()),
    )
