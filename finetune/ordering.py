"""From what somebody says that is to be trained to its quote, and to a job: the same steps for all APIs."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError

from clients.credentials import Principal
from clients.models import Client
from finetune import bases, datasets, jobs, quotes
from finetune.jobs import Order, WrongState
from finetune.models import Dataset, Face, Job, JobStatus, Where
from finetune.quotes import Quote
from gpus import allocations
from inference.models import Revision
from marketplace.errors import Conflict

MOST_SEED = 2**31 - 1


class KeyTaken(Conflict):
    """Trying again cannot help."""

    code, should_retry = "idempotency_key_reused", False
    message = (
        "Another task was created with this idempotency_key. Use a new key for a new task, and repeat a request with "
        "the very same body."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A training in the words of whoever asks for it. `allowed`: the models that an API key is limited to."""

    owner: Client
    model: str
    dataset: str
    validation: str = ""
    asked: dict[str, Any] = field(default_factory=dict)
    where: Where = Where.ANY
    allocation_id: UUID | None = None
    allowed: tuple[str, ...] = ()
    api_key_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The same in rows, and what it will cost."""

    wanted: Wanted
    base: Revision
    dataset: Dataset
    validation: Dataset | None
    quote: Quote

    def order(self, face: Face, *, seed: int | None = None, **more: Any) -> Order:
        """What `jobs.start` takes. `more`: its other fields."""
        wanted = self.wanted
        return Order(
            owner=wanted.owner, face=face, base=self.base, dataset=self.dataset, validation=self.validation,
            quote=self.quote, asked=wanted.asked, where=wanted.where, allocation_id=wanted.allocation_id,
            api_key_id=wanted.api_key_id, seed=secrets.randbelow(MOST_SEED) if seed is None else seed, **more,
        )  # fmt: skip


def limits_of(principal: object) -> dict[str, Any]:
    """What a credential adds to a `Wanted`: its key, and the models that it is limited to."""
    if not isinstance(principal, Principal):
        return {}
    return {"api_key_id": principal.api_key_id, "allowed": principal.allowed_models}


def prepare(wanted: Wanted, *, now: datetime) -> Prepared:
    """Find everything that is named, and work out the quote. Nothing is kept or held.

    Raises ModelNotFound, DatasetNotFound, AllocationNotFound, and whatever `quotes.make` does.
    """
    if wanted.allocation_id is not None:
        allocations.get(allocation_id=wanted.allocation_id, client_id=wanted.owner.pk)
    base = bases.find(wanted.model, owner=wanted.owner, allowed=wanted.allowed)
    dataset = datasets.find(wanted.dataset, owner=wanted.owner, param="training_file")
    validation = (
        datasets.find(wanted.validation, owner=wanted.owner, param="validation_file")
        if wanted.validation
        else None
    )
    return quoted(wanted, base=base, dataset=dataset, validation=validation, now=now)


def quoted(
    wanted: Wanted, *, base: Revision, dataset: Dataset, now: datetime, validation: Dataset | None = None
) -> Prepared:
    """The same where the rows are known. Raises whatever `quotes.make` does."""
    quote = quotes.make(
        owner=wanted.owner, base=base, dataset=dataset, validation=validation, asked=wanted.asked,
        where=wanted.where, allocation_id=wanted.allocation_id, now=now,
    )  # fmt: skip
    return Prepared(wanted=wanted, base=base, dataset=dataset, validation=validation, quote=quote)


def known(owner: Client, key: str, *, request_sha256: str) -> Job | None:
    """The job that a client's idempotency key has made, if any. Raises KeyTaken where it was for another request."""
    found = jobs.of(owner).filter(idempotency_key=key).first()
    if found is not None and found.request_sha256 != request_sha256:
        raise KeyTaken
    return found


def start_once(order: Order, *, now: datetime) -> tuple[Job, bool]:
    """Start a job, unless its owner's idempotency key has made one: the job, and whether it was there.

    Of several at the same moment one makes it, the others find it. Raises KeyTaken, and what `jobs.start` does.
    """
    try:
        return jobs.start(order, now=now), False
    except IntegrityError:
        key = order.idempotency_key
        first = None if key is None else known(order.owner, key, request_sha256=order.request_sha256)
        if first is None:
            raise
        return first, True


def again(job: Job, *, now: datetime, api_key_id: int | None = None, allowed: Collection[str] = ()) -> Job:
    """Run a job that has ended once more, for what it costs today; one that waits just waits on.

    It is the API key of whoever asks now whose limits count. Raises WrongState, ModelNotFound, and what `quotes.make`
    does.
    """
    if job.status == JobStatus.PENDING:
        return job
    if not job.has_ended:
        raise WrongState(job, "has ended can be restarted")
    quote = quotes.make(
        owner=job.owner, base=job.base, dataset=job.dataset, validation=job.validation, asked=job.asked,
        where=Where(job.where), allocation_id=job.allocation_id, now=now,
    )  # fmt: skip
    bases.check_allowed(job.base, owner=job.owner, allowed=allowed)
    return jobs.restart(job, quote=quote, api_key_id=api_key_id, now=now)
