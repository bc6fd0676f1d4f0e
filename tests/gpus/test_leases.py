"""How reserved nodes are paid, to the second, and how a reservation ends by itself."""

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, connections

from clients import ledger, terms
from clients.models import AccountKind, Hold, Transfer
from gpus import allocations, leases, nodes
from gpus.candidates import Wanted
from gpus.models import Allocation, Gateway, Heartbeat, Lease, Node
from marketplace import money
from marketplace.money import TOKEN

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = 3600


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def alive(now: datetime) -> None:
    """Every node has just called, and every gateway lives."""
    Node.objects.update(state="online")
    Heartbeat.objects.update(at=now)
    Gateway.objects.update(seen_at=now)


def owns(client: Any, kind: AccountKind = AccountKind.SPENDABLE) -> int:
    return ledger.balance(ledger.account(client and client.pk, kind))


def held(client: Any) -> int:
    account = ledger.account(client.pk, AccountKind.SPENDABLE)
    return ledger.balances([account])[account.pk][1]


@pytest.fixture
def rich(alice: Any) -> Any:
    ledger.grant(client_id=alice.pk, amount=1000 * TOKEN, reference="grant:t", reason="tests", by_id=None)
    return alice


@pytest.fixture
def add(bob: Any, join: Any, connect: Any) -> Any:
    """`add("m1", price="3.6")` is a node of bob's that is online."""

    def online(name: str, price: str = "3.6", **said: Any) -> Node:
        node: Node = join(bob, "toy", machine_id=name, name=name, hour_price=money.parse(price), **said).node
        connect(node)
        return node

    return online


@pytest.fixture
def lease(rich: Any, add: Any, operator: Any) -> Lease:
    """Alice has a node for an hour, at an awkward price and fee."""
    terms.change(by=operator, reason="tests", fee_bps=333)
    add("m1", price="1.000000000000000001")
    made = allocate(rich)
    return Lease.objects.get(allocation=made)


def allocate(client: Any, gpus: int = 1, seconds: int = HOUR, **more: Any) -> Allocation:
    wanted = Wanted("training", gpus, seconds, **more)
    return allocations.allocate(client_id=client.pk, wanted=wanted, now=NOW)


def test_the_whole_price_is_held_and_nothing_charged_yet(rich: Any, lease: Lease) -> None:
    assert held(rich) == TOKEN + 1
    assert owns(rich) == 1000 * TOKEN
    assert lease.charged == 0


def test_it_is_paid_as_time_passes_and_in_the_end_exactly_its_price(
    rich: Any, bob: Any, lease: Lease
) -> None:
    for second in [31.7, 62.2, 100.9, *range(131, HOUR, 97), HOUR - 0.5, HOUR + 3]:
        alive(at(second))
        leases.sweep(now=at(second))
        lease.refresh_from_db()
        if second < HOUR:
            assert lease.charged == money.for_seconds(lease.hour_price, int(second))
            assert lease.paid_until == at(int(second))

    paid = Transfer.objects.filter(kind="allocation")
    assert lease.end_code == "expired"
    assert sum(row.amount for row in paid) == lease.charged == TOKEN + 1
    assert sum(row.fee for row in paid) == lease.fee == money.share(TOKEN + 1, 333)
    assert owns(bob, AccountKind.EARNED) == TOKEN + 1 - lease.fee
    assert owns(None, AccountKind.FEES) == lease.fee
    assert owns(rich) == 1000 * TOKEN - TOKEN - 1
    assert held(rich) == 0
    assert paid.count() > 30
    made = Allocation.objects.get()
    assert (made.ended_at, made.end_reason) == (at(HOUR + 3), "Its time is over.")


def test_it_is_not_paid_more_often_than_every_half_minute(lease: Lease) -> None:
    alive(at(29))
    assert leases.sweep(now=at(29)) == 0
    assert not Transfer.objects.filter(kind="allocation").exists()


def test_while_it_runs_it_is_paid_only_up_to_the_last_sign_of_life(lease: Lease) -> None:
    alive(at(90))
    Heartbeat.objects.update(at=at(70))
    leases.sweep(now=at(90))
    lease.refresh_from_db()
    assert lease.paid_until == at(70)
    assert lease.charged == money.for_seconds(lease.hour_price, 70)


def test_released_early_the_rest_comes_back_to_the_second(rich: Any, lease: Lease) -> None:
    alive(at(59))
    leases.sweep(now=at(60))
    alive(at(99))
    ended = allocations.release(allocation_id=lease.allocation_id, client_id=rich.pk, now=at(100.2))

    lease.refresh_from_db()
    assert lease.charged == money.for_seconds(lease.hour_price, 101)
    assert owns(rich) == 1000 * TOKEN - lease.charged
    assert held(rich) == 0
    assert (ended.ended_at, lease.end_code) == (at(100.2), "released")
    again = allocations.release(allocation_id=lease.allocation_id, client_id=rich.pk, now=at(200))
    assert again.ended_at == at(100.2)


