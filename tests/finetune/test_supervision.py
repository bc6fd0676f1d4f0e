"""Trainings on nodes, from the side of whoever looks after them: silence, suspension, adoption, time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from finetune import attempts, jobs, supervision, workshop
from finetune.models import Attempt, AttemptOutcome, Job, JobStatus, Where
from finetune.supervision import _look, _Patience
from gpus import allocations
from gpus.models import Allocation, Gateway, Lease, Node
from tests.finetune import made

pytestmark = pytest.mark.django_db


class Clock:
    """Seconds pass only here."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(supervision, "time", found)
    return found


@pytest.fixture
def gateway(db: None) -> Gateway:
    """A web process that runs."""
    now = timezone.now()
    return Gateway.objects.create(host="test", pid=1, started_at=now, seen_at=now + timedelta(hours=1))


@pytest.fixture
def node(bob: Any) -> Node:
    return made.node(bob)


@pytest.fixture
def attempt(alice: Any, node: Node) -> Attempt:
    found = made.begin(made.job(alice), node)
    Attempt.objects.filter(pk=found.pk).update(worker=workshop.WORKER)
    found.refresh_from_db()
    return found


def look(attempt: Attempt, patience: _Patience, clock: Clock, seconds: float) -> bool:
    """Look each second for so long; whether it goes on."""
    for _ in range(round(seconds)):
        clock.now += 1
        if not _look(attempt, patience):
            return False
    return True


def state(attempt: Attempt) -> tuple[str, str, str]:
    attempt.refresh_from_db()
    return attempt.outcome, attempt.code, Job.objects.get(pk=attempt.job_id).status


def test_a_node_that_is_silent_for_long_is_given_up(
    attempt: Attempt, clock: Clock, gateway: Gateway, settings: Any
) -> None:
    settings.TRAINING_LOST_AFTER_S = 30
    patience = _Patience(attempt.heard_at)
    assert look(attempt, patience, clock, 29)
    attempts.order_for(attempt.token, now=timezone.now())
    assert look(attempt, patience, clock, 29)
    assert not look(attempt, patience, clock, 5)
    assert state(attempt) == (AttemptOutcome.LOST, "node_lost", JobStatus.PENDING)


def test_silence_does_not_count_while_nobody_could_be_told(
    attempt: Attempt, clock: Clock, gateway: Gateway, settings: Any
) -> None:
    settings.TRAINING_LOST_AFTER_S = 30
    patience = _Patience(attempt.heard_at)
    Gateway.objects.update(seen_at=timezone.now() - timedelta(minutes=1))
    assert look(attempt, patience, clock, 90), "all web processes were away"
    Gateway.objects.update(seen_at=timezone.now() + timedelta(hours=1))
    assert look(attempt, patience, clock, 25)
    clock.now += 60
    assert _look(attempt, patience), "the database was away"
    assert look(attempt, patience, clock, 25)


@pytest.mark.parametrize("status", ["suspended", "rejected"])
def test_a_node_that_is_suspended_trains_no_longer(
    attempt: Attempt, clock: Clock, gateway: Gateway, node: Node, status: str
) -> None:
    if status == "suspended":
        Node.objects.filter(pk=node.pk).update(suspended_at=timezone.now())
    else:
        node.owner.provider_status = status
        node.owner.save()
    assert not look(attempt, _Patience(attempt.heard_at), clock, 1)
    assert state(attempt) == (AttemptOutcome.LOST, "node_suspended", JobStatus.PENDING)


def test_a_node_that_has_left_trains_no_longer(
    attempt: Attempt, clock: Clock, gateway: Gateway, node: Node
) -> None:
    Node.objects.filter(pk=node.pk).delete()
    assert not look(attempt, _Patience(attempt.heard_at), clock, 1)
    assert state(attempt) == (AttemptOutcome.LOST, "node_left", JobStatus.PENDING)


