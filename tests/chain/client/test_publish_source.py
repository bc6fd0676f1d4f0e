"""publish_source, and what else a source's client does."""

import pytest

from chain.client import (
    DeliveryMethod,
    Environment,
    ImageEnvironments,
    SourceStatus,
    get_source,
    inactivate_source,
    provider,
    publish_source,
    update_source,
)
from chain.client.errors import InvalidValue, NoSuchSource, NotSourceOwner, PinningError, SourceInactive
from tests.chain.client.conftest import COIN, source_info
from tests.chain.network import Network
from tests.chain.pinboard import Pinboard


def test_a_source_is_published(network: Network, pins: Pinboard) -> None:
    info = source_info(
        imageEnvs=ImageEnvironments(cpu="https://e.com/c.yml", nvidia="https://e.com/n.yml"),
        deliveryMethod=DeliveryMethod.FIRST_RESPONSE,
        minAvailableLockup=7,
    )

    found = get_source(publish_source(info))

    assert (found.client, found.status) == (network.alice.address, SourceStatus.ACTIVE)
    assert found.imageEnvironments == Environment.CPU | Environment.NVIDIA
    assert (found.minPayment, found.minAvailableLockup, found.maxExpiryDuration) == (COIN // 1000, 7, 86_400)
    assert found.deliveryMethod is DeliveryMethod.FIRST_RESPONSE
    assert pins.names == ["imageMetadata.json"]
    assert pins.files[found.imageMetadataUrl] == {
        "cpu": "https://e.com/c.yml",
        "nvidia": "https://e.com/n.yml",
        "amd": "",
        "name": "sentiment-service",
        "description": "AI sentiment analysis service",
        "logoUrl": "https://example.com/logo.png",
    }


def test_each_call_makes_another_source(network: Network) -> None:
    assert publish_source(source_info()) != publish_source(source_info())


def test_another_key_may_be_given(network: Network) -> None:
    address = publish_source(source_info(), network.charlie.private_key)

    assert get_source(address).client == network.charlie.address


def test_numbers_that_do_not_fit_are_told(network: Network) -> None:
    for wrong in (-1, 2**256, "5"):
        with pytest.raises(InvalidValue):
            publish_source(source_info(minPayment=wrong))


def test_a_file_server_that_gives_no_link_is_told(network: Network, pins: Pinboard) -> None:
    pins.statuses = [200]
    pins.keep = lambda body: None  # type: ignore[assignment, method-assign, return-value]

    with pytest.raises(PinningError, match="no link"):
        publish_source(source_info())


def test_its_client_describes_it_anew(source: str, network: Network) -> None:
    update_source(source, source_info(minPayment=5))

    assert get_source(source).minPayment == 5
    with pytest.raises(NotSourceOwner):
        update_source(source, source_info(), network.charlie.private_key)


def test_its_client_closes_it(source: str, network: Network) -> None:
    with pytest.raises(NotSourceOwner):
        inactivate_source(source, network.charlie.private_key)

    inactivate_source(source)

    assert get_source(source).status is SourceStatus.INACTIVE
    with pytest.raises(SourceInactive):
        provider.register(source, private_key=network.charlie.private_key)


def test_an_address_that_is_no_source_is_told(network: Network) -> None:
    for address in (network.charlie.address, network.manifest["contracts"]["VAULT"]):
        with pytest.raises((NoSuchSource, Exception)):
            get_source(address)
    with pytest.raises(NoSuchSource):
        get_source(network.charlie.address)


def test_providers_come_and_go(source: str, network: Network) -> None:
    assert provider.is_registered(source, network.bob.address)

    provider.unregister(source)

    assert not provider.is_registered(source, network.bob.address)
