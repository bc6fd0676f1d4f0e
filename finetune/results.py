"""What a training has made: a model of its owner's, with a revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clients.models import Blob, Client
from finetune.models import Job
from inference import hosting, revisions
from inference.models import Family, Model, Revision, RevisionKind, Source


@dataclass(frozen=True, slots=True)
class Made:
    """The files of a result by path, and what was measured. Checked by `inference.weights` before."""

    files: Mapping[str, Blob]
    kind: RevisionKind
    metrics: dict[str, Any]
    is_better: bool


def name_of(job: Job) -> str:
    """The public id of a job's result, after OpenAI's pattern: ft:BASE:OWNER:SUFFIX:ID."""
    base, owner = short_base(job.base.model.name), short_owner(job.owner)
    return f"ft:{base}:{owner}:{job.suffix}:{job.uid.hex[:8]}"


def short_base(name: str) -> str:
    """A base as names of what was trained from it have it."""
    return name.removeprefix("ft:").split(":")[0].rsplit("/", 1)[-1][:100]


def short_owner(owner: Client) -> str:
    return owner.username[:60]


def publish(job: Job, made: Made, *, now: datetime) -> Revision:
    """Catalogue a result for its owner, and have a node serve it."""
    model = _model_of(job)
    revision = revisions.add(
        model,
        made.files,
        kind=made.kind,
        family=Family(job.base.family),
        source=Source.TRAINING,
        # An adapter that was trained further replaces the one before: it lies over the same full model.
        base=revisions.chain(job.base)[0] if made.kind == RevisionKind.ADAPTER else job.base,
        by=job.owner,
        config={"job": str(job.uid), "metrics": made.metrics},
    )
    hosting.want(model, now=now)
    return revision


def _model_of(job: Job) -> Model:
    """The model that a job's results are revisions of: its owner's, even where somebody else has got at its name."""
    base_title = job.base.model.title or job.base.model.name
    about = {
        "owner": job.owner,
        "title": f"{base_title}, tuned" + (f" ({job.suffix})" if job.suffix else ""),
        "description": f"Trained from {job.base.model.name} on {job.dataset.name}.",
        "framework": job.base.model.framework,
    }
    model, _ = Model.objects.get_or_create(name=name_of(job), defaults=about)
    if model.owner_id == job.owner_id and not model.is_alias:
        return model
    own = Model.objects.filter(owner=job.owner, is_alias=False)
    found, _ = own.get_or_create(name=f"{name_of(job)}{job.uid.hex[8:]}", defaults=about)
    return found
