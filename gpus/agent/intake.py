"""Where requests come in, whichever way they are delivered: find the engine, keep limits, count, drain."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import orjson

from gpus.agent.engines import (
    KIND_OF_PATH,
    Answer,
    Busy,
    Draining,
    Engine,
    NoSuchModel,
    Offer,
    Usage,
    openai_error,
)


class Slots:
    """How many requests a model answers at once. As many again may wait; more are turned away."""

    __slots__ = ("_waiting", "active", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a slot. Raises Busy at once where the queue is full as well."""
        if self.active < self.limit:
            self.active += 1
            return
        if len(self._waiting) >= self.limit:
            raise Busy(f"All {self.limit} slots are taken and {len(self._waiting)} requests wait.")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.free()  # the slot was handed over in the very moment of giving up
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def free(self) -> None:
        """Give a slot to whoever waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.active -= 1


class Visit:
    """One request's stay: entering takes a slot and opens the answer, leaving stops it and frees the slot."""

    __slots__ = ("_body", "_intake", "_path", "_slots", "answer")

    def __init__(self, intake: Intake, path: str, body: bytes) -> None:
        self._intake, self._path, self._body = intake, path, body
        self._slots: Slots | None = None
        self.answer: Answer | None = None

    async def __aenter__(self) -> Answer:
        self._intake.entered()
        try:
            self.answer = await self._open()
        except BaseException:
            self._left()
            raise
        return self.answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.answer is not None
        try:
            await self.answer.stop()
        finally:
            self._left()

    async def usage(self) -> Usage:
        """What was used so far; nothing where the answer never began."""
        return Usage(None, "estimate") if self.answer is None else await self.answer.usage()

    async def _open(self) -> Answer:
        request = _parsed(self._body)
        kind = KIND_OF_PATH.get(self._path)
        if kind is None:
            return openai_error(f"There is nothing at {self._path}.", status=404, code="unknown_url")
        if request is None:
            return openai_error("The request body is not a JSON object.", code="invalid_json")
        engine, offer = self._intake.find(str(request.get("model", "")))
        if kind not in offer.kinds:
            return openai_error(
                f"{offer.name} does not serve {self._path}; it serves: {', '.join(offer.kinds)}."
            )
        slots = self._intake.slots(offer)
        await slots.take()
        self._slots = slots
        return await engine.open(self._path, self._body, request)

    def _left(self) -> None:
        if self._slots is not None:
            self._slots.free()
            self._slots = None
        self._intake.left()


class Intake:
    """All requests of this node."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._slots: dict[str, Slots] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.active = 0
        self.draining = False

    def offers(self) -> list[Offer]:
        return [offer for engine in self._engines for offer in engine.offers]

    def visit(self, path: str, body: bytes) -> Visit:
        return Visit(self, path, body)

    def find(self, model: str) -> tuple[Engine, Offer]:
        """The engine that serves a model. Raises Draining or NoSuchModel."""
        if self.draining:
            raise Draining("This node finishes what it has and takes nothing new.")
        for engine in self._engines:
            for offer in engine.offers:
                if offer.name == model:
                    return engine, offer
        for engine in self._engines:
            for offer in engine.untried:
                if offer.name == model:
                    return engine, offer
        raise NoSuchModel(f"This node does not serve {model!r} at the moment.")

    def slots(self, offer: Offer) -> Slots:
        slots = self._slots.get(offer.name)
        if slots is None:
            slots = self._slots[offer.name] = Slots(offer.concurrency)
        slots.limit = offer.concurrency
        return slots

    def entered(self) -> None:
        self.active += 1
        self._idle.clear()

    def left(self) -> None:
        self.active -= 1
        if not self.active:
            self._idle.set()

    async def drained(self) -> None:
        """Return when nothing runs any more."""
        await self._idle.wait()


def _parsed(body: bytes) -> dict[str, Any] | None:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return request if isinstance(request, dict) else None
