"""Orders on a real chain with our contracts: what people without a wallet see, and where the coins are meanwhile."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from chain import floats, outcomes
from chain.models import Source, SourceOrder, TaskOrder, Transaction, VaultFloat
from clients import transfers
from marketplace.money import TOKEN
from tests.chain.sending import Killed, Sending, failing_node
from tests.clients import ledger_books
from tests.clients.conftest import fund

__all__ = ["fund"]

PATH = "/chain/tasks/"


class Provider:
    """bob's address answers tasks of a source that charlie's address has published."""

    def __init__(self, sending: Sending) -> None:
        self.devnet = sending.devnet
        self.nexus = self.devnet.contract("NEXUS").functions
        self.source = ""

    def publish(self, method: int = 0) -> str:
        charlie, bob = self.devnet.charlie, self.devnet.bob
        params = (charlie.address, "ipfs://x", 1, 10**15, 0, 86400, False, "", method, 0)
        self.devnet.transact(charlie, self.nexus.publishSource(params), gas=3_000_000)
        self.source = self.nexus.getSources(0, 1000).call()[-1]
        self.devnet.transact(bob, self.nexus.register(self.source, bob.address, 1), gas=500_000)
        return self.source

    def attempt(self, task: str) -> None:
        bob = self.devnet.bob
        self.devnet.transact(bob, self.nexus.attempt(task, bob.address, 1), gas=500_000)

    def answer(self, task: str, payment: int) -> str:
        bob = self.devnet.bob
        self.attempt(task)
        self.devnet.transact(
            bob, self.nexus.submitResponse((task, bob.address, "ipfs://answer", payment)), gas=3_000_000
        )
        return str(self.devnet.contract("TASK", task).functions.responseOf(bob.address).call())

    def in_vault(self, address: str) -> int:
        return int(self.devnet.contract("VAULT").functions.balanceOf(address).call())


@pytest.fixture(autouse=True)
def _books(db: None) -> Any:
    yield
    assert ledger_books.wrong() == []


@pytest.fixture
def work(sending: Sending) -> Any:
    """`work()`: some rounds of the worker, two seconds after each other."""

    def rounds(count: int = 6) -> None:
        for _ in range(count):
            one_round(sending)

    return rounds


def one_round(sending: Sending) -> None:
    sending.advance(2)
    sending.devnet.mine()
    sending.index()
    outcomes.sweep(now=sending.now)


@pytest.fixture
def provider(sending: Sending) -> Provider:
    return Provider(sending)


@pytest.fixture
def buyer(alice: Any, fund: Any) -> Any:
    fund(alice, 10)
    return alice


@pytest.fixture
def place(sending: Sending, provider: Provider, api: Any, buyer: Any, work: Any) -> Any:
    """`place()` orders a task and has it published: what the API says of it."""

    def order(method: int = 0, **fields: Any) -> dict[str, Any]:
        if not provider.source:
            provider.publish(method)
            work(1)
        said = {"source": provider.source, "function_name": "chat", "data": {"messages": []}, "payment": "1"}
        reply = api(buyer).post(PATH, said | fields)
        assert reply.status_code == 201, reply.content
        work()
        found: dict[str, Any] = api(buyer).get(f"{PATH}{reply.json()['order']['id']}/").json()
        return found

    return order


def money_of(person: Any) -> tuple[float, float]:
    has = transfers.balances(person)
    return has.spendable / TOKEN, has.held / TOKEN


def free() -> float:
    return sum(row.free for row in VaultFloat.objects.all()) / TOKEN


def test_a_task_is_published_answered_confirmed_and_paid(
    sending: Sending, place: Any, provider: Provider, api: Any, buyer: Any, work: Any
) -> None:
    found = place()
    assert (found["order"]["status"], found["status"]) == ("published", "new")
    assert (found["client"], found["place"]["is_final"]) == (sending.operator, True)
    response = provider.answer(found["address"], TOKEN * 3 // 4)
    work()
    assert api().get(f"/api/tasks/{found['address']}").status_code == 404
    (said,) = api(buyer).get("/chain/responses/?mine=true").json()
    assert (said["address"], said["payment"], said["data"]) == (response, "0.75", "ipfs://answer")
    assert api(buyer).post(f"/chain/responses/{response}/confirm/").status_code == 200
    work()

    found = api(buyer).get(f"{PATH}{found['address']}/").json()
    assert (found["order"]["status"], found["order"]["paid"], found["status"]) == (
        "finished",
        "0.75",
        "finalized",
    )
    assert money_of(buyer) == (9.25, 0)
    # The rest came back to our balance in the Vault, and waits for the next order.
    assert provider.in_vault(provider.devnet.bob.address) == TOKEN * 3 // 4
    assert provider.in_vault(sending.operator) == TOKEN // 4
    assert (free(), floats.in_vault(sending.network, address=sending.operator)) == (0.25, TOKEN // 4)
    confirmed = api().get(f"/api/tasks/{found['address'].lower()}").json()["data"]
    assert (confirmed["address"], confirmed["data"], confirmed["final"]) == (response, "ipfs://answer", True)

    again = place()
    assert again["order"]["status"] == "published"
    assert TaskOrder.objects.get(pk=again["order"]["id"]).deposit.value == TOKEN * 3 // 4
    assert provider.in_vault(sending.operator) == 0


def test_the_first_response_is_paid_without_a_confirmation(
    place: Any, provider: Provider, api: Any, buyer: Any, work: Any
) -> None:
    found = place(method=1)
    provider.answer(found["address"], TOKEN)
    work()
    assert api(buyer).get(f"{PATH}{found['order']['id']}/").json()["order"]["status"] == "finished"
    assert money_of(buyer) == (9, 0)
    assert provider.in_vault(provider.devnet.bob.address) == TOKEN


def test_a_cancelled_task_gives_everything_back(
    sending: Sending, place: Any, provider: Provider, api: Any, buyer: Any, work: Any
) -> None:
    found = place()
    assert api(buyer).post(f"{PATH}{found['address']}/cancel/").status_code == 200
    work()
    found = api(buyer).get(f"{PATH}{found['address']}/").json()
    assert (found["order"]["status"], found["status"]) == ("cancelled", "canceled")
    assert (money_of(buyer), free()) == ((10, 0), 1)
    assert provider.in_vault(sending.operator) == TOKEN
    # The next one needs no deposit.
    assert place()["order"]["deposit"] is None
    assert provider.in_vault(sending.operator) == 0


def test_a_cancellation_that_comes_too_late_is_told(
    place: Any, provider: Provider, api: Any, buyer: Any, work: Any
) -> None:
    """The provider's attempt was not read yet."""
    found = place()
    provider.attempt(found["address"])
    assert api(buyer).post(f"{PATH}{found['address']}/cancel/").status_code == 200
    work()
    order = api(buyer).get(f"{PATH}{found['address']}/").json()["order"]
    assert (order["status"], order["held"]) == ("published", "1")
    assert "AlreadyFinalized" in order["reason"]


