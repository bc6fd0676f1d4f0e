"""Which models a caller may ask for, in the memory of one process.

What nodes offer this moment stands in the directory. The catalogue adds who owns a model and what is hidden; it is
read again every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import UTC, datetime

from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.utils import timezone

from clients.credentials import Principal
from gpus.directory import Directory
from gpus.placement import NoCapacity
from inference import catalogue, hosting
from inference.catalogue import Catalogue, Entry, ModelNotFound, NoTarget
from inference.models import Kind
from marketplace import background
from marketplace.bus import Bus
from marketplace.errors import Forbidden, InvalidRequest

logger = logging.getLogger(__name__)

READ_EVERY_S, TOGETHER_S, AGAIN_S = 3.0, 0.05, 1.0
# Who asks for a name that is not known has the catalogue read again, so long after it was read last.
UNKNOWN_AFTER_S, UNKNOWN_WITHIN_S, SERVED_WITHIN_S = 0.5, 2.0, 2.0
# Whoever changes what there is announces it here.
TOPIC = hosting.TOPIC


class ModelNotAllowed(Forbidden):
    code = "model_not_allowed"


class KindNotSupported(InvalidRequest):
    code = "unsupported_kind"


class ModelLoading(NoCapacity):
    code = "model_loading"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"No node serves {model} yet: it is being loaded, or waits for a node that can host it.",
            retry_after=3,
        )


class Shelf:
    """The catalogue as one process knows it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._catalogue = Catalogue()
        self._ring = asyncio.Event()
        # Models that the marketplace keeps, asked since the catalogue was read.
        self._asked: set[str] = set()
        self._read_at = 0.0
        # Done when a reading ends that has not begun yet.
        self._next_reading: asyncio.Future[None] | None = None

    async def start(self, bus: Bus | None = None) -> None:
        if bus is not None:
            bus.subscribe(TOPIC, lambda _message: self._ring.set())
            bus.on_lost(self._ring.set)
        while not await self._read():  # noqa: ASYNC110 - nobody tells when a database is there
            await asyncio.sleep(AGAIN_S)
        self._task = background.keep_running(self._follow)

    async def stop(self) -> None:
        await background.end(self._task)

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(READ_EVERY_S):
                    await self._ring.wait()
                await asyncio.sleep(TOGETHER_S)  # changes that come together are read together
            except TimeoutError:
                pass
            self._ring.clear()
            await self._read()

    async def _read(self) -> bool:
        reading, self._next_reading = self._next_reading, None
        self._read_at = asyncio.get_running_loop().time()
        asked, self._asked = self._asked, set()
        try:
            self._catalogue = await asyncio.to_thread(_load, asked)
        except DatabaseError as error:
            logger.warning("Could not read the catalogue: %s", str(error).split("\n")[0])
            return False
        finally:
            if reading is not None:
                reading.set_result(None)
        self._directory.guard(self._catalogue.guards())
        return True

    async def find(self, model: str, kind: Kind, principal: Principal) -> str:
        """What `check` says; where it knows no such name, once more with what the database says now.

        Another process may have told the caller of a name that this one is just about to hear of.
        """
        try:
            serving = self.check(model, kind, principal)
        except (ModelNotFound, NoTarget):
            await self._read_again()
            serving = self.check(model, kind, principal)
        if self.is_loading(serving):
            # By that reading it is noted as asked: if it rests, it is brought back.
            await self._read_again()
            await self._until_served(serving)
            return self.check(model, kind, principal)
        return serving

    async def _until_served(self, model: str) -> None:
        """Wait a moment: small models are loaded in less, and what a node has told another process is heard here."""
        end = asyncio.get_running_loop().time() + SERVED_WITHIN_S
        while self.is_loading(model) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(TOGETHER_S)

    async def _read_again(self) -> None:
        """Wait for a reading that begins from now on; not for long, and whoever waits shares it."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._read_at + UNKNOWN_AFTER_S - loop.time()))
        if self._next_reading is None:
            self._next_reading = loop.create_future()
        self._ring.set()
        await asyncio.wait([self._next_reading], timeout=UNKNOWN_WITHIN_S)

    def check(self, model: str, kind: Kind, principal: Principal) -> str:
        """The model that answers to a name, if this caller may ask this of it: an alias leads to another one.

        Raises ModelNotFound, NoTarget, ModelNotAllowed or KindNotSupported.
        """
        if principal.allowed_models and model not in principal.allowed_models:
            raise ModelNotAllowed(f"This API key may not use {model!r}.")
        if not self.may_use(model, principal):
            self._present().resolve(model, client_id=principal.client_id, is_staff=principal.is_staff)
        serving = self._catalogue.serving(model)
        if self._is_kept(serving):
            self._asked.add(serving)
        pool = self._directory.pools.get(serving)
        if pool is not None and pool.offers and not pool.does(kind.value):
            kinds = {each for offer in pool.offers.values() for each in offer.kinds}
            raise KindNotSupported(
                f"{model!r} does not do {kind.value}; it does {' and '.join(sorted(kinds))}."
            )
        return serving

    def is_loading(self, model: str) -> bool:
        """Whether it is kept here and no node serves it yet, as far as this process has heard."""
        pool = self._directory.pools.get(model)
        has_offers = pool is not None and bool(pool.offers)
        return self._is_kept(model) and not (has_offers and self._catalogue.entries[model].hosts)

    def _is_kept(self, model: str) -> bool:
        entry = self._catalogue.entries.get(model)
        return entry is not None and entry.is_hosted

    def may_use(self, model: str, principal: Principal) -> bool:
        """Whether there is such a model, and this caller may ask it."""
        if principal.allowed_models and model not in principal.allowed_models:
            return False
        entry = self._catalogue.entries.get(model)
        if entry is None:
            return model in self._directory.pools and not model.startswith(catalogue.GIVEN)
        return entry.is_for(principal.client_id, is_staff=principal.is_staff)

    def _present(self) -> Catalogue:
        """The catalogue, and what nodes offer since it was read."""
        offered = (name for name in self._directory.pools if not name.startswith(catalogue.GIVEN))
        return Catalogue({name: _fresh(name) for name in offered} | self._catalogue.entries)

    def kind_for_text(self, model: str) -> Kind:
        """How to ask a model that is given a text: as a chat if it can, else as a completion, else for an embedding."""
        entry = self._catalogue.entries.get(model)
        pool = self._directory.pools.get(model if entry is None or not entry.is_alias else entry.target)
        order = (Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING)
        return next((kind for kind in order if pool is not None and pool.does(kind.value)), Kind.CHAT)


def _fresh(name: str) -> Entry:
    return Entry(name=name, created_at=datetime.now(UTC))


def _load(asked: Collection[str]) -> Catalogue:
    """The catalogue as it is now, once it is noted what was asked."""
    close_old_connections()
    try:
        if asked:
            hosting.used(asked, now=timezone.now())
        return catalogue.load()
    finally:
        close_old_connections()
