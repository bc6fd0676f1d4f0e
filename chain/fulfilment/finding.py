"""What chains say, written down in our fulfilments: new tasks, attempts that are there, ends, and the time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from chain.fulfilment import rows, training
from chain.models import (
    ENDED,
    ENDED_FULFILMENTS,
    Attempt,
    Fulfilment,
    FulfilmentStatus,
    Network,
    Reorganisation,
    Response,
    ResponseStatus,
    Service,
    Serving,
    Task,
    TaskStatus,
)
from finetune.models import Job

AT_ONCE = 500
# How long after a task's expiry its client is waited for.
UNCONFIRMED = timedelta(days=7)
# Whatever a task names beyond this is "never"; dates end in the year 9999.
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)
_OPEN_TASKS = (TaskStatus.NEW, TaskStatus.ATTEMPTED)
_FREE = {"token": None, "leased_until": None}


def discover(network: Network, *, now: datetime) -> int:
    """Make fulfilments of final tasks that a served source was given and that can still be answered; how many."""
    served = Service.objects.filter(
        network=network, source_address=OuterRef("source__address"), status=Serving.SERVED,
        registered_at__isnull=False,
    )  # fmt: skip
    known = Fulfilment.objects.filter(
        network=network, task_address=OuterRef("address"), published_transaction=OuterRef("transaction_hash")
    )
    new = Task.objects.filter(
        Exists(served), ~Exists(known), network=network, status__in=_OPEN_TASKS,
        block_number__lte=network.final_block, expiry_time__gt=int(now.timestamp()),
    ).select_related("source")  # fmt: skip
    made = [_found(task, now) for task in new.order_by("block_number", "log_index")[:AT_ONCE]]
    Fulfilment.objects.bulk_create(made, ignore_conflicts=True)
    return len(made)


def _found(task: Task, now: datetime) -> Fulfilment:
    seconds = min(int(task.expiry_time), int(_LATEST.timestamp()))
    return Fulfilment(
        network_id=task.network_id, task_address=task.address, source_address=task.source.address,
        published_transaction=task.transaction_hash, payment=task.payment, config_url=task.config_url,
        expires_at=datetime.fromtimestamp(seconds, UTC), next_try_at=now, created_at=now, changed_at=now,
    )  # fmt: skip


def follow(network: Network, *, now: datetime) -> None:
    """Move on what waits for the chain, and end what the chain, or the time, has ended."""
    _attempted(network, now)
    _replaced(network, now)
    _lost(network, now)
    # The chain's own clock counts, if it is ahead of ours.
    clock = max(now, network.head_at or now)
    _expired(network, clock, now)
    _unconfirmed(network, clock, now)
    _needless(network, now)


def _attempted(network: Network, now: datetime) -> None:
    """Our attempt is in a block: the work may begin, long before that block is final."""
    there = Attempt.objects.filter(
        task__network=network, task__address=OuterRef("task_address"),
        task__transaction_hash=OuterRef("published_transaction"), provider=OuterRef("attempt__sender"),
    )  # fmt: skip
    waiting = Fulfilment.objects.filter(Exists(there), network=network, status=FulfilmentStatus.ATTEMPTING)
    for pk in waiting.values_list("pk", flat=True)[:AT_ONCE]:
        Fulfilment.objects.filter(pk=pk, status=FulfilmentStatus.ATTEMPTING).update(
            status=FulfilmentStatus.WORKING, code="", reason="", tries=0, next_try_at=now, changed_at=now
        )


def _lost(network: Network, now: datetime) -> None:
    """The task was cancelled, has expired on the chain, or somebody else was confirmed."""
    ended = _task(network).filter(status__in=ENDED)
    # If it was ours that was confirmed, `paying` will say so.
    ours = _ours_confirmed(network)
    open_ones = Fulfilment.objects.filter(network=network).exclude(status__in=ENDED_FULFILMENTS)
    gone = open_ones.filter(Exists(ended), Q(answer=None) | ~Exists(ours))
    for held in gone.select_related("job")[:AT_ONCE]:
        task = rows.task_of(held)
        if task is not None:
            code, reason, status = _ENDS[TaskStatus(task.status)]
            _end(held, status, code, reason, now)


_ENDS = {
    TaskStatus.CANCELED: ("cancelled", "Its client has cancelled it.", FulfilmentStatus.LOST),
    TaskStatus.EXPIRED: ("expired", "It has expired on the chain.", FulfilmentStatus.EXPIRED),
    TaskStatus.FINALIZED: (
        "other_confirmed",
        "Somebody else's response was confirmed.",
        FulfilmentStatus.LOST,
    ),
}


def _expired(network: Network, clock: datetime, now: datetime) -> None:
    """Its time is over before it was answered. What is on its way to the chain ends by itself (`sending`)."""
    late = Fulfilment.objects.filter(network=network, status__in=rows.TO_DO, expires_at__lte=clock)
    for held in late.select_related("job")[:AT_ONCE]:
        after = f", after: {held.reason}" if held.reason else ""
        _end(held, FulfilmentStatus.EXPIRED, "expired", f"It has expired before it was answered{after}", now)
    # An attempt that was carried out too late, or is no longer sent, says so itself; but it may never be.
    forgotten = Fulfilment.objects.filter(
        network=network, status=FulfilmentStatus.ATTEMPTING, expires_at__lte=clock - _LONG,
    )  # fmt: skip
    for held in forgotten.select_related("job")[:AT_ONCE]:
        _end(
            held, FulfilmentStatus.EXPIRED, "expired", "It has expired while our attempt was on its way.", now
        )


_LONG = timedelta(minutes=10)
# The next task that is published may be the one that gets the address of one that has vanished.
_REPLACED_WITHIN = timedelta(days=1)


def _unconfirmed(network: Network, clock: datetime, now: datetime) -> None:
    """Nobody has to confirm an answer, or to end a task. What is confirmed even later is paid all the same."""
    answered = Fulfilment.objects.filter(
        network=network, status=FulfilmentStatus.ANSWERED, expires_at__lte=clock - UNCONFIRMED
    )
    for held in answered.exclude(Exists(_ours_confirmed(network))).select_related("job")[:AT_ONCE]:
        reason = f"Its client has confirmed no answer within {UNCONFIRMED.days} days of its expiry."
        _end(held, FulfilmentStatus.LOST, "never_confirmed", reason, now)


@transaction.atomic
def _end(held: Fulfilment, status: FulfilmentStatus, code: str, reason: str, now: datetime) -> None:
    changed = Fulfilment.objects.filter(pk=held.pk, status=held.status).update(
        status=status, code=code, reason=reason[:1000], changed_at=now, **_FREE
    )
    if changed:
        training.stop(held, now=now)


def _needless(network: Network, now: datetime) -> None:
    """Trainings of what an operator has given up."""
    over = Fulfilment.objects.filter(network=network, status__in=ENDED_FULFILMENTS).exclude(job=None)
    for held in over.exclude(job__status__in=Job.ENDED).select_related("job")[:AT_ONCE]:
        training.stop(held, now=now)


def _task(network: Network) -> QuerySet[Task]:
    """The very task of a fulfilment in the outer query."""
    return Task.objects.filter(
        network=network, address=OuterRef("task_address"), transaction_hash=OuterRef("published_transaction")
    )


def _ours_confirmed(network: Network) -> QuerySet[Response]:
    """The confirmed answer of the outer query's fulfilment, final or not."""
    return Response.objects.filter(
        network=network, task__address=OuterRef("task_address"), provider=OuterRef("answer__sender"),
        task__transaction_hash=OuterRef("published_transaction"), status=ResponseStatus.CONFIRMED,
    )  # fmt: skip


def _replaced(network: Network, now: datetime) -> None:
    """Its address is another task now, published by another transaction: that one is another fulfilment.

    That comes of blocks that were replaced only; what is left then ends by its time.
    """
    if not Reorganisation.objects.filter(network=network, at__gt=now - _REPLACED_WITHIN).exists():
        return
    other = Task.objects.filter(network=network, address=OuterRef("task_address")).exclude(
        transaction_hash=OuterRef("published_transaction")
    )
    gone = Fulfilment.objects.filter(Exists(other), network=network).exclude(status__in=ENDED_FULFILMENTS)
    for held in gone.select_related("job")[:AT_ONCE]:
        _end(
            held,
            FulfilmentStatus.LOST,
            "replaced",
            "Another task has this address now: blocks were replaced.",
            now,
        )