@pytest.mark.parametrize("is_attempted", [False, True])
def test_an_expired_task_is_freed(
    sending: Sending, place: Any, provider: Provider, api: Any, buyer: Any, work: Any, is_attempted: bool
) -> None:
    found = place(expires_in=600)
    if is_attempted:
        provider.attempt(found["address"])
    sending.devnet.pass_time(700)
    sending.now += timedelta(seconds=700)
    work(8)
    found = api(buyer).get(f"{PATH}{found['address']}/").json()
    assert (found["order"]["status"], found["status"]) == ("expired", "expired")
    assert (money_of(buyer), free()) == ((10, 0), 1)
    assert provider.in_vault(sending.operator) == TOKEN


def test_somebody_else_may_end_it(
    sending: Sending, place: Any, provider: Provider, buyer: Any, work: Any
) -> None:
    found = place(expires_in=600)
    sending.devnet.pass_time(700)
    provider.attempt(found["address"])
    work()
    assert TaskOrder.objects.get().status == "expired"
    assert (money_of(buyer), free(), provider.in_vault(sending.operator)) == ((10, 0), 1, TOKEN)


def test_a_source_that_closes_meanwhile_costs_nothing(
    sending: Sending, provider: Provider, api: Any, buyer: Any, work: Any
) -> None:
    source = provider.publish()
    work(1)
    said = {"source": source, "function_name": "chat", "data": {}, "payment": "1"}
    assert api(buyer).post(PATH, said).status_code == 201
    sending.devnet.transact(sending.devnet.charlie, provider.nexus.inactivateSource(source), gas=300_000)
    work(8)
    order = TaskOrder.objects.get()
    assert (order.status, money_of(buyer), free()) == ("failed", (10, 0), 1)
    assert order.reason == "The source takes no tasks any more. (SourceInactive)"
    assert provider.in_vault(sending.operator) == TOKEN


