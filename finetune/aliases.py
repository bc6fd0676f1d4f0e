"""Names that stay while the models behind them change: what they may be, and where they lead."""

from __future__ import annotations

import re

from django.db import transaction

from finetune import results
from inference import hosting
from inference.models import Model, Revision
from marketplace import bus
from marketplace.errors import Conflict, InvalidRequest

LIVE_NAME = "live"
_BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class AliasRefused(InvalidRequest):
    code = "invalid_alias"


class AliasTaken(Conflict):
    code = "alias_taken"


def name_for(model: Model, wanted: str = "") -> str:
    """The name that a model of somebody's is deployed under: ft:BASE:OWNER:WORD.

    `wanted` is the word ("live" where it is empty) or such a name in full. Raises AliasRefused.
    """
    assert model.revision is not None
    assert model.owner is not None
    owner = results.short_owner(model.owner)
    *before, word = (wanted or LIVE_NAME).split(":")
    is_own = not before or (
        len(before) == 3 and before[0] == "ft" and before[2] == owner and _BASE.fullmatch(before[1])
    )
    if not is_own or not _WORD.fullmatch(word):
        raise AliasRefused(
            f"{wanted!r} cannot be a name. Give one word (letters, digits, . _ -; at most 64), for "
            f"ft:BASE:{owner}:WORD, or such a name in full.",
            param="alias",
        )
    base = before[1] if before else results.short_base(_root(model.revision).model.name)
    return f"ft:{base}:{owner}:{word}"


def _root(revision: Revision) -> Revision:
    """What was there before anything was trained."""
    while revision.base is not None:
        revision = revision.base
    return revision


def locked(name: str, model: Model) -> Model:
    """The row of a name, made where there is none, and locked. Raises AliasTaken."""
    alias, _ = Model.objects.get_or_create(
        name=name,
        defaults={
            "owner": model.owner,
            "is_alias": True,
            "title": f"{name.rsplit(':', 1)[-1]}: whatever is deployed",
            "framework": model.framework,
        },
    )
    if not alias.is_alias or alias.owner_id != model.owner_id:
        raise AliasTaken(f"There is another model with the name {name}.", param="alias")
    return lock(alias.pk)


def lock(alias_id: int) -> Model:
    return Model.objects.select_for_update(no_key=True).get(pk=alias_id)


def point(alias: Model, target: Model) -> None:
    """Let a name lead to another model, in all processes from the commit on."""
    alias.target = target
    alias.save(update_fields=["target"])
    transaction.on_commit(lambda: bus.announce(hosting.TOPIC, alias.name))
