"""Which models a caller may ask for, in the memory of one process.

What nodes offer this moment stands in the directory. The catalogue adds who owns a model and what is hidden; it is
read again every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from django.db import Error as DatabaseError
from django.db import close_old_connections

from clients.credentials import Principal
from gpus.directory import Directory
from inference import catalogue
from inference.catalogue import Catalogue, Entry
from inference.models import Kind
from marketplace import background
from marketplace.errors import Forbidden, InvalidRequest

logger = logging.getLogger(__name__)

READ_EVERY_S = 3.0


class ModelNotAllowed(Forbidden):
    code = "model_not_allowed"


class KindNotSupported(InvalidRequest):
    code = "unsupported_kind"


class Shelf:
    """The catalogue as one process knows it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._catalogue = Catalogue()

    async def start(self) -> None:
        await self._read()
        self._task = background.keep_running(self._follow)

    async def stop(self) -> None:
        await background.end(self._task)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(READ_EVERY_S)
            await self._read()

    async def _read(self) -> None:
        try:
            self._catalogue = await asyncio.to_thread(_load)
        except DatabaseError as error:
            logger.warning("Could not read the catalogue: %s", str(error).split("\n")[0])

    def check(self, model: str, kind: Kind, principal: Principal) -> None:
        """Raise ModelNotFound, ModelNotAllowed or KindNotSupported unless this caller may ask this of the model."""
        if principal.allowed_models and model not in principal.allowed_models:
            raise ModelNotAllowed(f"This API key may not use {model!r}.")
        pool = self._directory.pools.get(model)
        if not self.may_use(model, principal):
            self._present().resolve(model, client_id=principal.client_id, is_staff=principal.is_staff)
        if pool is not None and pool.offers and not pool.does(kind.value):
            kinds = {each for offer in pool.offers.values() for each in offer.kinds}
            raise KindNotSupported(
                f"{model!r} does not do {kind.value}; it does {' and '.join(sorted(kinds))}."
            )

    def may_use(self, model: str, principal: Principal) -> bool:
        """Whether there is such a model, and this caller may ask it."""
        if principal.allowed_models and model not in principal.allowed_models:
            return False
        entry = self._catalogue.entries.get(model)
        if entry is None:
            return model in self._directory.pools
        return entry.is_for(principal.client_id, is_staff=principal.is_staff)

    def _present(self) -> Catalogue:
        """The catalogue, and what nodes offer since it was read."""
        return Catalogue({name: _fresh(name) for name in self._directory.pools} | self._catalogue.entries)

    def kind_for_text(self, model: str) -> Kind:
        """How to ask a model that is given a text: as a chat if it can, else as a completion, else for an embedding."""
        pool = self._directory.pools.get(model)
        order = (Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING)
        return next((kind for kind in order if pool is not None and pool.does(kind.value)), Kind.CHAT)


def _fresh(name: str) -> Entry:
    return Entry(name=name, created_at=datetime.now(UTC))


def _load() -> Catalogue:
    close_old_connections()
    try:
        return catalogue.load()
    finally:
        close_old_connections()
