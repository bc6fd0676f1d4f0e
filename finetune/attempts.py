"""One run of a trainer for a job, from its place in the queue to its end.

Whoever looks after an attempt (a Celery task) and whoever trains (a child of it, or a node) name the attempt's token.
An attempt that was closed meanwhile, because its node was taken for lost or its job was cancelled, writes nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.db import DatabaseError, connection, transaction
from django.db.models import Exists, F, Max, OuterRef, Q

from clients.models import Blob
from finetune import deployments, jobs, journal, places, quotes, results, sayings
from finetune.models import Attempt, AttemptOutcome, Checkpoint, Job, JobStatus
from finetune.places import Place
from finetune.trainer import events as said

logger = logging.getLogger(__name__)

# What passes by itself is tried again so often in one run; a lost place counts only against MOST_LOST.
MOST_FAILED, MOST_LOST = 3, 20
# A process that looks after an attempt says so every few seconds; silent for so long, it is gone.
WATCHER_GONE = timedelta(seconds=20)
MOST_RINGS = 16
# A trainer says some hundreds of things; what somebody's node says beyond this is not written down.
MOST_EVENTS = 5000
# Among an attempt's facts from its first step on.
_BEGUN = "tokens_per_s"
_PAUSE_S = (5, 30, 120)


@dataclass(frozen=True, slots=True)
class Order:
    """What whoever runs an attempt is to do: "go on", "pause" (write a checkpoint and stop), or "stop" at once."""

    word: str
    why: str = ""

    @property
    def goes_on(self) -> bool:
        return self.word == "go on"


GO_ON, PAUSE, STOP = "go on", "pause", "stop"


# --- The queue --------------------------------------------------------------------------------------------

# Who has least at work comes first, then who has waited longest since something of theirs was begun. What follows an
# owner's first job in the list counts as if those before it ran: jobs that find no place do not stand in others' way.
_NEXT = """
    SELECT j.id FROM finetune_job j
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE o.status = 'running') AS running, max(o.started_at) AS last_at
        FROM finetune_job o WHERE o.owner_id = j.owner_id AND o.started_at IS NOT NULL
    ) AS theirs ON true
    WHERE j.status = 'pending' AND (j.not_before IS NULL OR j.not_before <= %s)
        AND NOT EXISTS (SELECT 1 FROM finetune_attempt a WHERE a.job_id = j.id AND a.ended_at IS NULL)
    ORDER BY theirs.running + row_number() OVER (PARTITION BY j.owner_id ORDER BY j.id),
        theirs.last_at NULLS FIRST, j.id
    LIMIT 1000
