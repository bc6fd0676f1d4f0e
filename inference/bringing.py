"""Models that clients bring: their files looked at, kept, and made a revision of a model of theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import ProtectedError

from clients import files, quotas
from clients.models import Blob, Client
from inference import archives, catalogue, hosting, revisions, weights
from inference.models import Family, Model, Revision, RevisionFile, RevisionKind, Source
from inference.weights import BadWeights
from marketplace import bus, storage
from marketplace.errors import Conflict, InvalidRequest
from marketplace.storage import Spooled

MOST_NAME = 100
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._/-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
# The single file that a model may be sent as.
SINGLE = "model.safetensors"


class NameTaken(Conflict):
    code = "model_name_taken"


class InUse(Conflict):
    code = "model_in_use"


class BaseMissing(InvalidRequest):
    code = "base_missing"


@dataclass(frozen=True, slots=True)
class About:
    """What is said of a model. `base`: the model that an adapter lies over, if its own files do not say."""

    name: str
    description: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    host: bool = True


def name_for(wanted: str, owner: Client) -> str:
    """The public id of a model of a client's: `username/name`; operators choose freely. Raises InvalidRequest."""
    name = _NOT_IN_NAMES.sub("-", wanted.strip()).strip("-")
    if not owner.is_staff:
        name = f"{owner.username}/{name.removeprefix(f'{owner.username}/')}"
    if not _NAME.fullmatch(name.removeprefix(f"{owner.username}/")) or len(name) > MOST_NAME:
        raise InvalidRequest(
            fields={
                "model_name": ["Give a name of letters, digits, dots, dashes and underscores, 100 at most."]
            }
        )
    return name


# --- Taking files -------------------------------------------------------------------------------------------


@contextmanager
def unpacked(sent: Mapping[str, Spooled]) -> Iterator[dict[str, Spooled]]:
    """The files of a model by their names in it, from what was sent: a zip file, a single file, or several.

    Raises BadWeights, TooLarge. What was unpacked is thrown away at the end, what was sent is not.
    """
    with ExitStack() as stack:
        found: dict[str, Spooled] = {}
        for name, spooled in sent.items():
            inside = _inside(spooled, stack) if archives.is_zip(spooled.path) else {name: spooled}
            if twice := found.keys() & inside.keys():
                raise BadWeights(f"{min(twice)} was sent twice.")
            found |= inside
        yield found


def _inside(spooled: Spooled, stack: ExitStack) -> dict[str, Spooled]:
    limit = settings.MAX_FILE_BYTES
    with archives.ModelArchive(spooled.path, limit=limit) as archive:
        return {
            name: stack.enter_context(storage.spool(archive.chunks(info), limit=limit))
            for name, info in archive.members().items()
        }


def looked_at(found: Mapping[str, Path]) -> tuple[RevisionKind, Family]:
    """What files are together. Weights alone can be kept, though nobody can serve them. Raises BadWeights."""
    if list(found) == [SINGLE]:
        weights_only = found[SINGLE]
        with weights_only.open("rb") as file:
            weights.check_safetensors(SINGLE, file, weights_only.stat().st_size)
        return RevisionKind.FULL, Family.OTHER
    return weights.check_paths(found)


def bring(sent: Mapping[str, Spooled], about: About, *, owner: Client, now: datetime) -> Revision:
    """Make what was sent the newest revision of a model of the owner's, and have a node serve it if that is wanted.

    Must not run in a transaction. Raises BadWeights, BaseMissing, NameTaken, InvalidRequest, StorageFull, TooLarge.
    """
    name = name_for(about.name, owner)
    _check_free(name, owner)
    with unpacked(sent) as found:
        kind, family = looked_at({path: each.path for path, each in found.items()})
        base = _base(found, about, owner) if kind == RevisionKind.ADAPTER else None
        quotas.check(owner, sum(each.size for each in found.values()))
        kept = {path: files.keep(each) for path, each in found.items()}
    revision = _add(name, kept, about, kind=kind, family=family, base=base, owner=owner)
    if about.host and family != Family.OTHER:
        hosting.want(revision.model, now=now)
    return revision


def _check_free(name: str, owner: Client) -> None:
    taken = Model.objects.filter(name=name).first()
    if taken is not None and (taken.owner_id != owner.pk or taken.is_alias):
        raise NameTaken(f"There is another model with the name {name}.", param="model_name")


