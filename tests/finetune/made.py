"""Rows that tests of fine-tuning begin with, made directly: models that are kept, nodes that serve them, jobs."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import uuid4

from django.utils import timezone

from clients import ledger
from clients.models import AccountKind, Blob, Client, TransferKind
from finetune import jobs
from finetune.models import Attempt, Dataset, DatasetStatus, Face, Format, Job, Method
from finetune.quotes import Quote
from gpus.models import Node, NodeState, Offer
from gpus.talents import HostingTalent
from inference import hosting, revisions
from inference.models import Family, Hosting, HostingState, Model, Revision, RevisionKind, Source
from marketplace.money import TOKEN
from tests.gpus.conftest import HARDWARE

_numbers = itertools.count(1)


def blob(size: int = 10) -> Blob:
    """A content that exists in the books only."""
    digest = f"{next(_numbers):064x}"
    return Blob.objects.create(pk=digest, keccak256=digest, size=size, name=f"tests/{digest}")


def model(owner: Client | None, name: str, *, base: Revision | None = None) -> Model:
    """A model whose files the marketplace keeps."""
    found, _ = Model.objects.get_or_create(name=name, defaults={"owner": owner})
    revisions.add(
        found, {"model.safetensors": blob()}, kind=RevisionKind.FULL, family=Family.CAUSAL, base=base,
        source=Source.TRAINING if base else Source.IMPORT,
    )  # fmt: skip
    return found


def node(owner: Client, name: str = "attic", *, most: int = 10) -> Node:
    """A node that is online and hosts models."""
    digest = f"{next(_numbers):064x}"
    return Node.objects.create(
        owner=owner, machine_id=f"{name}-{digest[-6:]}", name=name, token_prefix=digest[-8:], token_digest=digest,
        delivery="pull", state=NodeState.ONLINE, hosting=HostingTalent(most=most).to_json(), **HARDWARE,
    )  # fmt: skip


def serve(served: Model, on: Node) -> None:
    """The node has loaded a model: it says so, and offers it."""
    assert served.revision is not None
    Hosting.objects.get(model=served, node=on)
    said = {"model": served.name, "revision": served.revision.digest, "state": "serving", "reason": ""}
    hosting.heard(on.pk, [said], now=timezone.now())
    Offer.objects.update_or_create(
        node=on, model=served.name, defaults={"kinds": ["chat"], "concurrency": 1, "active": True}
    )


def fail(served: Model, on: Node, reason: str = "Too large.") -> None:
    """The node cannot load a model, and says so."""
    Hosting.objects.filter(model=served, node=on).update(
        state=HostingState.FAILED, reason=reason, changed_at=timezone.now()
    )


def dataset(owner: Client, name: str = "Questions", **fields: Any) -> Dataset:
    digest = f"{next(_numbers):064x}"
    values: dict[str, Any] = {
        "filename": "questions.jsonl", "size": 120, "format": Format.CHAT, "status": DatasetStatus.READY,
        "summary": {"rows": 12, "tokens": 300, "bytes": 120}, "blob": blob(), "rows": blob(),
    } | fields  # fmt: skip
    return Dataset.objects.create(
        uid=f"file-{uuid4().hex[:24]}", owner=owner, name=name, sha256=digest, keccak256=digest, **values
    )


def fund(person: Client, tokens: int) -> None:
    ledger.transfer(
        source=ledger.account(None, AccountKind.OUTSIDE),
        destination=ledger.account(person.pk, AccountKind.SPENDABLE),
        amount=tokens * TOKEN,
        reference=f"deposit:{uuid4()}",
        kind=TransferKind.DEPOSIT,
    )


def quote(price: int = 3 * TOKEN) -> Quote:
    return Quote(
        method=Method.CAUSAL, parameters={"n_epochs": 2, "search_trials": 1}, rows=12, tokens=300, epochs=2,
        price=price, seconds=60, is_measured=False, place="the marketplace's worker",
    )  # fmt: skip


def job(owner: Client, *, price: int = 3 * TOKEN, base: Model | None = None, **more: Any) -> Job:
    """A job of somebody's that waits, its price held."""
    base = base or Model.objects.filter(name="toy").first() or model(None, "toy")
    assert base.revision is not None
    if price:
        fund(owner, 10)
    order = jobs.Order(
        owner=owner, face=Face.OPENAI, base=base.revision, dataset=more.pop("dataset", None) or dataset(owner),
        quote=quote(price), seed=1, **more,
    )  # fmt: skip
    return jobs.start(order, now=timezone.now())


def begin(begun: Job, on: Node | None = None) -> Attempt:
    """The job runs."""
    found = Attempt.objects.create(
        job=begun, run=begun.run, number=begun.attempts.count() + 1, node=on, worker="tests"
    )
    Job.objects.filter(pk=begun.pk).update(status="running", started_at=timezone.now(), reason="Training.")
    begun.refresh_from_db()
    return found
