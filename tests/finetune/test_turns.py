"""Whose turn it is, and where: the queue of trainings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from clients import terms
from finetune import attempts, places
from finetune.models import Attempt, Where
from gpus.models import Allocation, Heartbeat, Lease, Node, Price
from gpus.talents import Training
from marketplace.money import TOKEN
from tests.finetune import made

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _told(operator: Any, settings: Any) -> None:
    terms.change(by=operator, reason="Training costs.", fee_bps=500, default_training_price=1000 * TOKEN)
    settings.TRAINING_SLOTS = 1


def trains(node: Node, *, price: int | None = None, slots: int = 1, **fields: Any) -> Node:
    """Let a node offer training, and be there; `price` per million tokens, in tokens."""
    asked = None
    if price is not None:
        asked = Price.objects.create(node=node, owner=node.owner, training_price=price * TOKEN)
    Node.objects.filter(pk=node.pk).update(
        training=Training(slots=slots).to_json(),
        training_price=asked,
        delivery="push",
        push_url="http://x",
        **fields,
    )
    Heartbeat.objects.update_or_create(node=node, defaults={"at": timezone.now()})
    node.refresh_from_db()
    return node


def take(*, here: bool = True) -> Attempt | None:
    return attempts.take(worker="tests", here_is_free=here, now=timezone.now())


def end(attempt: Attempt) -> None:
    attempts.fail(attempt.token, code="bad", reason="No.", retry=False, now=timezone.now())


def test_owners_take_turns(alice: Any, bob: Any, charlie: Any) -> None:
    for person, count in ((alice, 10), (bob, 5), (charlie, 5)):
        for _ in range(count):
            made.job(person)
    order = []
    while (attempt := take()) is not None:
        order.append(attempt.job.owner.username)
        end(attempt)
    assert order == ["alice", "bob", "charlie"] * 5 + ["alice"] * 5


def test_who_has_something_at_work_waits_for_those_who_have_nothing(alice: Any, bob: Any) -> None:
    for person in (alice, alice, bob):
        made.job(person)
    taken = [take() for _ in range(3)]
    assert [each.job.owner.username for each in taken if each] == ["alice", "bob", "alice"]


def test_jobs_that_find_no_place_stand_in_nobodys_way(alice: Any, bob: Any) -> None:
    for _ in range(60):
        made.job(alice, where=Where.NODES)
    job = made.job(bob)
    attempt = take()
    assert attempt is not None
    assert attempt.job == job
    assert alice.jobs.earliest("id").code == "no_place"


def test_a_job_is_taken_by_one_worker_only(alice: Any) -> None:
    made.job(alice)
    assert take() is not None
    assert take() is None


def test_a_job_waits_until_its_time(alice: Any) -> None:
    job = made.job(alice)
    job.not_before = timezone.now() + timedelta(minutes=1)
    job.save()
    assert take() is None


# --- Places -----------------------------------------------------------------------------------------------


def place_of(attempt: Attempt | None) -> str | None:
    """The node's name, "here", or None for no place."""
    if attempt is None:
        return None
    return attempt.node.name if attempt.node is not None else "here"


def test_the_cheapest_node_comes_first_and_here_last(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "dear"), price=900)
    trains(made.node(bob, "cheap"), price=800)
    for _ in range(3):
        made.job(alice)
    assert [place_of(take()) for _ in range(4)] == ["cheap", "dear", "here", None]


def test_no_place_may_ask_more_than_was_agreed(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "greedy"), price=10_000)
    job = made.job(alice, where=Where.NODES, price=3 * TOKEN)
    assert take() is None
    job.refresh_from_db()
    assert "more than was agreed" in job.reason


@pytest.mark.parametrize(
    ("where", "expected"),
    [(Where.HERE, "here"), (Where.NODES, "plain"), (Where.TRUSTED, "trusted"), (Where.ANY, "plain")],
)
def test_the_owner_says_where(alice: Any, bob: Any, where: Where, expected: str) -> None:
    trains(made.node(bob, "plain"), price=1)
    trains(made.node(bob, "trusted"), price=5, trusted=True)
    made.job(alice, where=where)
    assert place_of(take()) == expected


def test_where_only_trusted_nodes_may_none_other_is_taken(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "plain"), price=1)
    job = made.job(alice, where=Where.TRUSTED)
    assert take() is None
    job.refresh_from_db()
    assert "not trusted" in job.reason