@transaction.atomic
def _add(
    name: str,
    kept: Mapping[str, Blob],
    about: About,
    *,
    kind: RevisionKind,
    family: Family,
    base: Revision | None,
    owner: Client,
) -> Revision:
    model, created = Model.objects.get_or_create(
        name=name,
        defaults={
            "owner": owner,
            "title": about.name.strip()[:255],
            "description": about.description,
            "framework": _text(about.config, "framework") or "transformers",
            "version": _text(about.config, "version"),
        },
    )
    _check_free(name, owner)
    new = sum(blob.size for blob in kept.values())
    quotas.check(owner, new)
    if not created:
        _describe(model, about)
    revision = revisions.add(
        model,
        kept,
        kind=kind,
        family=family,
        source=Source.UPLOAD,
        base=base,
        by=owner,
        config=dict(about.config),
    )
    transaction.on_commit(lambda: bus.announce(hosting.TOPIC, name))
    return revision


def _describe(model: Model, about: About) -> None:
    said = {
        "description": about.description,
        "framework": _text(about.config, "framework"),
        "version": _text(about.config, "version"),
    }
    said = {key: value for key, value in said.items() if value}
    if said:
        Model.objects.filter(pk=model.pk).update(**said)


def _text(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key)
    return str(value)[:100] if isinstance(value, str | int | float) else ""


def _base(found: Mapping[str, Spooled], about: About, owner: Client) -> Revision:
    """What an adapter lies over: as its uploader says, else as its own configuration does. Raises BaseMissing."""
    with found["adapter_config.json"].path.open("rb") as file:
        own = weights.check_json("adapter_config.json", file).get("base_model_name_or_path")
    name = about.base or str(own or "")
    model = Model.objects.filter(name=name).select_related("revision", "owner", "target").first()
    may_use = model is not None and may_see(model, owner)
    if model is None or not may_use or model.revision is None or model.revision.family != Family.CAUSAL:
        near = catalogue.similar(name, _bases_of(owner))
        raise BaseMissing(
            f"The adapter lies over {name[:100]!r}, which the marketplace does not keep. Upload that first, or name "
            f"it as `base_model`.{' Kept is ' + ' and '.join(near) + '.' if near else ''}",
            param="base_model",
        )
    return revisions.chain(model.revision)[0]


def may_see(model: Model, person: Client) -> bool:
    """Whether somebody may use a model."""
    if model.hidden:
        return False
    return model.owner_id in (None, person.pk) or model.published_at is not None or person.is_staff


def _bases_of(owner: Client) -> list[str]:
    rows = Model.objects.filter(revision__family=Family.CAUSAL, hidden=False).exclude(revision=None)
    return [model.name for model in rows[:2000] if may_see(model, owner)]


# --- Changing and deleting ----------------------------------------------------------------------------------


def publish(model: Model, *, published: bool, now: datetime) -> None:
    """Let everybody use a model, or its owner alone again."""
    with transaction.atomic():
        if published:
            Model.objects.filter(pk=model.pk, published_at=None).update(published_at=now)
        else:
            Model.objects.filter(pk=model.pk).update(published_at=None)
        transaction.on_commit(lambda: bus.announce(hosting.TOPIC, model.name))


# Those above this app who may need a model: a sentence that says what for, or nothing.
_needs: list[Callable[[Model], str]] = []


def ask_before_deleting(needs: Callable[[Model], str]) -> None:
    """Have somebody asked, under the lock of the model's row, whether a model is needed."""
    _needs.append(needs)


def delete(model: Model) -> None:
    """Delete a model with its revisions; what happened with it keeps a name without files.

    Raises InUse where names lead to it, an adapter lies over it, or something that goes on needs it.
    """
    names = sorted(model.aliases.values_list("name", flat=True))
    if names:
        raise InUse(
            f"It is what {' and '.join(names[:3])} stands for. Deploy something else under that name first."
        )
    over = Revision.objects.filter(base__model=model, kind=RevisionKind.ADAPTER).exclude(model=model)
    over = over.exclude(files=None).select_related("model")
    if made := sorted({revision.model.name for revision in over[:100]}):
        raise InUse(f"{' and '.join(made[:3])} lies over it. Delete that first.")
    with transaction.atomic():
        Model.objects.select_for_update().get(pk=model.pk)
        for needs in _needs:
            if reason := needs(model):
                raise InUse(reason)
        hosting.drop(model)
        try:
            with transaction.atomic():
                # Adapters lie over revisions of the same model as well: the newest first.
                for revision in model.revisions.order_by("-pk"):
                    revision.delete()
                model.delete()
        except ProtectedError:
            _empty(model)
        transaction.on_commit(lambda: bus.announce(hosting.TOPIC, model.name))


def _empty(model: Model) -> None:
    """Leave of a model what records of the past point to: a name that nobody can ask for, and no files."""
    RevisionFile.objects.filter(revision__model=model).delete()
    Model.objects.filter(pk=model.pk).update(
        name=f"{model.name[:230]} (deleted {model.pk})", hidden=True, published_at=None, revision=None
    )
