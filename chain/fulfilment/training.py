"""Fine-tuning for a task on a chain: a job of the marketplace's own account, which costs nothing here.

What it makes belongs to that account: tasks of served sources can name it as their `model`, and the answer has links to
its files. Its name and these links stand on the chain for everybody, like the task itself.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.db import transaction

from chain import documents
from chain.documents import NotFetched
from chain.fulfilment import rows, sending
from chain.fulfilment.rows import Impossible, Later
from chain.models import Fulfilment
from clients import files, house
from clients.models import Blob
from finetune import datasets, jobs, ordering
from finetune.datasets import About, DatasetInUse, DatasetNotFound
from finetune.models import AttemptOutcome, Dataset, Face, Job, JobStatus
from finetune.ordering import Prepared, Wanted
from inference import revisions
from marketplace import money, storage
from marketplace.errors import MarketplaceError

# Rows that a link leads to.
MOST_BYTES = datasets.QUICK_BYTES
FETCH_S = 60.0
# How long the links of an answer lead to the files.
LINKS_DAYS = 30
_ROWS_KEPT = timedelta(days=7)
_LOOK_S = 2.0


def prepare(held: Fulfilment, data: Mapping[str, Any], model: str, *, budget: int, now: datetime) -> Prepared:
    """Take in the rows and work out what it will cost. Raises Impossible, Later, TakenAway."""
    try:
        dataset = _dataset(held) or _taken_in(held, data["training_data"], now)
        wanted = Wanted(
            owner=house.account(),
            model=model,
            dataset=dataset.uid,
            asked=dict(data.get("hyperparameters", {})),
        )
        prepared = ordering.prepare(wanted, now=now)
    except MarketplaceError as error:
        if error.status >= 500 or error.retry_after is not None:
            raise Later(error.code, error.message) from None
        raise Impossible(error.code, error.message) from None
    quote, left = prepared.quote, (held.expires_at - now).total_seconds()
    if quote.price > budget:
        raise Impossible(
            "payment_too_low",
            f"This training costs {money.named(quote.price)}; of the payment {money.named(budget)} are for it.",
        )
    if quote.is_measured and quote.seconds > left:
        raise Impossible(
            "too_little_time", f"It takes about {quote.seconds:.0f} seconds; the task expires in {left:.0f}."
        )
    return prepared


def _dataset(held: Fulfilment) -> Dataset | None:
    """The rows, where they were taken in before."""
    return datasets.visible_to(house.account()).filter(metadata__fulfilment=held.pk).first()


def _taken_in(held: Fulfilment, said: Any, now: datetime) -> Dataset:
    content = _content(held, said)
    about = About(
        name=f"task {held.task_address}", filename=f"{held.task_address}.jsonl" if isinstance(said, list) else "",
        metadata={"fulfilment": held.pk, "task": held.task_address}, expires_after=_ROWS_KEPT,
    )  # fmt: skip
    with storage.spool([content], limit=MOST_BYTES) as spooled:
        kept = datasets.read(spooled, about, owner=house.account())
    return datasets.add(kept, about, owner=house.account(), now=now)


def _content(held: Fulfilment, said: Any) -> bytes:
    if isinstance(said, list):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in said).encode()
    try:
        return documents.fetch(said, limit=MOST_BYTES, timeout_s=FETCH_S)
    except NotFetched as failure:
        if failure.may_pass and held.tries < 5:
            raise Later(failure.code, f"data.training_data: {failure.message}") from None
        raise Impossible(failure.code, f"data.training_data: {failure.message}") from None


def step(held: Fulfilment, data: Mapping[str, Any], model: str, *, budget: int, now: datetime) -> None:
    """Start the job, look how far it is, and answer when it is done. Raises Impossible, Later, TooLate, TakenAway."""
    job = held.job or _started(held, data, model, budget, now)
    if job.status == JobStatus.SUCCEEDED:
        sending.answer(held, _result(job, now), now=now, node=_node(job), provider_id=job.provider_id)
        _forget_rows(job, now)
    elif job.has_ended:
        raise Impossible(job.code or "training_failed", f"The training came to nothing: {job.reason}")
    else:
        raise Later("training", f"It is being trained: {job.reason}", after_s=_LOOK_S)


def _started(held: Fulfilment, data: Mapping[str, Any], model: str, budget: int, now: datetime) -> Job:
    """The job of a fulfilment, however often it is asked for."""
    key = f"fulfilment:{held.pk}"
    digest = sha256(key.encode()).hexdigest()
    job = ordering.known(house.account(), key, request_sha256=digest)
    if job is None:
        try:
            prepared = prepare(held, data, model, budget=budget, now=now)
        except Impossible as why:
            # It was possible when we took it on: prices and places change.
            raise Later(why.code, why.reason) from None
        order = prepared.order(
            Face.CHAIN, seed=data.get("seed"), suffix=data.get("suffix", ""), idempotency_key=key,
            request_sha256=digest, metadata={"fulfilment": held.pk, "task": held.task_address},
        )  # fmt: skip
        job, _ = ordering.start_once(order, now=now)
    rows.note(held, job=job)
    return job


def _result(job: Job, now: datetime) -> dict[str, Any]:
    assert job.result is not None
    until = now + timedelta(days=LINKS_DAYS)
    found = revisions.files_of(job.result)
    return {
        "object": "fine_tune",
        "model": job.result.model.name,
        "base": job.base.model.name,
        "method": job.method,
        "kind": job.result.kind,
        "is_better": job.is_better,
        "metrics": job.metrics,
        "trained_tokens": int(job.tokens * job.epochs),
        "files": [
            {"path": path, "size": blob.size, "sha256": blob.sha256, "url": _link(blob, until)}
            for path, blob in sorted(found.items())
        ],
        "files_until": until.isoformat(),
        "use": 'Name it in the data of further tasks: {"model": …}. Sources that this marketplace serves take it.',
    }


def _link(blob: Blob, until: datetime) -> str:
    return settings.PUBLIC_URL + files.link(blob, expires_at=until)


def _node(job: Job) -> Any:
    """The node that has trained it; None where the marketplace's own worker has."""
    done = job.attempts.filter(run=job.run, outcome=AttemptOutcome.SUCCEEDED).select_related("node").first()
    return done.node if done is not None else None


def _forget_rows(job: Job, now: datetime) -> None:
    with contextlib.suppress(DatasetInUse, DatasetNotFound):  # they expire by themselves
        datasets.delete(job.dataset, now=now)


@transaction.atomic
def stop(fulfilment: Fulfilment, *, now: datetime) -> None:
    """Nobody needs the training any longer, if there is one."""
    job = fulfilment.job
    if job is not None and not jobs.lock(job.pk).has_ended:
        jobs.cancel(job, now=now)
