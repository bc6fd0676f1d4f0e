"""The providers' side: to stand ready for a source, to take tasks, to answer them.

Signed by `private_key`, else PROVIDER_PRIVATE_KEY or PROVIDER_KEYSTORE. A master or its agent may act for a provider:
name it then.
"""

from typing import Any

from chain.client.blocking import operation
from chain.client.chain_config import Network
from chain.client.errors import InvalidValue
from chain.client.interface import checksum
from chain.client.keys import PrivateKey
from chain.client.logs import created
from chain.client.sending import RECEIPT_SECONDS, Call, Receipt, transact
from chain.client.steps import Steps
from chain.client.types import Environment
from chain.client.views import Session, View, chosen_network, opened, read

ROLE = "PROVIDER"


@operation
def register(
    source: str,
    environment: Environment = Environment.CPU,
    private_key: PrivateKey | None = None,
    *,
    provider: str | None = None,
    network: Network | None = None,
) -> Steps[str]:
    """Stand ready for a source's tasks; the transaction's hash. Needs the source's stake: see `vault.lock`."""
    session = yield from opened(private_key, network, role=ROLE)
    arguments = (checksum(source, "source"), _provider(session, provider), int(environment))
    return (yield from _nexus(session, "register", arguments)).tx_hash


@operation
def unregister(
    source: str,
    private_key: PrivateKey | None = None,
    *,
    provider: str | None = None,
    network: Network | None = None,
) -> Steps[str]:
    session = yield from opened(private_key, network, role=ROLE)
    arguments = (checksum(source, "source"), _provider(session, provider))
    return (yield from _nexus(session, "unregister", arguments)).tx_hash


@operation
def is_registered(source: str, provider: str, *, network: Network | None = None) -> Steps[bool]:
    chosen = yield from chosen_network(network)
    view = View("Source", checksum(source, "source"), "getRegistrantId", (checksum(provider, "provider"),))
    (number,) = yield from read(chosen, [view])
    return bool(number)


@operation
def attempt(
    task: str,
    suggested_payment: int,
    private_key: PrivateKey | None = None,
    *,
    provider: str | None = None,
    network: Network | None = None,
    receipt_timeout: float = RECEIPT_SECONDS,
) -> Steps[str]:
    """Take a task on, for `suggested_payment` wei; the transaction's hash. Raises `AlreadyDone` the second time."""
    session = yield from opened(private_key, network, role=ROLE)
    arguments = (checksum(task, "task"), _provider(session, provider), suggested_payment)
    return (yield from _nexus(session, "attempt", arguments, receipt_timeout)).tx_hash


@operation
def submit_response(
    task: str,
    data: str,
    payment: int | None = None,
    private_key: PrivateKey | None = None,
    *,
    provider: str | None = None,
    network: Network | None = None,
    receipt_timeout: float = RECEIPT_SECONDS,
) -> Steps[str]:
    """Answer a task that was attempted before; the address of the response contract.

    `payment` is what is asked for, in wei; all that the task offers, if not given. `data` is text, by custom JSON or a
    URL of it. Raises `AlreadyDone` the second time.
    """
    if not isinstance(data, str):
        raise InvalidValue(f"A response's data is text, not {type(data).__name__}; json.dumps() makes it so.")
    address = checksum(task, "task")
    session = yield from opened(private_key, network, role=ROLE)
    if payment is None:
        (payment,) = yield from read(session.network, [View("Task", address, "getPayment")])
    params = (address, _provider(session, provider), data, payment)
    receipt = yield from _nexus(session, "submitResponse", (params,), receipt_timeout)
    return created(session.network, receipt, "ResponseSubmitted", "response")


@operation
def announce_provider(
    provider: str, stake: int = 0, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """By a master: name its provider, and pay `stake` wei into the provider's lockup; the transaction's hash."""
    arguments = (checksum(provider, "provider"), stake)
    return (yield from _terminal("announceProvider", arguments, private_key, network, "MASTER", stake))


@operation
def announce_master(
    master: str, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """By a provider: name its master, which earns from then on; the transaction's hash."""
    return (yield from _terminal("announceMaster", (checksum(master, "master"),), private_key, network, ROLE))


@operation
def set_agent(
    agent: str, allowed: bool, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """By a client or master: let another account act for it, or no longer; the transaction's hash."""
    arguments = (checksum(agent, "agent"), allowed)
    return (yield from _terminal("setAgent", arguments, private_key, network, "CLIENT"))


def _provider(session: Session, provider: str | None) -> str:
    return str(session.signer.address) if provider is None else checksum(provider, "provider")


def _nexus(
    session: Session, function: str, arguments: tuple[Any, ...], receipt_timeout: float = RECEIPT_SECONDS
) -> Steps[Receipt]:
    call = Call("Nexus", session.network.contract("NEXUS"), function, arguments)
    return (yield from transact(session, call, receipt_timeout=receipt_timeout))


def _terminal(
    function: str,
    arguments: tuple[Any, ...],
    private_key: PrivateKey | None,
    network: Network | None,
    role: str,
    value: int = 0,
) -> Steps[str]:
    session = yield from opened(private_key, network, role=role)
    call = Call("Terminal", session.network.contract("TERMINAL"), function, arguments, value)
    return (yield from transact(session, call)).tx_hash