"""


def take(*, worker: str, here_is_free: bool, now: datetime) -> Attempt | None:
    """Begin an attempt for the job whose turn it is, at the best place for it; None where nothing can be begun.

    A job that no place takes at the moment is told why, and the next one's turn comes.
    """
    with connection.cursor() as cursor:
        cursor.execute(_NEXT, [now])
        waiting = [row[0] for row in cursor.fetchall()]
    for job_id in waiting:
        try:
            attempt = _offer(job_id, worker, here_is_free, now)
        except DatabaseError:
            raise
        except Exception:
            # Whatever is odd about one job, those behind it do not wait for it.
            logger.exception("Job %s cannot be placed", job_id)
            _turn_away(job_id, "It cannot be placed, for a fault of ours: the worker's log says more.", now)
            continue
        if attempt is not None:
            return attempt
    return None


@transaction.atomic
def _offer(job_id: int, worker: str, here_is_free: bool, now: datetime) -> Attempt | None:
    # Places are counted by attempts, so that one at a time gives them away.
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('finetune.places'))")
    job = _still_waiting(job_id)
    if job is None:
        return None
    place, objection = places.choose(job, partial(quotes.seconds, job), here_is_free=here_is_free, now=now)
    if place is not None:
        return _begin(job, place, worker, now)
    _object(job, objection, now)
    return None


@transaction.atomic
def _turn_away(job_id: int, objection: str, now: datetime) -> None:
    job = _still_waiting(job_id)
    if job is not None:
        _object(job, objection, now)


def _object(job: Job, objection: str, now: datetime) -> None:
    """Tell a job why no place takes it."""
    if objection != job.reason:
        jobs.move(job, JobStatus.PENDING, code="no_place", reason=objection, now=now)


def _still_waiting(job_id: int) -> Job | None:
    """A job, locked, unless somebody else has it or it waits no longer."""
    job = (
        Job.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
        .select_related("base__model")
        .filter(pk=job_id, status=JobStatus.PENDING)
        .first()
    )
    return None if job is None or job.attempts.filter(ended_at=None).exists() else job


def _begin(job: Job, place: Place, worker: str, now: datetime) -> Attempt:
    newest = newest_checkpoint(job)
    number = (job.attempts.aggregate(last=Max("number"))["last"] or 0) + 1
    attempt = Attempt.objects.create(
        job=job, run=job.run, number=number, node_id=place.node_id, worker=worker, started_at=now, heard_at=now,
        watched_at=now, resumed_from=newest,
    )  # fmt: skip
    if job.started_at is None:
        job.started_at = now
        job.save(update_fields=["started_at"])
    where = f"Training on {place.name}" + (f", from step {newest.step}" if newest else "")
    jobs.move(job, JobStatus.RUNNING, code="", reason=f"{where}.", now=now)
    return attempt


def newest_checkpoint(job: Job) -> Checkpoint | None:
    """Where its present run goes on from. A state from which a trainer did not come as far as one step is no good."""
    broken = Attempt.objects.filter(resumed_from=OuterRef("pk"), outcome=AttemptOutcome.FAILED).exclude(
        facts__has_key=_BEGUN
    )
    there = job.checkpoints.filter(~Exists(broken), run=job.run).exclude(blob=None)
    return there.order_by("-step", "-id").first()


# --- While it runs ----------------------------------------------------------------------------------------


def watch(token: UUID, *, worker: str, now: datetime) -> Order:
    """Say that this process looks after an attempt; what it should do with it."""
    found = Attempt.objects.filter(token=token, ended_at=None, worker=worker)
    attempt = found.select_related("job").first() if found.update(watched_at=now) else None
    if attempt is None:
        return Order(STOP, "The attempt was ended, or given to another worker.")
    return order_of(attempt)


def adopt(*, worker: str, now: datetime) -> Attempt | None:
    """Look after an attempt on a node from now on whose watcher is gone; None where there is none."""
    left = Attempt.objects.filter(ended_at=None, watched_at__lt=now - WATCHER_GONE).exclude(node=None)
    for attempt in left:
        if Attempt.objects.filter(pk=attempt.pk, watched_at=attempt.watched_at, ended_at=None).update(
            worker=worker, watched_at=now
        ):
            attempt.refresh_from_db()
            return attempt
    return None


def let_go(token: UUID, *, worker: str) -> None:
    """Look after an attempt on a node no longer: another worker adopts it at once."""
    Attempt.objects.filter(token=token, ended_at=None, worker=worker).update(
        watched_at=F("started_at") - WATCHER_GONE * 2
    )


def order_for(token: UUID, *, now: datetime) -> Order:
    """What whoever trains should do; it is heard of by this."""
    if not Attempt.objects.filter(token=token, ended_at=None).update(heard_at=now):
        return Order(STOP, "The attempt was ended.")
    return order_of(Attempt.objects.select_related("job").get(token=token))


def order_of(attempt: Attempt) -> Order:
    """What its job's state means for an open attempt."""
    job = attempt.job
    if job.run != attempt.run:
        return Order(STOP, "The job was started anew.")
    if job.status == JobStatus.RUNNING:
        return Order(GO_ON)
    # Paused, and perhaps resumed before this attempt had written its checkpoint.
    rests = job.status in (JobStatus.PAUSED, JobStatus.PENDING)
    return Order(PAUSE if rests else STOP, job.reason)


def hear(token: UUID, heard: Sequence[dict[str, Any]], *, first_number: int | None, now: datetime) -> Order:
    """Note what a trainer has said. `first_number`: of the first of these events; what was noted before is left out."""
    with transaction.atomic():
        locked = _locked(token)
        if locked is None:
            return Order(STOP, "The attempt was ended.")
        attempt, job = locked
        start = attempt.event_number if first_number is None else first_number - 1
        new = heard[max(0, attempt.event_number - start) :]
        for event in new if attempt.event_number < MOST_EVENTS else ():
            _note(job, attempt, sayings.cleaned(event), now)
        attempt.event_number = max(attempt.event_number, start + len(heard))
        attempt.heard_at = now
        attempt.save(update_fields=["event_number", "heard_at", "facts"])
        if new:
            Job.objects.filter(pk=job.pk).update(progress=job.progress)
    return order_of(Attempt.objects.select_related("job").get(pk=attempt.pk))


def _note(job: Job, attempt: Attempt, event: dict[str, Any], now: datetime) -> None:
    kind = str(event["event"])
    data = {name: value for name, value in event.items() if name not in ("event", "at", "level", "text")}
    if kind == said.STARTED:
        attempt.facts |= {name: data.get(name) for name in ("hardware", "versions")}
    if kind == said.PROGRESS:
        job.progress = data
        attempt.facts[_BEGUN] = data.get(_BEGUN, 0)
    message = journal.sentence(kind, event)
    journal.note(
        job, message, now=now, kind=kind, attempt=attempt, data=data, level=str(event.get("level") or "info")
    )


def keep_checkpoint(token: UUID, blob: Blob, *, step: int, metrics: dict[str, Any], now: datetime) -> bool:
    """Remember a state to go on from, instead of the one before; false where the attempt has ended."""
    with transaction.atomic():
        attempt = Attempt.objects.select_for_update(no_key=True).filter(token=token, ended_at=None).first()
        if attempt is None:
            return False
        Checkpoint.objects.update_or_create(
            attempt=attempt, step=step,
            defaults={
                "job_id": attempt.job_id, "run": attempt.run, "blob": blob, "metrics": metrics, "created_at": now,
            },
        )  # fmt: skip
        older = Checkpoint.objects.filter(job_id=attempt.job_id, run=attempt.run, step__lt=step)
        older.exclude(blob=None).update(blob=None)
    return True


