"""publish_task: a task on the chain, paid from the Vault, exactly one for each call."""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from chain.client import (
    ChainConfig,
    TaskInfo,
    TaskInput,
    TaskStatus,
    get_task,
    publish_source,
    publish_task,
    vault_account,
    vault_balance,
)
from chain.client.errors import (
    ExpiryTooFar,
    InsufficientFunds,
    InvalidAddress,
    InvalidValue,
    MissingKey,
    NoSuchSource,
    NotEnoughInVault,
    OutOfTime,
    PaymentTooLow,
    PinningError,
    SourceInactive,
    TaskExpired,
    WrongNetwork,
)
from chain.client.source import inactivate_source
from tests.chain.client.conftest import COIN, source_info
from tests.chain.network import Network
from tests.chain.pinboard import Pinboard

Info = Callable[..., TaskInfo]


def test_a_task_is_published(source: str, deposited: int, task_info: Info, pins: Pinboard) -> None:
    info = task_info(source)

    address = publish_task(info)

    task = get_task(address)
    assert (task.source, task.payment, task.expiryTime) == (source, info.payment, info.expiryTime)
    assert (task.status, task.attempts, task.winningProvider) == (TaskStatus.NEW, 0, None)
    assert pins.files[task.config] == {
        "function_name": "analyze_sentiment",
        "data": {"text": "I love this product!"},
    }
    assert pins.names[-1] == "taskConfig.json"


