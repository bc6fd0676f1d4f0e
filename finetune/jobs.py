"""Fine-tuning jobs: started, paused, resumed, cancelled, started anew, and ended by their attempts.

    pending ──begin──▶ running ──▶ succeeded │ failed
       ▲  ▲               │ │
       │  └──lost, retry──┘ └─pause─▶ paused ──resume──▶ pending
       └──restart── any that has ended          cancel: whatever has not ended ──▶ cancelled

Every change is made under the lock of the job's row and checks what it was; money moves in the same transaction.
Whoever runs a job looks at its state and stops when it is not `running` any more. Locks: the job, then accounts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from clients import ledger, terms
from clients.models import AccountKind, Client, TransferKind
from finetune import journal, quotes
from finetune.models import Attempt, Dataset, Face, Job, JobStatus, Where
from finetune.quotes import Quote
from inference.models import Model, Revision
from marketplace import money
from marketplace.errors import Conflict, NotFound

CANCELLED, PAUSED = "cancelled", "paused"
_RUNNABLE = (JobStatus.PENDING, JobStatus.RUNNING)


class JobNotFound(NotFound):
    code, message = "job_not_found", "There is no such fine-tuning job."


class WrongState(Conflict):
    """What was asked does not go with the state that the job is in. The details name it."""

    code, should_retry = "wrong_state", False

    def __init__(self, job: Job, wanted: str) -> None:
        super().__init__(
            f"The job is {job.status}; only a job that {wanted}.",
            details={"status": job.status},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody wants trained. `quote` says with which parameters and for how much."""

    owner: Client
    face: Face
    base: Revision
    dataset: Dataset
    quote: Quote
    seed: int
    validation: Dataset | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    api_key_id: int | None = None
    suffix: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    where: Where = Where.ANY
    allocation_id: UUID | None = None
    deploy: bool = False
    wait_on_conflict: bool = False
    said: dict[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    request_sha256: str = ""
    wallet: str = ""
    nonce: int | None = None


def start(order: Order, *, now: datetime) -> Job:
    """Record a job, hold its price, and ring for a worker.

    Raises NotTrainable, DatasetUnusable, what `ledger.hold` does, and IntegrityError where the idempotency key or the
    nonce is taken.
    """
    quote = order.quote
    with transaction.atomic():
        _keep(order.base, order.dataset, order.validation)
        job = Job.objects.create(
            owner=order.owner, api_key_id=order.api_key_id, face=order.face, method=quote.method, base=order.base,
            dataset=order.dataset, validation=order.validation, parameters=quote.parameters, asked=order.asked,
            seed=order.seed, suffix=order.suffix, metadata=order.metadata, where=order.where,
            allocation_id=order.allocation_id, deploy=order.deploy, wait_on_conflict=order.wait_on_conflict,
            said=order.said, idempotency_key=order.idempotency_key, request_sha256=order.request_sha256,
            wallet=order.wallet, nonce=order.nonce, tokens=quote.tokens, epochs=quote.epochs, price=quote.price,
            terms_id=terms.current().pk, created_at=now, changed_at=now,
        )  # fmt: skip
        _hold(job)
        said = f"Created: {quote.trained_tokens} tokens to train on, for {money.named(job.price)}."
        journal.note(job, said, now=now, data=quote.to_json())
        ring()
    return job


def _keep(base: Revision, *datasets: Dataset | None) -> None:
    """Lock what a job needs, so that it is not deleted meanwhile. Raises NotTrainable, DatasetUnusable."""
    # One that is gone has no files any more.
    Model.objects.select_for_update(no_key=True).filter(pk=base.model_id).first()
    method = quotes.method_of(base)
    wanted = {each.pk for each in datasets if each is not None}
    for each in Dataset.objects.select_for_update(no_key=True).filter(pk__in=wanted).order_by("pk"):
        quotes.check_dataset(each, method)


def _hold(job: Job) -> None:
    if job.price and job.is_charged:
        ledger.hold(
            reference=job.reference,
            client_id=job.owner_id,
            amount=job.price,
            api_key_id=job.api_key_id,
            tokens=None,
        )


def ring() -> None:
    """Have a worker look for work once this transaction is committed."""
    from finetune import tasks  # noqa: PLC0415 - tasks call verbs

    transaction.on_commit(lambda: tasks.ring(tasks.run_jobs))


def of(owner: Client) -> QuerySet[Job]:
    """A client's jobs, newest first."""
    return Job.objects.filter(owner=owner).select_related("base__model", "dataset", "result__model")


def find(uid: UUID, *, owner: Client) -> Job:
    """Raises JobNotFound, also for somebody else's (operators find all)."""
    rows = Job.objects.select_related("base__model", "dataset", "result__model")
    found = (rows if owner.is_staff else rows.filter(owner=owner)).filter(uid=uid).first()
    if found is None:
        raise JobNotFound
    return found


# --- What its owner wants of it --------------------------------------------------------------------------


def cancel(job: Job, *, now: datetime, by: Client | None = None) -> Job:
    """End a job that has not ended; its money is free again. A cancelled one stays so. Raises WrongState."""

    def change(locked: Job) -> None:
        if locked.status == JobStatus.CANCELLED:
            return
        if locked.has_ended:
            raise WrongState(locked, "has not ended can be cancelled")
        whose = "its owner" if by is None or by.pk == locked.owner_id else "the operator"
        end(locked, JobStatus.CANCELLED, code=CANCELLED, reason=f"Cancelled by {whose}.", now=now)

    return _changed(job, change)


def pause(job: Job, *, now: datetime) -> Job:
    """Let a job rest; it goes on from a checkpoint when it is resumed. Its money stays held. Raises WrongState."""

    def change(locked: Job) -> None:
        if locked.status == JobStatus.PAUSED:
            return
        if locked.status not in _RUNNABLE:
            raise WrongState(locked, "waits or runs can be paused")
        move(locked, JobStatus.PAUSED, code=PAUSED, reason="Paused by its owner.", now=now)

    return _changed(job, change)


def resume(job: Job, *, now: datetime) -> Job:
    """Let a paused job go on. Raises WrongState."""

    def change(locked: Job) -> None:
        if locked.status in _RUNNABLE:
            return
        if locked.status != JobStatus.PAUSED:
            raise WrongState(locked, "is paused can be resumed")
        move(locked, JobStatus.PENDING, code="", reason="Resumed by its owner.", now=now)
        ring()

    return _changed(job, change)


def restart(job: Job, *, quote: Quote, now: datetime, api_key_id: int | None = None) -> Job:
    """Run a job that has ended once more from its beginning, for a new price; one that waits just waits on.

    What an earlier run has made stays in the catalogue. Raises WrongState while it runs, and what `ledger.hold` does.
    """

    def change(locked: Job) -> None:
        if locked.status == JobStatus.PENDING:
            return
        if not locked.has_ended or not locked.is_charged:
            raise WrongState(locked, "has ended, and was not for a chain, can be restarted")
        _keep(locked.base, locked.dataset, locked.validation)
        locked.run += 1
        locked.price, locked.tokens, locked.epochs = quote.price, quote.tokens, quote.epochs
        locked.parameters, locked.api_key_id = quote.parameters, api_key_id
        locked.terms_id, locked.charged, locked.fee, locked.provider = terms.current().pk, 0, 0, None
        locked.result, locked.is_better, locked.metrics, locked.progress = None, None, {}, {}
        locked.started_at = locked.finished_at = locked.not_before = None
        locked.save()
        _hold(locked)
        move(locked, JobStatus.PENDING, code="", reason=f"Restarted (run {locked.run}).", now=now)
        ring()

    return _changed(job, change)


def _changed(job: Job, change: Callable[[Job], None]) -> Job:
    with transaction.atomic():
        change(lock(job.pk))
    job.refresh_from_db()
    return job


# --- What its attempts do with it (`finetune.attempts`); the row is locked ---------------------------------


def lock(job_id: int) -> Job:
    return Job.objects.select_for_update(no_key=True).get(pk=job_id)


def move(job: Job, status: JobStatus, *, code: str, reason: str, now: datetime, level: str = "info") -> None:
    """Put a locked job into another state, for a reason."""
    job.status, job.code, job.reason, job.changed_at = status, code, reason[:1000], now
    job.save(update_fields=["status", "code", "reason", "changed_at"])
    journal.note(
        job,
        reason or status.label,
        now=now,
        level=level,
        kind="status",
        data={"status": status, "code": code},
    )


def end(job: Job, status: JobStatus, *, code: str, reason: str, now: datetime) -> None:
    """End a locked job without a result: nothing is charged."""
    job.finished_at = now
    job.save(update_fields=["finished_at"])
    ledger.release(job.reference)
    level = "error" if status in (JobStatus.FAILED, JobStatus.REFUSED) else "info"
    move(job, status, code=code, reason=reason, now=now, level=level)


def succeed(
    job: Job, attempt: Attempt, result: Revision, *, metrics: dict[str, Any], is_better: bool, now: datetime
) -> None:
    """End a locked job with its result, and pay for it: exactly what was quoted, to whom it was trained by."""
    node_owner = attempt.node.owner_id if attempt.node is not None else None
    agreed = terms.current() if job.terms_id is None else job.terms
    charged = job.price if job.is_charged else 0
    fee = money.share(charged, agreed.fee_bps) if node_owner is not None and agreed is not None else 0
    job.result, job.metrics, job.is_better = result, metrics, is_better
    job.charged, job.fee, job.provider_id, job.finished_at = charged, fee, node_owner, now
    job.save(update_fields=["result", "metrics", "is_better", "charged", "fee", "provider", "finished_at"])
    if charged:
        ledger.settle(
            reference=job.reference, amount=charged, fee=fee, kind=TransferKind.TRAINING, payee_id=node_owner,
            payee_kind=AccountKind.EARNED if node_owner is not None else AccountKind.FEES,
        )  # fmt: skip
    verdict = "better than its base" if is_better else "not better than its base, which stays the best"
    reason = f"Trained; on held-out rows the result is {verdict}. Charged {money.named(charged)}."
    move(job, JobStatus.SUCCEEDED, code="", reason=reason, now=now)