def test_released_at_once_it_costs_nothing(rich: Any, lease: Lease) -> None:
    allocations.release(allocation_id=lease.allocation_id, client_id=rich.pk, now=NOW)
    assert (owns(rich), held(rich)) == (1000 * TOKEN, 0)
    assert Hold.objects.get(pk=lease.reference).outcome == "released"


def test_a_node_that_falls_silent_is_paid_up_to_its_last_heartbeat(rich: Any, lease: Lease) -> None:
    alive(at(40.5))
    for second in (45, 75, 84, 86):
        leases.sweep(now=at(second))
    lease.refresh_from_db()
    assert (lease.end_code, lease.ended_at) == ("silent", at(86))
    assert lease.charged == money.for_seconds(lease.hour_price, 41)
    assert owns(rich) == 1000 * TOKEN - lease.charged
    assert held(rich) == 0
    assert "No node is left" in Allocation.objects.get().end_reason


def test_a_node_out_of_reach_may_come_back_in_time(lease: Lease) -> None:
    alive(at(100))
    Node.objects.update(
        unreachable_since=at(90), unreachable_why="refused", state="unreachable", state_since=at(90)
    )
    leases.sweep(now=at(100))
    lease.refresh_from_db()
    assert (lease.ended_at, lease.paid_until) == (None, at(90))

    Node.objects.update(unreachable_since=None, state="online", state_since=at(110))
    alive(at(120))
    leases.sweep(now=at(120))
    lease.refresh_from_db()
    assert (lease.ended_at, lease.paid_until) == (None, at(120))


def test_a_node_out_of_reach_for_long_is_paid_up_to_when_it_was_lost(lease: Lease) -> None:
    alive(at(151))
    Node.objects.update(
        unreachable_since=at(90), unreachable_why="refused", state="unreachable", state_since=at(90)
    )
    leases.sweep(now=at(151))
    lease.refresh_from_db()
    assert lease.end_code == "unreachable"
    assert lease.charged == money.for_seconds(lease.hour_price, 90)


def test_a_suspended_node_is_let_go_at_once(lease: Lease, operator: Any) -> None:
    alive(at(50))
    nodes.suspend(node_id=lease.node_id, reason="it mines", by=operator, now=at(50))
    leases.sweep(now=at(53))
    lease.refresh_from_db()
    assert lease.end_code == "suspended"
    assert lease.charged == money.for_seconds(lease.hour_price, 50)


def test_a_node_that_leaves_the_marketplace_ends_its_lease(
    rich: Any, lease: Lease, api: Any, bob: Any
) -> None:
    alive(at(50))
    nodes.deregister(node_id=lease.node_id, now=at(50))
    lease.refresh_from_db()
    assert (lease.end_code, lease.charged) == ("node_removed", money.for_seconds(lease.hour_price, 50))
    assert (owns(rich), held(rich)) == (1000 * TOKEN - lease.charged, 0)
    assert Allocation.objects.get().ended_at == at(50)


def test_a_node_whose_row_is_gone_is_paid_no_further(rich: Any, lease: Lease) -> None:
    Node.objects.filter(pk=lease.node_id).delete()
    leases.sweep(now=at(50))
    lease.refresh_from_db()
    assert (lease.end_code, lease.charged, held(rich)) == ("node_removed", 0, 0)


def test_an_allocation_goes_on_with_the_nodes_that_are_left(rich: Any, add: Any) -> None:
    one, two = add("m1"), add("m2")
    made = allocate(rich, gpus=2)
    nodes.deregister(node_id=one.pk, now=at(10))
    made.refresh_from_db()
    assert made.ended_at is None

    alive(at(HOUR + 1))
    leases.sweep(now=at(HOUR + 1))
    made.refresh_from_db()
    assert made.end_reason == "Its time is over."
    charged = dict(Lease.objects.values_list("node_id", "charged"))
    assert charged == {one.pk: money.parse("0.01"), two.pk: money.parse("3.6")}


def test_it_is_paid_for_all_of_its_time_when_the_sweep_comes_late(lease: Lease) -> None:
    alive(at(3 * HOUR))
    leases.sweep(now=at(3 * HOUR))
    lease.refresh_from_db()
    assert (lease.charged, lease.end_code) == (TOKEN + 1, "expired")


def test_a_node_that_died_after_its_time_was_over_is_paid_in_full(lease: Lease) -> None:
    alive(at(HOUR + 10))
    leases.sweep(now=at(2 * HOUR))
    lease.refresh_from_db()
    assert (lease.charged, lease.end_code) == (TOKEN + 1, "expired")


def test_a_free_node_needs_no_money(alice: Any, add: Any) -> None:
    add("m1", price="0")
    made = allocate(alice)
    alive(at(100))
    leases.sweep(now=at(100))
    allocations.release(allocation_id=made.pk, client_id=alice.pk, now=at(101))
    assert not Transfer.objects.exists()
    assert Lease.objects.get().end_code == "released"


