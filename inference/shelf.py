"""Which models a caller may ask for, in the memory of one process.

What nodes offer stands in the directory. The catalogue adds who owns a model and what is hidden; it is read again every
few seconds.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from dataclasses import dataclass

from django.db import Error as DatabaseError
from django.db import close_old_connections

from clients.credentials import Principal
from gpus.directory import Directory
from inference.models import Kind, Model
from marketplace.errors import Forbidden, InvalidRequest, NotFound

logger = logging.getLogger(__name__)

READ_EVERY_S = 3.0


class ModelNotFound(NotFound):
    code = "model_not_found"


class ModelNotAllowed(Forbidden):
    code = "model_not_allowed"


class KindNotSupported(InvalidRequest):
    code = "unsupported_kind"


@dataclass(frozen=True, slots=True)
class Entry:
    owner_id: int | None
    hidden: bool


class Shelf:
    """The catalogue as one process knows it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._entries: dict[str, Entry] = {}

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                self._entries = await asyncio.to_thread(_read)
            except DatabaseError as error:
                logger.warning("Could not read the catalogue: %s", str(error).split("\n")[0])
            await asyncio.sleep(READ_EVERY_S)

    def check(self, model: str, kind: Kind, principal: Principal) -> None:
        """Raise ModelNotFound, ModelNotAllowed or KindNotSupported unless this caller may ask this of the model."""
        if principal.allowed_models and model not in principal.allowed_models:
            raise ModelNotAllowed(f"This API key may not use {model!r}.")
        entry, pool = self._entries.get(model), self._directory.pools.get(model)
        if (entry is None and pool is None) or (entry is not None and not _may_see(entry, principal)):
            raise self._not_found(model, principal)
        if pool is not None and pool.offers and not pool.does(kind.value):
            kinds = {each for offer in pool.offers.values() for each in offer.kinds}
            raise KindNotSupported(
                f"{model!r} does not do {kind.value}; it does {' and '.join(sorted(kinds))}."
            )

    def kind_for_text(self, model: str) -> Kind:
        """How to ask a model that is given a text: as a chat if it can, else as a completion, else for an embedding."""
        pool = self._directory.pools.get(model)
        order = (Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING)
        return next((kind for kind in order if pool is not None and pool.does(kind.value)), Kind.CHAT)

    def _not_found(self, model: str, principal: Principal) -> ModelNotFound:
        names = [
            name
            for name in self._directory.pools.keys() | self._entries.keys()
            if (entry := self._entries.get(name)) is None or _may_see(entry, principal)
        ]
        near = difflib.get_close_matches(model, names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else " GET /v1/models lists what there is."
        return ModelNotFound(f"The model {model!r} does not exist.{hint}", param="model")


def _may_see(entry: Entry, principal: Principal) -> bool:
    return not entry.hidden and (entry.owner_id in (None, principal.client_id) or principal.is_staff)


def _read() -> dict[str, Entry]:
    close_old_connections()
    try:
        rows = Model.objects.values_list("name", "owner_id", "hidden")
        return {name: Entry(owner_id, hidden) for name, owner_id, hidden in rows}
    finally:
        close_old_connections()
