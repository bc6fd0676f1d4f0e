"""get_task_responses, get_confirmed_response, confirm_response."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from eth_abi import encode

from chain.client import (
    ChainConfig,
    ConfirmedResponse,
    DeliveryMethod,
    Response,
    ResponseStatus,
    TaskInfo,
    TaskStatus,
    confirm_response,
    get_confirmed_response,
    get_response,
    get_task,
    get_task_responses,
    provider,
    publish_source,
    publish_task,
    rpc,
    vault_account,
)
from chain.client import blocking as blocking_driver
from chain.client.errors import (
    AlreadyDone,
    InvalidAddress,
    InvalidValue,
    NoConfirmedResponse,
    NoSuchResponse,
    NoSuchTask,
    NotTaskOwner,
    ResponseAlreadyConfirmed,
    Reverted,
)
from chain.client.interface import interface
from chain.client.steps import Http
from tests.chain.client.conftest import COIN, source_info
from tests.chain.network import Network
from tests.chain.pinboard import Pinboard

Info = Callable[..., TaskInfo]
ANSWER = '{"result": "positive sentiment"}'


@pytest.fixture
def task(source: str, deposited: int, task_info: Info) -> str:
    return publish_task(task_info(source))


@pytest.fixture
def answered(task: str, network: Network) -> tuple[str, str]:
    """The task, and bob's response."""
    provider.attempt(task, COIN // 200)
    return task, provider.submit_response(task, ANSWER)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Http]]:
    """Every HTTP request that is made."""
    found: list[Http] = []
    request = blocking_driver._request

    def counted(step: Http) -> Any:
        found.append(step)
        return request(step)

    monkeypatch.setattr(blocking_driver, "_request", counted)
    return found


def crowd(network: Network, source: str, task: str, size: int, *, answers: int) -> list[str]:
    """So many providers attempt the task, and the first of them answer; the responses' addresses."""
    found = []
    for number, account in enumerate(network.accounts[4 : 4 + size]):
        provider.register(source, private_key=account.private_key)
        provider.attempt(task, 0, account.private_key)
        if number < answers:
            found.append(provider.submit_response(task, f"answer {number}", 0, account.private_key))
    return found


def test_a_response_has_all_that_the_document_says(answered: tuple[str, str], network: Network) -> None:
    task, address = answered

    (response,) = get_task_responses(task)

    assert response == Response(
        address=address,
        task=task,
        provider=network.bob.address,
        data=ANSWER,
        payment=COIN // 100,
        status=ResponseStatus.SUBMITTED,
        timestamp=response.timestamp,
        confirmed=False,
    )
    assert type(response.data) is str
    assert response.timestamp == network.w3.eth.get_block("latest")["timestamp"]
    assert get_response(address) == response


def test_a_page_is_two_round_trips_however_many_responses(
    task: str, source: str, network: Network, trips: list[Http]
) -> None:
    addresses = crowd(network, source, task, 12, answers=12)
    trips.clear()

    found = get_task_responses(task)

    assert [response.address for response in found] == addresses
    assert [response.data for response in found] == [f"answer {number}" for number in range(12)]
    assert len(trips) == 2


def test_pages_are_as_in_python(task: str, source: str, network: Network) -> None:
    addresses = crowd(network, source, task, 5, answers=4)

    def page(lower: int, upper: int | None) -> list[str]:
        return [response.address for response in get_task_responses(task, lower, upper)]

    assert page(0, None) == addresses
    assert page(0, 2) == addresses[:2]
    assert page(2, 4) == addresses[2:4]
    assert page(3, None) == addresses[3:], "the fifth has attempted, and has not answered"
    assert page(2, 2) == page(5, None) == page(7, 9) == []


@pytest.mark.parametrize("page", [(-1, None), (3, 2)])
def test_what_is_no_page_is_told(task: str, page: tuple[int, Any]) -> None:
    with pytest.raises(InvalidValue):
        get_task_responses(task, *page)