def test_a_reorganisation_across_the_publication_changes_nothing_in_the_end(
    sending: Sending, place: Any, provider: Provider, api: Any, buyer: Any, work: Any
) -> None:
    found = place()
    sending.devnet.rpc("devnet_reorg", 3, True) if not sending.devnet.is_anvil else sending.devnet.reorganise(
        3
    )
    work(8)
    address = TaskOrder.objects.get().task_address
    response = provider.answer(address, TOKEN)
    work()
    assert api(buyer).post(f"/chain/responses/{response}/confirm/").status_code == 200
    work()
    order = TaskOrder.objects.get(pk=found["order"]["id"])
    assert (order.status, money_of(buyer)) == ("finished", (9, 0))


@pytest.mark.parametrize("at", range(1, 25, 2))
@pytest.mark.parametrize("after", [False, True])
def test_whoever_is_killed_at_whatever_moment_nothing_is_lost_or_done_twice(
    sending: Sending,
    provider: Provider,
    api: Any,
    buyer: Any,
    work: Any,
    monkeypatch: Any,
    at: int,
    after: bool,
) -> None:
    source = provider.publish(method=1)
    work(1)
    said = {"source": source, "function_name": "chat", "data": {}, "payment": "1"}
    assert api(buyer).post(PATH, said).status_code == 201
    with failing_node(monkeypatch, at=at, after=after), suppress(Killed):
        for _ in range(8):
            one_round(sending)
    sending.now += timedelta(seconds=120)
    work(8)
    order = TaskOrder.objects.get()
    assert order.status == "published"
    provider.answer(order.task_address, TOKEN)
    work()
    order.refresh_from_db()
    assert (order.status, money_of(buyer), free()) == ("finished", (9, 0), 0)
    assert provider.in_vault(provider.devnet.bob.address) == TOKEN
    assert provider.in_vault(sending.operator) == 0
    assert len(sending.devnet.contract("SOURCE", source).functions.getTasks(0, 9).call()) == 1


def test_a_source_is_published(sending: Sending, api: Any, bob: Any, work: Any) -> None:
    said = {"name": "mine", "cpu": "https://example.com/compose.yml", "delivery_method": "FIRST_RESPONSE"}
    reply = api(bob).post("/chain/sources/", said)
    assert reply.status_code == 201
    work()
    found = api(bob).get(f"/chain/sources/{reply.json()['order']['id']}/").json()
    assert (found["status"], found["delivery_method"], found["client"]) == (
        "active", "FIRST_RESPONSE", sending.operator,
    )  # fmt: skip
    assert found["metadata_url"] == reply.json()["metadata_url"]
    assert SourceOrder.objects.get().source_address == found["address"] == Source.objects.get().address
    assert Transaction.objects.get().status == "confirmed"