def test_what_costs_nothing_on_an_allocation_ends_with_it(
    attempt: Attempt, clock: Clock, gateway: Gateway, alice: Any, bob: Any, node: Node
) -> None:
    now = timezone.now()
    later = now + timedelta(hours=1)
    allocation = Allocation.objects.create(
        client=alice, task_type="training", gpu_count=1, created_at=now, expires_at=later
    )
    Lease.objects.create(
        node=node, allocation=allocation, node_name=node.name, provider=bob, gpus=1, hour_price=1, fee_bps=0,
        started_at=now, paid_until=now, expires_at=later,
    )  # fmt: skip
    Job.objects.filter(pk=attempt.job_id).update(where=Where.ALLOCATION, allocation_id=allocation.pk)
    attempt = Attempt.objects.get(pk=attempt.pk)
    assert look(attempt, _Patience(attempt.heard_at), clock, 1)
    allocations.release(allocation_id=allocation.pk, client_id=alice.pk, now=now)
    assert not look(attempt, _Patience(attempt.heard_at), clock, 1)
    assert state(attempt) == (AttemptOutcome.LOST, "allocation_over", JobStatus.PENDING)


def test_a_training_may_not_take_for_ever(
    attempt: Attempt, clock: Clock, gateway: Gateway, settings: Any
) -> None:
    settings.TRAINING_MAX_HOURS = 1
    Attempt.objects.filter(pk=attempt.pk).update(started_at=timezone.now() - timedelta(hours=2))
    attempt.refresh_from_db()
    assert not look(attempt, _Patience(attempt.heard_at), clock, 1)
    assert state(attempt) == (AttemptOutcome.FAILED, "time_limit", JobStatus.FAILED)
    assert Job.objects.get(pk=attempt.job_id).charged == 0


def test_a_cancelled_training_is_closed_at_once(attempt: Attempt, clock: Clock, gateway: Gateway) -> None:
    jobs.cancel(attempt.job, now=timezone.now())
    assert not look(attempt, _Patience(attempt.heard_at), clock, 1)
    assert state(attempt) == (AttemptOutcome.STOPPED, "cancelled", JobStatus.CANCELLED)


def test_a_node_that_does_not_pause_is_not_waited_for_for_ever(
    attempt: Attempt, clock: Clock, gateway: Gateway
) -> None:
    jobs.pause(attempt.job, now=timezone.now())
    patience = _Patience(attempt.heard_at)
    for _ in range(290):
        attempts.order_for(attempt.token, now=timezone.now())
        assert look(attempt, patience, clock, 1)
    for _ in range(20):
        attempts.order_for(attempt.token, now=timezone.now())
        look(attempt, patience, clock, 1)
    assert state(attempt) == (AttemptOutcome.STOPPED, "paused", JobStatus.PAUSED)


def test_somebody_else_looks_after_what_a_killed_worker_has_left(attempt: Attempt) -> None:
    now = timezone.now()
    assert attempts.adopt(worker="another", now=now) is None
    later = now + attempts.WATCHER_GONE * 2
    assert attempts.rings_needed(now=later) == 1
    adopted = attempts.adopt(worker="another", now=later)
    assert adopted is not None
    assert adopted.worker == "another"
    assert attempts.adopt(worker="a third", now=later) is None
    assert not attempts.watch(attempt.token, worker=workshop.WORKER, now=later).goes_on
    assert attempts.watch(attempt.token, worker="another", now=later).goes_on


def test_what_a_worker_lets_go_is_adopted_at_once(attempt: Attempt) -> None:
    attempts.let_go(attempt.token, worker=workshop.WORKER)
    assert attempts.adopt(worker="another", now=timezone.now()) is not None


def test_a_restart_of_the_database_loses_no_training_here(
    alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = made.begin(made.job(alice))
    later = timezone.now() + attempts.WATCHER_GONE * 2
    Attempt.objects.filter(pk=attempt.pk).update(watched_at=timezone.now())
    monkeypatch.setattr(attempts, "WATCHER_GONE", timedelta(days=3650))
    assert attempts.sweep(now=later) == 0, "the database has not run for so long"
    monkeypatch.setattr(attempts, "WATCHER_GONE", timedelta(0))
    assert attempts.sweep(now=later) == 1
    assert state(attempt) == (AttemptOutcome.LOST, "worker_lost", JobStatus.PENDING)


def test_a_job_is_given_up_when_it_has_failed_often(alice: Any) -> None:
    job = made.job(alice)
    for number in range(attempts.MOST_FAILED):
        token = made.begin(job).token
        attempts.fail(token, code="out_of_memory", reason="Too little.", retry=True, now=timezone.now())
        job.refresh_from_db()
        expected = JobStatus.FAILED if number == attempts.MOST_FAILED - 1 else JobStatus.PENDING
        assert job.status == expected
    assert job.charged == 0