def test_an_allocation_is_its_owners_alone_and_costs_nothing_more(alice: Any, bob: Any, charlie: Any) -> None:
    node = trains(made.node(bob, "reserved"), price=5)
    now = timezone.now()
    later = now + timedelta(hours=1)
    allocation = Allocation.objects.create(
        client=alice, task_type="training", gpu_count=1, created_at=now, expires_at=later
    )
    Lease.objects.create(
        node=node, allocation=allocation, node_name=node.name, provider=bob, gpus=1, hour_price=TOKEN, fee_bps=0,
        started_at=now, paid_until=now, expires_at=later,
    )  # fmt: skip
    made.job(charlie, where=Where.NODES)
    made.job(charlie, where=Where.ALLOCATION, allocation_id=allocation.pk, price=0)
    assert take() is None
    job = made.job(alice, where=Where.ALLOCATION, allocation_id=allocation.pk, price=0)
    attempt = take()
    assert place_of(attempt) == "reserved"
    assert attempt is not None
    assert attempt.job == job


@pytest.mark.parametrize("state", ["suspended_at", "drain_requested_at", "unreachable_since"])
def test_a_node_that_takes_no_work_trains_nothing(alice: Any, bob: Any, state: str) -> None:
    trains(made.node(bob, "away"), price=1, **{state: timezone.now()})
    made.job(alice, where=Where.NODES)
    assert take() is None


def test_where_a_run_has_failed_comes_last(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "bad"), price=1)
    trains(made.node(bob, "good"), price=2)
    job = made.job(alice, where=Where.NODES)
    first = take()
    assert place_of(first) == "bad"
    assert first is not None
    attempts.fail(first.token, code="bad_result", reason="No.", retry=True, now=timezone.now())
    job.refresh_from_db()
    assert job.not_before is not None
    job.not_before = None
    job.save()
    assert place_of(take()) == "good"


def test_a_node_trains_as_many_at_once_as_it_says(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "two"), price=1, slots=2)
    for _ in range(3):
        made.job(alice, where=Where.NODES)
    assert [place_of(take()) for _ in range(3)] == ["two", "two", None]


def test_a_node_that_hands_back_comes_last(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "shirker"), price=1)
    trains(made.node(bob, "good"), price=2)
    job = made.job(alice, where=Where.NODES)
    first = take()
    assert place_of(first) == "shirker"
    assert first is not None
    attempts.stopped(first.token, now=timezone.now())
    assert place_of(take()) == "good"
    assert job.attempts.count() == 2


def test_a_node_where_a_run_is_lost_often_is_not_waited_with(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "silent"), price=1)
    busy = trains(made.node(bob, "good"), price=2)
    other = made.begin(made.job(alice, where=Where.NODES), busy)
    job = made.job(alice, where=Where.NODES)
    for _ in range(3):
        lost = take()
        assert place_of(lost) == "silent", "the other one is busy"
        assert lost is not None
        attempts.lose(lost.token, code="node_lost", reason="Silent.", now=timezone.now())
    assert take() is None
    end(other)
    assert place_of(take()) == "good"
    assert job.attempts.count() == 4


def test_a_job_stays_with_the_only_node_that_may_train_it(alice: Any, bob: Any) -> None:
    trains(made.node(bob, "shaky"), price=1)
    made.job(alice, where=Where.NODES)
    for _ in range(5):
        lost = take()
        assert place_of(lost) == "shaky"
        assert lost is not None
        attempts.lose(lost.token, code="node_lost", reason="Silent.", now=timezone.now())


def test_a_speed_that_no_node_can_have_stops_nobody(alice: Any, bob: Any) -> None:
    node = trains(made.node(bob, "liar"))
    Node.objects.filter(pk=node.pk).update(
        hour_price=Price.objects.create(node=node, owner=bob, hour_price=TOKEN)
    )
    done = made.begin(made.job(alice), node)
    said = [{"event": "progress", "tokens_per_s": 5e-324}]
    attempts.hear(done.token, said, first_number=1, now=timezone.now())
    Attempt.objects.filter(pk=done.pk).update(outcome="succeeded", ended_at=timezone.now())
    made.job(alice)
    assert take() is not None


def test_a_job_that_cannot_be_placed_stops_nobody(
    alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, other = made.job(alice), made.job(bob)
    choose = places.choose

    def fail(job: Any, *args: Any, **more: Any) -> Any:
        if job == odd:
            raise OverflowError
        return choose(job, *args, **more)

    monkeypatch.setattr(places, "choose", fail)
    attempt = take()
    assert attempt is not None
    assert attempt.job == other
    assert take() is None
    odd.refresh_from_db()
    assert (odd.status, "fault of ours" in odd.reason) == ("pending", True)
