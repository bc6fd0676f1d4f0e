"""What a chain has paid for our answer goes to whoever did the work, once, when it is final."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections

from chain import incomes
from chain.fulfilment import finding, paying
from chain.models import (
    Fulfilment,
    FulfilmentStatus,
    Network,
    Purpose,
    Response,
    ResponseStatus,
    Task,
    Transaction,
)
from clients import books, ledger, terms
from clients.models import AccountKind, Client, Transfer, TransferKind
from gpus.models import Node
from inference import earnings
from inference.earnings import Scope
from marketplace.money import TOKEN
from tests.chain import fulfilled
from tests.chain.fulfilled import NOW, PROVIDER, only

pytestmark = pytest.mark.django_db
Status = FulfilmentStatus


@pytest.fixture(autouse=True)
def fee(operator: Client) -> None:
    terms.change(by=operator, reason="test", fee_bps=1000)


def answered(
    network: Network,
    provider: Client | None,
    *,
    status: Status = Status.ANSWERED,
    node: Node | None = None,
    **fields: Any,
) -> tuple[Fulfilment, Task]:
    task = fulfilled.task(fulfilled.source(network), **fields)
    sent = Transaction.objects.create(
        network=network,
        sender=PROVIDER,
        purpose=Purpose.RESPONSE,
        reference=f"respond:{task.pk}",
        to=PROVIDER,
    )
    found = Fulfilment.objects.create(
        network=network, task_address=task.address, source_address=task.source.address, answer=sent,
        published_transaction=task.transaction_hash, payment=task.payment, expires_at=NOW + timedelta(hours=1),
        status=status, provider=provider, node=node,
    )  # fmt: skip
    return found, task


def pay(network: Network) -> int:
    return paying.sweep(network, now=NOW)


def money_of(client: Client | None, kind: AccountKind) -> int:
    return ledger.balance(ledger.account(client and client.pk, kind))


def test_the_nodes_owner_gets_the_payment_less_the_fee(network: Network, bob: Client) -> None:
    found, task = answered(network, bob)
    response = fulfilled.responded(task, confirmed_block=98)
    assert pay(network) == 1
    found.refresh_from_db()
    assert (found.status, found.paid, found.fee) == (Status.CONFIRMED, TOKEN, TOKEN // 10)
    assert found.response_address == response.address
    assert money_of(bob, AccountKind.EARNED) == TOKEN - TOKEN // 10
    assert money_of(None, AccountKind.FEES) == TOKEN // 10
    assert money_of(None, AccountKind.OUTSIDE) == -TOKEN
    moved = Transfer.objects.get()
    assert (moved.kind, moved.reference, moved.amount) == (
        TransferKind.ONCHAIN,
        f"fulfilment:{found.pk}",
        TOKEN,
    )


def test_it_is_paid_once(network: Network, bob: Client) -> None:
    found, task = answered(network, bob)
    response = fulfilled.responded(task, confirmed_block=98)
    assert pay(network) == 1
    assert pay(network) == 0
    assert not paying.pay(found.pk, response.pk, now=NOW)
    assert money_of(bob, AccountKind.EARNED) == TOKEN - TOKEN // 10


def test_what_was_asked_for_less_is_paid_less(network: Network, bob: Client) -> None:
    _, task = answered(network, bob)
    fulfilled.responded(task, confirmed_block=98, payment=TOKEN // 2)
    pay(network)
    assert only(Status.CONFIRMED).paid == TOKEN // 2


def test_a_confirmation_that_is_not_final_pays_nothing(network: Network, bob: Client) -> None:
    answered_, task = answered(network, bob)
    fulfilled.responded(task, confirmed_block=99)
    assert pay(network) == 0
    # Its block is replaced by one without it.
    Response.objects.update(status=ResponseStatus.SUBMITTED, confirmed_block=None)
    Network.objects.update(head_block=110, cursor_block=110)
    network.refresh_from_db()
    assert pay(network) == 0
    assert not Transfer.objects.exists()
    answered_.refresh_from_db()
    assert answered_.status == Status.ANSWERED
    # And then it is confirmed once more.
    Response.objects.update(status=ResponseStatus.CONFIRMED, confirmed_block=105)
    assert pay(network) == 1


def test_blocks_that_are_replaced_while_it_is_being_paid_stop_it(network: Network, bob: Client) -> None:
    found, task = answered(network, bob)
    response = fulfilled.responded(task, confirmed_block=98)
    Network.objects.update(head_block=99, cursor_block=97)
    assert not paying.pay(found.pk, response.pk, now=NOW)
    assert not Transfer.objects.exists()


def test_somebody_elses_confirmed_answer_pays_nobody_here(network: Network, bob: Client) -> None:
    _, task = answered(network, bob)
    fulfilled.responded(task)
    fulfilled.responded(task, provider=fulfilled.OPERATOR, confirmed_block=98)
    assert pay(network) == 0


def test_another_task_at_the_same_address_pays_nobody_here(network: Network, bob: Client) -> None:
    _, task = answered(network, bob)
    Task.objects.update(transaction_hash=fulfilled.digest())
    fulfilled.responded(task, confirmed_block=98)
    assert pay(network) == 0


def test_what_was_done_on_our_own_machines_goes_to_the_fees(network: Network) -> None:
    _, task = answered(network, None)
    fulfilled.responded(task, confirmed_block=98)
    assert pay(network) == 1
    assert (only().paid, only().fee) == (TOKEN, 0)
    assert money_of(None, AccountKind.FEES) == TOKEN


def test_a_task_that_pays_nothing_is_confirmed_without_a_transfer(network: Network, bob: Client) -> None:
    _, task = answered(network, bob, payment=0)
    fulfilled.responded(task, confirmed_block=98)
    assert pay(network) == 1
    assert only(Status.CONFIRMED).paid == 0
    assert not Transfer.objects.exists()


@pytest.mark.parametrize("status", [Status.ANSWERING, Status.EXPIRED, Status.LOST, Status.FAILED])
def test_what_was_given_up_and_confirmed_all_the_same_is_paid(
    network: Network, bob: Client, status: Status
) -> None:
    _, task = answered(network, bob, status=status)
    fulfilled.responded(task, confirmed_block=98)
    assert pay(network) == 1
    assert money_of(bob, AccountKind.EARNED) == TOKEN - TOKEN // 10


def test_what_nobody_had_confirmed_for_very_long_is_paid_when_somebody_does(
    network: Network, bob: Client
) -> None:
    _, task = answered(network, bob)
    finding.follow(network, now=NOW + timedelta(days=8))
    assert only(Status.LOST).code == "never_confirmed"
    fulfilled.responded(task, confirmed_block=98)
    finding.follow(network, now=NOW + timedelta(days=9))
    assert pay(network) == 1
    assert (only(Status.CONFIRMED).paid, only().code) == (TOKEN, "")
    assert money_of(bob, AccountKind.EARNED) == TOKEN - TOKEN // 10


def test_one_that_cannot_be_paid_does_not_hold_the_others_up(
    network: Network, bob: Client, alice: Client, caplog: pytest.LogCaptureFixture
) -> None:
    odd, task = answered(network, bob)
    fulfilled.responded(task, confirmed_block=98)
    ledger.grant(client_id=alice.pk, amount=TOKEN, reference=odd.reference, reason="x", by_id=None)
    _, other = answered(network, bob)
    fulfilled.responded(other, confirmed_block=98)
    assert pay(network) == 1
    odd.refresh_from_db()
    assert odd.status == Status.ANSWERED
    assert pay(network) == 0
    assert caplog.text.count(f"Fulfilment {odd.pk} cannot be paid") == 1


@pytest.mark.django_db(transaction=True)
def test_of_many_at_the_same_moment_one_pays(network: Network, bob: Client) -> None:
    found, task = answered(network, bob)
    response = fulfilled.responded(task, confirmed_block=98)

    def one(_number: int) -> bool:
        try:
            return paying.pay(found.pk, response.pk, now=NOW)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(one, range(6))) == 1
    assert money_of(bob, AccountKind.EARNED) == TOKEN - TOKEN // 10


def test_the_books_agree(network: Network, bob: Client) -> None:
    _, task = answered(network, bob)
    fulfilled.responded(task, confirmed_block=98)
    _, own = answered(network, None)
    fulfilled.responded(own, confirmed_block=98)
    _, free = answered(network, bob, payment=0)
    fulfilled.responded(free, confirmed_block=98)
    pay(network)
    assert wrong() == []


@pytest.mark.parametrize(
    "tampering", [{"paid": 5}, {"fee": 5}, {"provider": None}, {"status": "answered"}, {"status": "lost"}]
)
def test_the_books_find_every_tampering(network: Network, bob: Client, tampering: dict[str, Any]) -> None:
    _, task = answered(network, bob)
    fulfilled.responded(task, confirmed_block=98)
    pay(network)
    Fulfilment.objects.update(**tampering)
    assert wrong()


def wrong() -> list[Any]:
    found: list[Any] = []
    with connection.cursor() as cursor:
        for check in books.checks():
            if check.page == "chain_fulfilment":
                cursor.execute(check.sql)
                found += cursor.fetchall()
    return found


def test_reports_of_earnings_count_it(network: Network, bob: Client, add_node: Any) -> None:
    node = add_node("bobs")
    _, task = answered(network, bob, node=node)
    fulfilled.responded(task, confirmed_block=98)
    pay(network)
    now = datetime.now(UTC)
    scope = Scope.of(provider_id=bob.pk, since=now - timedelta(hours=1), until=now + timedelta(hours=1))
    (income,) = incomes.of(scope)
    assert (income.provider_id, income.node_id, income.node_name, income.amount) == (
        bob.pk, node.pk, "bobs", TOKEN - TOKEN // 10,
    )  # fmt: skip
    total = earnings.report(scope, group="node", now=now).total
    assert (total.task_income, total.training_income, total.net) == (
        TOKEN - TOKEN // 10,
        0,
        total.task_income,
    )
    assert not list(incomes.of(Scope.of(provider_id=bob.pk + 1, since=scope.since, until=scope.until)))
