"""Which model somebody means who wants one trained: by its name, a revision, a hash, or the job that has made it."""

from __future__ import annotations

import re
from collections.abc import Collection
from uuid import UUID

from django.db.models import Q, QuerySet

from clients.models import Client
from finetune.models import Job
from finetune.quotes import NotTrainable
from inference.catalogue import ModelNotFound, similar
from inference.models import Family, Model, Revision

# Names that programs of the broker's API have built in for hashes of their network.
KNOWN_HASHES = {
    "0x7f2244b25cd2219dfd9d14c052982ecce409356e0f08e839b79796e270d110a7": "distilbert-base-uncased",
    "0x8645816c17a8a70ebf32bcc7e621c659e8d0150b1a6bfca27f48f83010c6d12e": "mobilenet_v2",
    "0x2084fdd904c9a3317dde98147d4e7778a40e076b5b0eb469f7a8f27ae5b13e7f": "deepseek-r1-distill-qwen-1.5b",
    "0x02ed6d3889bebad9e2cd4008066478654c0886b12ad25ea7cf7d31df3441182e": "cocktailsgd-opt-1.3b",
    "0xb4f76a886b8655c92bb021922d60b5e4d9271a5c9da98b6cb10937a06c2c75a7": "Qwen2.5-0.5B-Instruct",
    "0x2e6f9620c35bdcb2b753cc7aa34e78077a8ed133e36fa36008fd6bdfd29af3a5": "Qwen3-32B",
}
_HASH = re.compile(r"0x[0-9a-f]{64}")
_REVISION = re.compile(r"(?P<name>.+)@(?P<which>[0-9]{1,9}|[0-9a-f]{8,64})")
_JOB = re.compile(r"(ftjob-)?[0-9a-f]{32}")


def find(said: str, *, owner: Client | None, allowed: Collection[str] = ()) -> Revision:
    """The revision that a text names: NAME, NAME@NUMBER, NAME@DIGEST, 0xHASH, or a job's id for its result.

    `allowed`: the models that an API key is limited to; empty for all. `owner` None: anybody.
    Raises ModelNotFound, also for what belongs to somebody else, and NotTrainable.
    """
    models = _allowed(visible_to(owner), allowed)
    text = said.strip()
    if "\0" in text:
        raise _not_found(said, models)
    found = _by_hash(text.lower(), models) or _by_name(text, models) or _by_job(text, models)
    if found is None:
        raise _not_found(said, models)
    return found


def check_allowed(base: Revision, *, owner: Client, allowed: Collection[str] = ()) -> None:
    """Raises ModelNotFound where `find` would not find a revision (any longer)."""
    models = _allowed(visible_to(owner), allowed)
    if not models.filter(pk=base.model_id).exists():
        raise _not_found(base.model.name, models)


def why_needed(model: Model) -> str:
    """What a model must not be deleted for, as a sentence; empty if nothing."""
    job = Job.objects.filter(base__model=model).exclude(status__in=Job.ENDED).first()
    return f"Job {job.uid} is trained from it. Cancel that or wait for its end." if job is not None else ""


def visible_to(owner: Client | None) -> QuerySet[Model]:
    """The models that somebody may have trained further, as far as the catalogue decides."""
    rows = Model.objects.filter(hidden=False)
    everybodys = Q(owner=None) | Q(published_at__isnull=False)
    if owner is None:
        return rows.filter(everybodys)
    return rows if owner.is_staff else rows.filter(everybodys | Q(owner=owner))


def trainable(owner: Client | None) -> QuerySet[Model]:
    """Models whose files are kept here and that a trainer can read."""
    rows = visible_to(owner).filter(is_alias=False).exclude(revision=None)
    return rows.exclude(revision__family=Family.OTHER).select_related("revision").order_by("id")


def _allowed(models: QuerySet[Model], allowed: Collection[str]) -> QuerySet[Model]:
    return models.filter(name__in=allowed) if allowed else models


def _by_hash(text: str, models: QuerySet[Model]) -> Revision | None:
    if not _HASH.fullmatch(text):
        return None
    found = Revision.objects.filter(model_hash=text, model__in=models).select_related("model").first()
    if found is None and text in KNOWN_HASHES:
        name = KNOWN_HASHES[text]
        known = models.filter(Q(name__iexact=name) | Q(name__iendswith=f"/{name}")).order_by("id").first()
        found = known.revision if known is not None else None
    return found


def _by_name(text: str, models: QuerySet[Model]) -> Revision | None:
    model = models.filter(name=text).select_related("revision__model", "target").first()
    if model is not None:
        return _present(model, models)
    asked = _REVISION.fullmatch(text)
    model = models.filter(name=asked["name"]).first() if asked else None
    if asked is None or model is None:
        return None
    which = asked["which"]
    by_number = Q(number=int(which)) if which.isdecimal() and len(which) < 10 else Q(pk=None)
    by_digest = Q(digest__startswith=which) if len(which) >= 8 else Q(pk=None)
    return model.revisions.filter(by_number | by_digest).select_related("model").order_by("-id").first()


def _present(model: Model, models: QuerySet[Model]) -> Revision:
    """What a name stands for now."""
    if model.is_alias:
        targets = models.filter(aliases=model).select_related("revision__model")
        target = targets.first()
        if target is None:
            raise NotTrainable(f"{model.name} stands for no model that you may use.", param="model")
        model = target
    if model.revision is None:
        names = similar(model.name, models.exclude(revision=None).values_list("name", flat=True)[:2000])
        hint = f" {' or '.join(names)} could be." if names else ""
        raise NotTrainable(
            f"{model.name} cannot be trained: only nodes have its files, not the marketplace. Upload them by "
            f"/ai/models/upload, or choose a model that GET /v1/model lists.{hint}",
            param="model",
        )
    return model.revision


def _by_job(text: str, models: QuerySet[Model]) -> Revision | None:
    if not _JOB.fullmatch(text):
        return None
    job = Job.objects.filter(uid=UUID(text.removeprefix("ftjob-")), result__model__in=models)
    made = job.select_related("result__model").first()
    return made.result if made is not None else None


def _not_found(said: str, models: QuerySet[Model]) -> ModelNotFound:
    names = models.exclude(revision=None).values_list("name", flat=True)[:2000]
    return ModelNotFound(said, similar(said, names))
