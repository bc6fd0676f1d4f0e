"""The hot path's way into the ledger: many rows, one transaction, other processes at the same accounts."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import F

from clients import ledger, refunds
from clients.models import AccountKind, Allowance, Client, Hold, Stripe, Transfer, TransferKind
from marketplace.groupcommit import GroupCommit, Statement
from tests.clients import ledger_books

LIMITED = Statement(
    "test_limited",
    "SELECT reference, code, details FROM ledger_hold($1)",
    answers="reference",
    locks="client_id",
)


@pytest.fixture
def people(transactional_db: None) -> Iterator[tuple[Client, Client]]:
    """Alice with 1,000 units, and bob."""
    ledger_books.not_at_the_end_of_a_minute(spare_s=4)
    alice, bob = (
        Client.objects.create_user(username=name, email=f"{name}@x.de") for name in ("alice", "bob")
    )
    ledger.grant(client_id=alice.pk, amount=1000, reference="g", reason="", by_id=None)
    yield alice, bob
    assert ledger_books.wrong() == []


def run(statement: Statement, rows: list[dict[str, Any]]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement.sql.replace("$1", "%s"), [json.dumps(rows)])


def held(client: Client, reference: str, amount: int, tokens: int = 0) -> dict[str, Any]:
    return {
        "reference": reference, "client_id": client.pk, "api_key_id": None, "amount": str(amount), "tokens": tokens
    }  # fmt: skip


def settled(
    client: Client,
    payee: Client,
    reference: str,
    captured: int,
    *,
    fee: int = 0,
    tokens: int = 0,
    stripe: int = 7,
) -> dict[str, Any]:
    return {
        "reference": reference, "client_id": client.pk, "captured": str(captured), "fee": str(fee),
        "payee": ledger.account(payee.pk, AccountKind.EARNED).pk, "fees": ledger.account(None, AccountKind.FEES).pk,
        "kind": "inference", "tokens": tokens, "stripe": stripe,
    }  # fmt: skip


def numbers(client: Client, kind: AccountKind = AccountKind.SPENDABLE) -> tuple[int, int]:
    owned = ledger.account(client.pk, kind)
    return ledger.balances([owned])[owned.pk]


def commit(*parts: tuple[Statement, dict[str, Any]]) -> Any:
    """Submit one write, as a web process does."""

    async def submit() -> Any:
        commits = GroupCommit((ledger.SETTLE, ledger.HOLD, LIMITED), lock=ledger.LOCK)
        commits.start()
        try:
            return await commits.submit(*parts)
        finally:
            await commits.stop()

    return asyncio.run(submit())


def beside(call: Callable[[], Any]) -> threading.Thread:
    """In a thread, with a connection of its own; it has begun to wait when this returns."""

    def work() -> None:
        call()
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(1.0)
    assert thread.is_alive(), "it did not wait"
    return thread


def test_a_batch_may_come_twice(people: tuple[Client, Client]) -> None:
    alice, bob = people
    rows = [held(alice, f"h:{n}", 100) for n in range(3)]
    ends = [settled(alice, bob, f"h:{n}", 60, fee=6) for n in range(3)]
    for _ in range(2):
        run(ledger.HOLD, rows)
    assert numbers(alice) == (1000, 300)
    for _ in range(2):
        run(ledger.SETTLE, ends)
    assert (numbers(alice), numbers(bob, AccountKind.EARNED)) == ((820, 0), (162, 0))
    assert Hold.objects.count() == 0


def test_a_reference_that_is_said_twice_in_one_batch_is_taken_once(people: tuple[Client, Client]) -> None:
    alice, bob = people
    run(ledger.HOLD, [held(alice, "h:1", 100), held(alice, "h:1", 100), held(alice, "h:2", 100)])
    assert numbers(alice) == (1000, 200)
    run(ledger.SETTLE, [settled(alice, bob, "h:1", 0), settled(alice, bob, "h:1", 0)])
    assert numbers(alice) == (1000, 100)
    run(ledger.SETTLE, [settled(alice, bob, "h:2", 60), settled(alice, bob, "h:2", 60)])
    assert numbers(alice) == (940, 0)


def test_nothing_taken_means_no_fee(people: tuple[Client, Client]) -> None:
    alice, bob = people
    run(ledger.HOLD, [held(alice, "h:1", 100)])
    run(ledger.SETTLE, [settled(alice, bob, "h:1", 0, fee=5)])
    assert not Stripe.objects.exists()
    assert not Transfer.objects.filter(kind=TransferKind.INFERENCE).exists()


def test_what_was_taken_of_a_hold_before_is_not_freed_again(people: tuple[Client, Client]) -> None:
    alice, bob = people
    run(ledger.HOLD, [held(alice, "h:1", 100)])
    ledger.capture(
        reference="h:1", amount=30, transfer_reference="h:1:1", payee_id=bob.pk, kind=TransferKind.ALLOCATION
    )
    run(ledger.SETTLE, [settled(alice, bob, "h:1", 70)])
    assert (numbers(alice), numbers(bob, AccountKind.EARNED)) == ((900, 0), (100, 0))


def test_more_than_there_is_makes_no_hold_at_all(people: tuple[Client, Client]) -> None:
    alice, _ = people
    run(ledger.HOLD, [held(alice, "h:1", 600), held(alice, "h:2", 600)])
    assert numbers(alice) == (1000, 0)


def test_an_account_with_limits_is_not_held_from_quickly(people: tuple[Client, Client]) -> None:
    alice, _ = people
    Allowance.objects.create(client=alice, requests_per_minute=1)
    run(ledger.HOLD, [held(alice, "h:1", 1)])
    assert not Hold.objects.exists()


def test_processes_credit_stripes_of_their_own(people: tuple[Client, Client]) -> None:
    alice, bob = people
    for number in range(3):
        run(ledger.HOLD, [held(alice, f"h:{number}", 100)])
        run(ledger.SETTLE, [settled(alice, bob, f"h:{number}", 60, fee=6, stripe=number)])
    assert Stripe.objects.filter(account__client=bob).count() == 3
    assert numbers(bob, AccountKind.EARNED) == (162, 0)


def test_two_processes_do_not_hold_the_same_money(people: tuple[Client, Client]) -> None:
    alice, _ = people
    with transaction.atomic():
        run(ledger.HOLD, [held(alice, "h:1", 600)])
        other = beside(lambda: commit((ledger.HOLD, held(alice, "h:2", 600))))
    other.join(10)
    assert numbers(alice) == (1000, 600)


def test_limits_that_are_set_meanwhile_are_seen(people: tuple[Client, Client]) -> None:
    alice, _ = people
    with transaction.atomic():
        Allowance.objects.create(client=alice, requests_per_minute=0)
        other = beside(lambda: commit((ledger.HOLD, held(alice, "h:1", 1))))
    other.join(10)
    assert not Hold.objects.exists()


def test_what_was_not_used_in_the_last_minute_is_not_given_back_to_this_one(
    people: tuple[Client, Client],
) -> None:
    """Another process begins the minute while the settlement waits for the account."""
    alice, bob = people
    allowance = Allowance.objects.create(client=alice, tokens_per_minute=100, budget_day=100)
    ledger.hold(reference="h:old", client_id=alice.pk, amount=80, tokens=80)
    day = timedelta(days=1)
    Allowance.objects.filter(pk=allowance.pk).update(
        minute=F("minute") - day, day=allowance_day(allowance) - day
    )
    Hold.objects.update(created_at=F("created_at") - day)
    with transaction.atomic():
        ledger.hold(reference="h:new", client_id=alice.pk, amount=60, tokens=60)
        other = beside(lambda: commit((ledger.SETTLE, settled(alice, bob, "h:old", 10, tokens=10))))
    other.join(10)
    allowance.refresh_from_db()
    assert (allowance.minute_tokens, int(allowance.day_used), allowance.running) == (60, 60, 1)


def test_limits_that_are_set_while_a_settlement_waits_count_its_end(people: tuple[Client, Client]) -> None:
    alice, bob = people
    run(ledger.HOLD, [held(alice, "h:1", 100)])
    with transaction.atomic():
        ledger.lock([alice.pk])
        allowance = Allowance.objects.create(client=alice, concurrency=1, running=1, total_used=100)
        other = beside(lambda: commit((ledger.SETTLE, settled(alice, bob, "h:1", 60))))
    other.join(10)
    allowance.refresh_from_db()
    assert (allowance.running, int(allowance.total_used)) == (0, 60)


def allowance_day(allowance: Allowance) -> Any:
    allowance.refresh_from_db()
    return allowance.day


def test_an_end_does_not_touch_a_hold_that_came_while_it_waited(people: tuple[Client, Client]) -> None:
    """Its account would not be locked, so that two of them could take the same part at the same time."""
    alice, bob = people
    ledger.grant(client_id=bob.pk, amount=10, reference="g:bob", reason="", by_id=None)
    ledger.hold(reference="old", client_id=bob.pk, amount=10)
    ended: list[int] = []
    with transaction.atomic():
        ledger.lock([bob.pk])
        thread = beside(lambda: ended.append(ledger.release_all(["old", "new"])))
        ledger.hold(reference="new", client_id=alice.pk, amount=100)
    thread.join()
    assert ended == [1]
    assert (numbers(alice), numbers(bob)) == ((1000, 100), (10, 0))


def test_a_settlement_of_what_is_not_held_yet_takes_nothing(people: tuple[Client, Client]) -> None:
    """Not even where the hold comes in the very moment after it was looked for, and is too small."""
    alice, bob = people

    seen: list[str] = []

    def make_hold() -> None:
        ledger.hold(reference="late", client_id=alice.pk, amount=5)
        connections.close_all()

    def then_hold(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        result = execute(sql, *rest)
        if "clients_hold" in sql and not seen:
            seen.append(sql)
            thread = threading.Thread(target=make_hold)
            thread.start()
            thread.join()
        return result

    with connection.execute_wrapper(then_hold):
        took = ledger.settle(reference="late", amount=20, payee_id=bob.pk, kind=TransferKind.INFERENCE)
    assert (took, bool(seen)) == (False, True)
    assert numbers(alice) == (1000, 5)


def test_several_payments_at_once_and_a_refund_do_not_wait_for_each_other_in_a_circle(
    people: tuple[Client, Client],
) -> None:
    alice, bob = people
    carol, operator = (
        Client.objects.create_user(username=name, email=f"{name}@x.de", is_staff=name == "op")
        for name in ("carol", "op")
    )
    ledger.hold(reference="old", client_id=alice.pk, amount=100)
    ledger.settle(reference="old", amount=100, fee=10, payee_id=carol.pk, kind=TransferKind.INFERENCE)
    for number in (1, 2):
        ledger.hold(reference=f"lease:{number}", client_id=alice.pk, amount=100, tokens=None)
    original = Transfer.objects.get(reference="old")
    with transaction.atomic():
        ledger.lock([alice.pk], payees=[carol.pk, bob.pk])
        pay_part("lease:1", bob)
        thread = beside(lambda: refunds.reverse(original, by=operator, reason="r"))
        pay_part("lease:2", carol)
    thread.join()
    assert original.reversals.count() == 1
    assert numbers(bob, AccountKind.EARNED) == (9, 0)


def pay_part(reference: str, payee: Client) -> None:
    ledger.capture(
        reference=reference, amount=10, fee=1, transfer_reference=f"{reference}:1", payee_id=payee.pk,
        kind=TransferKind.ALLOCATION,
    )  # fmt: skip
