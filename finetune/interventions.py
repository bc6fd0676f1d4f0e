"""What operators do about somebody's job: each with a reason that its owner reads in the log, and an audit row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from clients import audit, refunds
from clients.models import Client, Transfer
from finetune import attempts, deployments, jobs, journal, ordering
from finetune.jobs import WrongState
from finetune.models import Deployment, Job, JobStatus
from marketplace import money
from marketplace.errors import Conflict


class NothingCharged(Conflict):
    code, message = "nothing_charged", "This job did cost nothing, so there is nothing to give back."


class NothingRuns(Conflict):
    code, message = (
        "nothing_runs",
        "Nobody trains this job at the moment, and it does not wait for its time either.",
    )


@transaction.atomic
def cancel(job: Job, *, by: Client, reason: str, now: datetime) -> Job:
    """End a job that has not ended; nothing is charged. Raises WrongState."""
    locked = jobs.lock(job.pk)
    if locked.has_ended:
        raise WrongState(locked, "has not ended can be cancelled")
    _note(locked, "cancel_job", "Cancelled by an operator", by, reason, now, freed=money.render(locked.price))
    return jobs.cancel(job, now=now, by=by)


@transaction.atomic
def restart(job: Job, *, by: Client, reason: str, now: datetime) -> Job:
    """Run a job that has ended once more, for what it costs its owner today.

    Raises WrongState, what `quotes.make` does, and InsufficientFunds where the owner cannot pay.
    """
    locked = jobs.lock(job.pk)
    if not locked.has_ended:
        raise WrongState(locked, "has ended can be restarted")
    again = ordering.again(locked, now=now, api_key_id=locked.api_key_id)
    _note(again, "restart_job", "Restarted by an operator", by, reason, now, price=money.render(again.price))
    job.refresh_from_db()
    return job


@transaction.atomic
def requeue(job: Job, *, by: Client, reason: str, now: datetime) -> Job:
    """Take a job away from whoever trains it: it goes on elsewhere, from its last checkpoint. Or let it wait no longer.

    Raises NothingRuns.
    """
    locked = jobs.lock(job.pk)
    attempt = locked.attempts.filter(ended_at=None).first()
    if attempt is not None:
        said = f"An operator took it away: {reason}"
        attempts.lose(attempt.token, code="requeued", reason=said, now=now)
    elif locked.status == JobStatus.PENDING and locked.not_before is not None:
        locked.not_before = None
        locked.save(update_fields=["not_before"])
        jobs.ring()
    else:
        raise NothingRuns
    number = None if attempt is None else attempt.number
    _note(locked, "requeue_job", "Queued anew by an operator", by, reason, now, attempt=number)
    job.refresh_from_db()
    return job


@transaction.atomic
def refund(job: Job, *, by: Client, reason: str, now: datetime) -> Transfer:
    """Give back all that a job's present run did cost, from who has trained it and from the marketplace's fees.

    Raises NothingCharged, AlreadyReversed, PayeeHasTooLittle.
    """
    locked = jobs.lock(job.pk)
    paid = charges_of(locked).filter(reference=locked.reference).first()
    if paid is None:
        raise NothingCharged
    back = refunds.reverse(paid, by=by, reason=reason)
    journal.note(locked, f"{money.named(paid.amount)} were given back: {reason}", now=now)
    return back


def charges_of(job: Job) -> QuerySet[Transfer]:
    """The transfers by which the runs of a job were paid, the last first."""
    references = [f"training:{job.pk}:{run}" for run in range(max(1, job.run - 99), job.run + 1)]
    return Transfer.objects.filter(reference__in=references).order_by("-id")


@transaction.atomic
def roll_back(deployment: Deployment, *, by: Client, reason: str, now: datetime) -> Deployment:
    """Let a live deployment's name lead to the model before it again. Raises CannotRollBack."""
    found = deployments.roll_back(deployment, by=by, why=reason, now=now)
    details = {
        "alias": found.alias.name,
        "from": found.model.name,
        "to": found.previous and found.previous.name,
    }
    audit.note(
        by=by, action="roll_back_deployment", subject=f"deployment {found.pk}", reason=reason, details=details
    )
    return found


def _note(job: Job, action: str, what: str, by: Client, reason: str, now: datetime, **details: Any) -> None:
    journal.note(job, f"{what}: {reason}", now=now)
    told = {"owner": job.owner.username, "run": job.run, **details}
    audit.note(by=by, action=action, subject=f"training:{job.pk}", reason=reason, details=told)
