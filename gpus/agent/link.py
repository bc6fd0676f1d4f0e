"""The agent's one connection to the marketplace: many requests come in, their answers go out in pieces.

The format is `gpus.protocol`. All frames written in one turn of the event loop leave as one message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol

import aiohttp
import orjson

from gpus import protocol
from gpus.agent.engines import Refusal
from gpus.agent.intake import Intake, Visit
from gpus.protocol import MAX_PAYLOAD, WINDOW, Kind, ProtocolError, encode

logger = logging.getLogger(__name__)

PING_EVERY_S = 10.0
DEAD_AFTER_S = 30.0
# Keep messages far below what the other side accepts, however many streams flush at once.
MESSAGE_BYTES = 1024 * 1024


class Socket(Protocol):
    """What a link needs of aiohttp's WebSocket."""

    async def receive(self) -> aiohttp.WSMessage: ...
    async def send_bytes(self, data: bytes) -> None: ...
    async def close(self) -> bool: ...


class _Exchange:
    """One request on the link, and how much of its answer may still be sent."""

    __slots__ = ("_room", "cancelled", "credit", "number", "task")

    def __init__(self, number: int) -> None:
        self.number = number
        self.credit = WINDOW
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None

    def allow(self, count: int) -> None:
        self.credit += count
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def room(self) -> None:
        """Wait until the marketplace takes more."""
        while self.credit <= 0:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def cancel(self) -> None:
        if not self.cancelled and self.task is not None:
            self.cancelled = True
            self.task.cancel()


class Link:
    """Serves one open connection until it ends; whatever still runs then is stopped at the engine."""

    def __init__(self, socket: Socket, intake: Intake, on_text: Callable[[dict[str, Any]], None]) -> None:
        self._socket = socket
        self._intake = intake
        self._on_text = on_text
        self._exchanges: dict[int, _Exchange] = {}
        self._outbox: list[bytes] = []
        self._wake: asyncio.Future[None] | None = None
        self._heard_at = time.monotonic()
        #: Set while no request is under way on this link.
        self.calm = asyncio.Event()
        self.calm.set()

    async def run(self) -> None:
        """Return when the connection has ended. Raises ProtocolError when the other side talks nonsense."""
        tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._watch())]
        try:
            await self._receive()
        finally:
            tasks += [exchange.task for exchange in self._exchanges.values() if exchange.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._flush()
            await self._socket.close()

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            self._heard_at = time.monotonic()
            if message.type is aiohttp.WSMsgType.BINARY:
                for number, kind, payload in protocol.decode(message.data):
                    self._frame(number, kind, payload)
            elif message.type is aiohttp.WSMsgType.TEXT:
                self._text(message.data)
            else:
                return  # closed, closing or broken

    def _frame(self, number: int, kind: int, payload: bytes) -> None:
        if kind == Kind.REQUEST:
            self._begin(number, payload)
        elif kind == Kind.PING:
            self._write(encode(0, Kind.PONG))
        elif (exchange := self._exchanges.get(number)) is not None:
            if kind == Kind.CREDIT:
                exchange.allow(protocol.decode_credit(payload))
            elif kind == Kind.CANCEL:
                exchange.cancel()

    def _text(self, text: str) -> None:
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ProtocolError("a text message is not JSON") from error
        if isinstance(message, dict):
            self._on_text(message)

    def _begin(self, number: int, payload: bytes) -> None:
        try:
            head, body = protocol.decode_request(payload)
            visit = self._intake.visit(head["path"], body)
            deadline_s = float(head["deadline_s"]) if head.get("deadline_s") else None
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(f"a request cannot be read: {error}") from error
        exchange = self._exchanges[number] = _Exchange(number)
        self.calm.clear()
        exchange.task = asyncio.create_task(self._serve(exchange, visit, deadline_s))
        exchange.task.add_done_callback(lambda task: self._ended(exchange, task))

    def _ended(self, exchange: _Exchange, task: asyncio.Task[None]) -> None:
        self._exchanges.pop(exchange.number, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A request failed inside the agent", exc_info=error)
            self._write(
                _error(exchange.number, "engine_failed", "The node's agent failed; its log says why.")
            )
        elif task.cancelled() and exchange.cancelled:  # called off before it began to run
            self._write(_end(exchange.number, {"usage": None, "usage_source": "estimate"}))
        if not self._exchanges:
            self.calm.set()

    async def _serve(self, exchange: _Exchange, visit: Visit, deadline_s: float | None) -> None:
        try:
            async with asyncio.timeout(deadline_s), visit as answer:
                self._write(encode(exchange.number, Kind.HEAD, _head(answer.status, answer.content_type)))
                async for chunk in answer:
                    await self._body(exchange, chunk)
            last = _end(exchange.number, (await visit.usage()).to_json())
        except Refusal as refusal:
            last = _error(exchange.number, refusal.code, str(refusal))
        except TimeoutError:
            last = _error(exchange.number, "engine_failed", f"The deadline of {deadline_s} s has passed.")
        except asyncio.CancelledError:
            if not exchange.cancelled:
                raise  # the link is gone, nobody listens
            last = _end(exchange.number, (await visit.usage()).to_json())
        self._write(last)

    async def _body(self, exchange: _Exchange, chunk: bytes) -> None:
        size = len(chunk)
        if size <= exchange.credit and size <= MAX_PAYLOAD:
            exchange.credit -= size
            self._write(encode(exchange.number, Kind.BODY, chunk))
            return
        at = 0
        while at < size:
            await exchange.room()
            piece = chunk[at : at + min(exchange.credit, MAX_PAYLOAD)]
            at += len(piece)
            exchange.credit -= len(piece)
            self._write(encode(exchange.number, Kind.BODY, piece))

    def _write(self, frame: bytes) -> None:
        self._outbox.append(frame)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._outbox:
                self._wake = loop.create_future()
                await self._wake
            if not await self._flush():
                return

    async def _flush(self) -> bool:
        """Send what has collected. False when the connection is closing."""
        frames, self._outbox = self._outbox, []
        try:
            for message in _messages(frames):
                await self._socket.send_bytes(message)
        except (ConnectionError, RuntimeError):  # the latter is aiohttp's for a closing transport
            await self._socket.close()
            return False
        return True

    async def _watch(self) -> None:
        """Ask for a sign of life, and hang up on a marketplace that gives none: the network may be gone."""
        while time.monotonic() - self._heard_at < DEAD_AFTER_S:
            await asyncio.sleep(PING_EVERY_S)
            self._write(encode(0, Kind.PING))
        logger.warning("The marketplace has been silent for %g s; hanging up.", DEAD_AFTER_S)
        await self._socket.close()


@lru_cache(maxsize=256)
def _head(status: int, content_type: str) -> bytes:
    return orjson.dumps({"status": status, "content_type": content_type})


def _end(number: int, usage: dict[str, Any]) -> bytes:
    return encode(number, Kind.END, orjson.dumps(usage))


def _error(number: int, code: str, message: str) -> bytes:
    return encode(number, Kind.ERROR, orjson.dumps({"code": code, "message": message}))


def _messages(frames: list[bytes]) -> Iterator[bytes]:
    """Join frames into as few messages as their sizes allow."""
    if len(frames) <= MESSAGE_BYTES // MAX_PAYLOAD:
        if frames:
            yield b"".join(frames)
        return
    batch: list[bytes] = []
    size = 0
    for frame in frames:
        if batch and size + len(frame) > MESSAGE_BYTES:
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(frame)
        size += len(frame)
    yield b"".join(batch)