# --- Its end ----------------------------------------------------------------------------------------------


def succeed(token: UUID, made: results.Made, *, now: datetime) -> bool:
    """End an attempt with what it has made: the job has succeeded, and is paid. False where it has ended before."""
    with transaction.atomic():
        locked = _locked(token)
        if locked is None:
            return False
        attempt, job = locked
        if job.status != JobStatus.RUNNING:
            _close(attempt, AttemptOutcome.STOPPED, job.code, job.reason, now)
            return False
        _close(attempt, AttemptOutcome.SUCCEEDED, "", "", now)
        revision = results.publish(job, made, now=now)
        jobs.succeed(job, attempt, revision, metrics=made.metrics, is_better=made.is_better, now=now)
        deployments.follow(job, now=now)
    return True


def fail(token: UUID, *, code: str, reason: str, retry: bool, now: datetime) -> None:
    """End an attempt that has failed. Its job is tried again where that can help, and has failed otherwise."""
    _end(token, AttemptOutcome.FAILED, code, reason, retry, now)


def lose(token: UUID, *, code: str, reason: str, now: datetime) -> None:
    """End an attempt whose place is gone; its job goes on elsewhere from the last checkpoint."""
    _end(token, AttemptOutcome.LOST, code, reason, True, now)


def stopped(token: UUID, *, now: datetime) -> None:
    """End an attempt that has stopped as it was told to: by its owner, or because its worker or node is closing."""
    _end(token, AttemptOutcome.STOPPED, places.HANDED_BACK, "Its place closed in good order.", True, now)


@transaction.atomic
def _end(token: UUID, outcome: AttemptOutcome, code: str, reason: str, retry: bool, now: datetime) -> None:
    locked = _locked(token)
    if locked is None:
        return
    attempt, job = locked
    if job.status != JobStatus.RUNNING:
        # Cancelled or paused: what its trainer said when it was ended does not matter.
        _close(attempt, AttemptOutcome.STOPPED, job.code, job.reason, now)
        if job.status == JobStatus.PENDING:
            jobs.ring()
        return
    _close(attempt, outcome, code, reason, now)
    before = job.attempts.filter(run=job.run, outcome=outcome).count()
    most = MOST_FAILED if outcome == AttemptOutcome.FAILED else MOST_LOST
    if retry and before < most:
        if outcome == AttemptOutcome.FAILED:
            job.not_before = now + timedelta(seconds=_PAUSE_S[min(before, len(_PAUSE_S)) - 1])
            job.save(update_fields=["not_before"])
        jobs.move(
            job,
            JobStatus.PENDING,
            code=code,
            reason=f"{reason} It goes on when there is a place.",
            now=now,
            level="warn",
        )
        jobs.ring()
    else:
        jobs.end(job, JobStatus.FAILED, code=code, reason=reason, now=now)


def _locked(token: UUID) -> tuple[Attempt, Job] | None:
    """An attempt that has not ended, and its job, locked: the job first, as everybody does."""
    known = Attempt.objects.filter(token=token, ended_at=None).values_list("job_id", flat=True).first()
    if known is None:
        return None
    job = jobs.lock(known)
    attempt = Attempt.objects.select_for_update(no_key=True).filter(token=token, ended_at=None).first()
    return None if attempt is None else (attempt, job)


def _close(attempt: Attempt, outcome: AttemptOutcome, code: str, reason: str, now: datetime) -> None:
    attempt.outcome, attempt.code, attempt.reason, attempt.ended_at = outcome, code, reason[:1000], now
    attempt.save(update_fields=["outcome", "code", "reason", "ended_at"])
    attempt.files.all().delete()


def rings_needed(*, now: datetime) -> int:
    """How many workers could begin something now."""
    waiting = Job.objects.filter(
        Q(not_before=None) | Q(not_before__lte=now), status=JobStatus.PENDING
    ).count()
    unwatched = Attempt.objects.filter(ended_at=None, watched_at__lt=now - WATCHER_GONE).exclude(node=None)
    return min(waiting + unwatched.count(), MOST_RINGS)


def sweep(*, now: datetime) -> int:
    """End attempts here whose worker is gone; how many. Those on nodes are looked after by whoever adopts them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_postmaster_start_time() > %s", [now - WATCHER_GONE])
        if cursor.fetchone() == (True,):
            return 0  # it was the database that was away
    left = Attempt.objects.filter(ended_at=None, node=None, watched_at__lt=now - WATCHER_GONE)
    tokens = list(left.values_list("token", flat=True))
    for token in tokens:
        lose(token, code="worker_lost", reason="The worker that trained it is gone.", now=now)
    return len(tokens)