def test_without_its_hold_a_lease_ends(rich: Any, lease: Lease) -> None:
    ledger.release(lease.reference)
    alive(at(60))
    leases.sweep(now=at(60))
    lease.refresh_from_db()
    assert (lease.end_code, lease.charged) == ("hold_ended", 0)


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_pay_once(rich: Any, lease: Lease) -> None:
    alive(at(60))
    _all_at_once(*[lambda: leases.sweep(now=at(60))] * 6)
    lease.refresh_from_db()
    assert Transfer.objects.filter(kind="allocation").count() == 1
    assert owns(rich) == 1000 * TOKEN - lease.charged
    assert lease.charged == money.for_seconds(lease.hour_price, 60)


@pytest.mark.django_db(transaction=True)
def test_release_expiry_and_departure_at_once_end_it_once(rich: Any, lease: Lease) -> None:
    alive(at(HOUR))
    _all_at_once(
        lambda: leases.sweep(now=at(HOUR)),
        lambda: allocations.release(allocation_id=lease.allocation_id, client_id=rich.pk, now=at(HOUR)),
        lambda: nodes.deregister(node_id=lease.node_id, now=at(HOUR)),
    )
    lease.refresh_from_db()
    assert lease.charged == TOKEN + 1
    assert (owns(rich), held(rich)) == (999 * TOKEN - 1, 0)
    assert Allocation.objects.get().ended_at == at(HOUR)


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_is_killed_leaves_nothing_half_paid(
    rich: Any, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive(at(60))

    class Killed(BaseException):
        pass

    def die(*_args: Any, **_more: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        # After the money has moved, before the lease says so.
        patch.setattr(Lease, "save", die)
        with pytest.raises(Killed):
            leases.sweep(now=at(60))
    assert not Transfer.objects.filter(kind="allocation").exists()
    leases.sweep(now=at(60))
    lease.refresh_from_db()
    assert lease.charged == sum(row.amount for row in Transfer.objects.filter(kind="allocation"))


@pytest.mark.django_db(transaction=True)
def test_many_clients_at_once_never_get_the_same_node(rich: Any, charlie: Any, add: Any) -> None:
    ledger.grant(client_id=charlie.pk, amount=1000 * TOKEN, reference="grant:c", reason="tests", by_id=None)
    for number in range(6):
        add(f"m{number}")
    made: list[UUID] = []

    def take(client: Any) -> None:
        made.append(allocate(client).pk)

    _all_at_once(*[lambda: take(rich)] * 3, *[lambda: take(charlie)] * 3)
    assert len(made) == 6
    assert Lease.objects.filter(ended_at=None).count() == 6
    assert Lease.objects.values("node_id").distinct().count() == 6


def _all_at_once(*calls: Any) -> None:
    failed: list[BaseException] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Any) -> None:
        try:
            barrier.wait(10)
            call()
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failed.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []


@pytest.mark.django_db(transaction=True)
def test_payments_of_two_allocations_do_not_wait_for_each_other_in_a_circle(
    rich: Any, bob: Any, charlie: Any, operator: Any, join: Any, connect: Any
) -> None:
    """Each has two nodes, of the same two providers in another order."""
    charlie.provider_status = "approved"
    charlie.save()
    for owner in (bob, charlie):
        ledger.account(owner.pk, AccountKind.EARNED)
    ledger.account(None, AccountKind.FEES)
    ledger.grant(client_id=operator.pk, amount=1000 * TOKEN, reference="g:2", reason="", by_id=None)
    for number, owner in enumerate((bob, charlie, charlie, bob)):
        name = f"n{number}"
        price = money.parse(str(1 + number))
        connect(join(owner, "toy", machine_id=name, name=name, hour_price=price).node)
    one, two = allocate(rich, 2), allocate(operator, 2)
    alive(at(100))
    meet, errors = threading.Barrier(2, timeout=2), list[Exception]()

    def meet_after_the_first(execute: Any, sql: str, *rest: Any) -> Any:
        result = execute(sql, *rest)
        if "ledger_settle" in sql:
            # Where it breaks, the other one waits for what is locked here, as it should.
            with contextlib.suppress(threading.BrokenBarrierError):
                meet.wait()
        return result

    def pay(allocation: Allocation) -> None:
        try:
            with connection.execute_wrapper(meet_after_the_first):
                leases.attend(allocation.pk, now=at(100))
        except DatabaseError as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=pay, args=[each]) for each in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert Lease.objects.filter(charged__gt=0).count() == 4


def test_what_goes_wrong_with_one_allocation_does_not_stop_the_others(
    rich: Any, add: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    for number in range(3):
        add(f"n{number}")
        made.append(allocate(rich))
    alive(at(100))
    broken = Lease.objects.get(allocation_id=min(each.pk for each in made))
    Hold.objects.filter(pk=broken.reference).update(amount=1)
    assert leases.sweep(now=at(100)) == 2
    assert set(Lease.objects.filter(charged__gt=0).values_list("pk")).isdisjoint({(broken.pk,)})
    assert Lease.objects.filter(charged__gt=0).count() == 2
    assert str(broken.allocation_id) in caplog.text