def test_the_payment_is_frozen_in_the_vault(source: str, deposited: int, task_info: Info) -> None:
    publish_task(task_info(source, payment=COIN // 4))

    found = vault_account()
    assert (found.balance, found.frozen) == (deposited - COIN // 4, COIN // 4)


def test_it_says_how_much_is_missing_in_the_vault_before_anything_is_uploaded(
    source: str, deposited: int, task_info: Info, pins: Pinboard, network: Network
) -> None:
    pinned, head = len(pins.files), network.head()

    with pytest.raises(NotEnoughInVault, match=r"deposit\(1000000000000000000\)") as caught:
        publish_task(task_info(source, payment=2 * COIN))

    assert (caught.value.missing, caught.value.available) == (COIN, COIN)
    assert (len(pins.files), network.head()) == (pinned, head)


def test_it_deposits_what_is_missing_if_asked_to(source: str, deposited: int, task_info: Info) -> None:
    address = publish_task(task_info(source, payment=3 * COIN), auto_deposit=True)

    assert get_task(address).payment == 3 * COIN
    assert vault_balance() == 0


def test_an_expired_task_is_not_even_uploaded(
    source: str, deposited: int, task_info: Info, pins: Pinboard, network: Network
) -> None:
    pinned, head = len(pins.files), network.head()

    with pytest.raises(TaskExpired):
        publish_task(task_info(source, expiryTime=int(time.time()) - 1))

    assert (len(pins.files), network.head()) == (pinned, head)


def test_a_task_that_expires_during_the_upload_is_not_sent(
    source: str, deposited: int, task_info: Info, pins: Pinboard, network: Network
) -> None:
    head, pins.delay = network.head(), 2.2

    with pytest.raises(TaskExpired):
        publish_task(task_info(source, expiryTime=int(time.time()) + 2))

    assert len(pins.files) == 2, "the source's file, and the task's"
    assert network.head() == head


def test_the_total_time_is_kept_and_nothing_is_sent(
    source: str, deposited: int, task_info: Info, pins: Pinboard, network: Network
) -> None:
    head, pins.delay = network.head(), 1.0
    begun = time.monotonic()

    with pytest.raises((OutOfTime, PinningError)):
        publish_task(task_info(source), total_timeout=0.5)

    assert time.monotonic() - begun < 1.5
    assert network.head() == head


def test_a_file_server_that_fails_once_is_asked_again(
    source: str, deposited: int, task_info: Info, pins: Pinboard
) -> None:
    pins.statuses = [503]

    assert publish_task(task_info(source))


@pytest.mark.parametrize("statuses", [[400], [503, 503, 503]])
def test_a_file_server_that_refuses_is_named(
    source: str, deposited: int, task_info: Info, pins: Pinboard, network: Network, statuses: list[int]
) -> None:
    head, pins.statuses = network.head(), statuses

    with pytest.raises(PinningError, match=r"127\.0\.0\.1"):
        publish_task(task_info(source))

    assert network.head() == head


def test_lower_case_addresses_are_accepted(source: str, deposited: int, task_info: Info) -> None:
    assert get_task(publish_task(task_info(source.lower())).lower()).source == source


@pytest.mark.parametrize("address", ["", "0x1234...", "nonsense", "0x" + "00" * 19, None, 5])
def test_what_is_no_address_is_told(address: Any, deposited: int, task_info: Info) -> None:
    with pytest.raises(InvalidAddress):
        publish_task(task_info(address))


def test_a_mistyped_checksum_is_told(source: str, deposited: int, task_info: Info) -> None:
    with pytest.raises(InvalidAddress, match="checksum"):
        publish_task(task_info("0x" + source[2:].swapcase()))


def test_an_address_without_a_source_is_told(deposited: int, task_info: Info, network: Network) -> None:
    with pytest.raises(NoSuchSource):
        publish_task(task_info(network.charlie.address))


def test_an_inactive_source_takes_no_task(source: str, deposited: int, task_info: Info) -> None:
    inactivate_source(source)

    with pytest.raises(SourceInactive):
        publish_task(task_info(source))


def test_a_payment_below_the_sources_minimum_is_told(source: str, deposited: int, task_info: Info) -> None:
    with pytest.raises(PaymentTooLow):
        publish_task(task_info(source, payment=COIN // 1000 - 1))


def test_an_expiry_beyond_the_sources_maximum_is_told(source: str, deposited: int, task_info: Info) -> None:
    with pytest.raises(ExpiryTooFar) as caught:
        publish_task(task_info(source, expiryTime=int(time.time()) + 100_000))

    assert caught.value.tx_hash is None, "no gas was paid"


@pytest.mark.parametrize(
    "change",
    [{"payment": -1}, {"payment": 0.5}, {"payment": Decimal(5)}, {"payment": True}, {"expiryTime": "soon"}],
)
def test_what_is_no_amount_is_told(
    source: str, deposited: int, task_info: Info, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue):
        publish_task(task_info(source, **change))


@pytest.mark.parametrize("data", [{"when": object()}, {"x": float("nan")}])
def test_data_that_is_not_json_is_told(source: str, deposited: int, task_info: Info, data: Any) -> None:
    with pytest.raises(InvalidValue):
        publish_task(task_info(source, config=TaskInput("f", data)))


def test_data_that_is_neither_a_dictionary_nor_a_model_is_told(
    source: str, deposited: int, task_info: Info
) -> None:
    with pytest.raises(InvalidValue):
        publish_task(task_info(source, config=TaskInput("f", "text")))  # type: ignore[arg-type]


def test_a_wallet_without_coins_for_gas_is_told(source: str, task_info: Info, network: Network) -> None:
    poor = network.w3.eth.account.create()

    with pytest.raises(InsufficientFunds, match=poor.address):
        publish_source(source_info(), poor.key)


def test_the_key_is_asked_for(
    source: str, deposited: int, task_info: Info, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLIENT_PRIVATE_KEY")

    with pytest.raises(MissingKey, match="CLIENT_PRIVATE_KEY"):
        publish_task(task_info(source))


def test_nothing_is_sent_to_another_network_than_the_one_selected(
    source: str, deposited: int, task_info: Info, network: Network, pins: Pinboard
) -> None:
    pinned, head = len(pins.files), network.head()
    ChainConfig.use(network.manifest | {"chain_id": 4711, "file_url": pins.file_url})

    with pytest.raises(WrongNetwork, match="4711"):
        publish_task(task_info(source))

    assert (len(pins.files), network.head()) == (pinned, head)