def test_a_server_that_takes_no_batches_is_asked_one_by_one(
    answered: tuple[str, str], monkeypatch: pytest.MonkeyPatch, trips: list[Http]
) -> None:
    monkeypatch.setattr("chain.devnet.server.MOST_IN_BATCH", 1)
    request = blocking_driver._request
    monkeypatch.setattr(
        blocking_driver,
        "_request",
        lambda step: (
            rpc.Reply(200, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no batches"}}')
            if step.body.startswith(b"[")
            else request(step)
        ),
    )

    (response,) = get_task_responses(answered[0])

    assert response.data == ANSWER
    assert len(trips) == 6, "two for the addresses, four for the response"


def test_a_task_that_is_none_is_told(network: Network) -> None:
    for read in (get_task_responses, get_confirmed_response, get_task):
        with pytest.raises(NoSuchTask):
            read(network.charlie.address)
        with pytest.raises(InvalidAddress):
            read("0xabcd...")


def test_a_response_that_is_none_is_told(network: Network) -> None:
    with pytest.raises(NoSuchResponse):
        get_response(network.charlie.address)


def test_confirming_pays_the_provider(answered: tuple[str, str], network: Network) -> None:
    task, response = answered

    tx_hash = confirm_response(response)

    assert network.w3.eth.get_transaction_receipt(tx_hash)["status"] == 1  # type: ignore[arg-type]
    assert isinstance(tx_hash, str)
    assert tx_hash.startswith("0x")
    assert len(tx_hash) == 66
    (found,) = get_task_responses(task)
    assert (found.confirmed, found.status) == (True, ResponseStatus.CONFIRMED)
    assert vault_account(network.bob.address).balance == COIN // 100
    assert get_task(task).status is TaskStatus.FINALIZED
    assert get_task(task).winningProvider == network.bob.address


def test_a_response_is_confirmed_once(answered: tuple[str, str], network: Network) -> None:
    confirm_response(answered[1])
    head = network.head()

    with pytest.raises(ResponseAlreadyConfirmed) as caught:
        confirm_response(answered[1])

    assert caught.value.reason == "AlreadyConfirmed"
    assert network.head() == head, "no gas was paid"


def test_a_tasks_address_in_place_of_a_responses_is_told(answered: tuple[str, str]) -> None:
    with pytest.raises(Reverted, match="there is no response at this address"):
        confirm_response(answered[0])


def test_only_the_tasks_client_confirms(answered: tuple[str, str], network: Network) -> None:
    with pytest.raises(NotTaskOwner):
        confirm_response(answered[1], network.charlie.private_key)


def test_the_confirmed_response_is_found_on_the_chain(answered: tuple[str, str], pins: Pinboard) -> None:
    task, response = answered
    confirm_response(response)

    assert get_confirmed_response(task) == ConfirmedResponse(response, ANSWER)
    assert type(get_confirmed_response(task).data) is str


def test_the_api_saves_the_search(answered: tuple[str, str], pins: Pinboard, trips: list[Http]) -> None:
    task, response = answered
    confirm_response(response)
    pins.confirmed[task] = {"address": response, "data": {"anything": 1}}
    trips.clear()

    assert get_confirmed_response(task.lower()) == ConfirmedResponse(response, ANSWER)
    assert len(trips) == 2, "the API, and the chain's word for it"


@pytest.mark.parametrize("named", ["response", "task", "nonsense", "stranger"])
def test_an_api_is_not_believed_against_the_chain(
    answered: tuple[str, str], pins: Pinboard, network: Network, named: str
) -> None:
    task, response = answered
    names = {"response": response, "task": task, "nonsense": "0x12", "stranger": network.charlie.address}
    pins.confirmed[task] = {"address": names[named], "data": ANSWER, "confirmed": True}

    with pytest.raises(NoConfirmedResponse):
        get_confirmed_response(task)


def test_without_an_api_the_chain_is_asked(answered: tuple[str, str], network: Network) -> None:
    task, response = answered
    confirm_response(response)
    for api in (None, "http://127.0.0.1:9"):
        ChainConfig.use(network.manifest | {"api_url": api})

        assert get_confirmed_response(task).address == response


def test_the_first_response_may_be_final_at_once(deposited: int, task_info: Info) -> None:
    source = publish_source(source_info(deliveryMethod=DeliveryMethod.FIRST_RESPONSE))
    provider.register(source)
    task = publish_task(task_info(source))
    provider.attempt(task, 0)

    response = provider.submit_response(task, ANSWER)

    assert get_confirmed_response(task).address == response


def test_a_provider_answers_once(answered: tuple[str, str]) -> None:
    with pytest.raises(AlreadyDone):
        provider.attempt(answered[0], 0)
    with pytest.raises(AlreadyDone):
        provider.submit_response(answered[0], "another")


def test_data_of_a_response_is_text(task: str) -> None:
    with pytest.raises(InvalidValue):
        provider.submit_response(task, {"a": 1})  # type: ignore[arg-type]


def test_an_answer_that_is_no_text_can_be_read_nevertheless() -> None:
    """A provider must not keep a client from reading what others have answered."""
    values = ("0x" + "0a" * 20, "0x" + "0b" * 20, b"\xff caf\xc3\xa9", 5)
    data = encode(["(address,address,bytes,uint256)"], [values])

    assert interface("Response").decode("getResponseParams", "0x" + data.hex())[2] == "� café"
