"""Agents' connections (`gpus.protocol`), and the exchanges that run over them, from whichever process they come.

A node that pulls is connected to one process. A request that arrives at another one travels over the bus: the frames
are the same, wrapped with who sent them. Credit goes from the consumer to the agent and back all the way, so that
a slow reader slows down the engine and fills no memory in between.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import orjson

from gpus import protocol
from gpus.directory import Directory, LiveNode
from gpus.protocol import Kind
from marketplace.bus import Bus

logger = logging.getLogger(__name__)

PING_S = 5.0
# An agent that does not answer a ping for so long is gone, whatever TCP believes.
PONG_WITHIN_S = 15.0
# What an agent may send before it is read: its credit, and a frame that came at the same moment.
MOST_HELD = 2 * protocol.WINDOW
# Between our own processes only: the link that carried the exchange is gone.
LOST = 100


class NodeLost(Exception):
    """The node, or the way to it, broke in the middle of an exchange."""


class NodeUnreachable(NodeLost):
    """The node cannot be called at all."""


class NodeRefused(Exception):
    """The agent answered an error of its own. `code` as in `gpus.protocol`."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Sink(Protocol):
    """Where the frames of an exchange go."""

    def feed(self, kind: int, payload: bytes) -> None: ...
    def lose(self, why: str) -> None: ...


SendFrame = Callable[[Kind, bytes], None]
Forget = Callable[[], object]


class Exchange:
    """The consumer's end of one request: first `head`, then `chunks`, then `usage` is known."""

    def __init__(self, send: SendFrame, forget: Forget) -> None:
        self.usage: dict[str, Any] | None = None
        self.usage_source = ""
        self.ended = False
        self._send = send
        self._forget = forget
        self._frames: deque[tuple[int, bytes]] = deque()
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._taken = self._held = 0

    def feed(self, kind: int, payload: bytes) -> None:
        if self._error is not None:
            return
        self._held += len(payload)
        if self._held > MOST_HELD:
            # It ignores the credit it has; what it sends must not fill our memory.
            self._frames.clear()
            self._send(Kind.CANCEL, b"")
            self.lose("The agent sent more than it may.")
            return
        self._frames.append((kind, payload))
        self._wake()

    def lose(self, why: str) -> None:
        self._error = NodeLost(why)
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _next(self) -> tuple[int, bytes]:
        while not self._frames:
            if self._error is not None:
                self._finish()
                raise self._error
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        frame = self._frames.popleft()
        self._held -= len(frame[1])
        return frame

    async def head(self) -> tuple[int, str]:
        """Status and content type of the engine's answer. Raises NodeLost, NodeRefused."""
        kind, payload = await self._next()
        if kind == Kind.HEAD:
            head = self._said(payload)
            status = head.get("status")
            if not isinstance(status, int) or not 100 <= status < 600:
                raise self._failure(kind, payload)
            return status, str(head.get("content_type") or "application/json")
        raise self._failure(kind, payload)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises NodeLost, NodeRefused when it breaks off."""
        while True:
            kind, payload = await self._next()
            if kind == Kind.BODY:
                yield payload
                self._take(len(payload))
            elif kind == Kind.END:
                self._end(payload)
                return
            else:
                raise self._failure(kind, payload)

    def _take(self, count: int) -> None:
        self._taken += count
        if self._taken >= protocol.WINDOW // 2:
            self._send(Kind.CREDIT, struct.pack(">I", self._taken))
            self._taken = 0

    def _end(self, payload: bytes) -> None:
        said = self._said(payload) if payload else {}
        usage, source = said.get("usage"), said.get("usage_source")
        self.usage = usage if isinstance(usage, dict) else None
        self.usage_source = source if isinstance(source, str) else "engine"
        self._finish()

    def _said(self, payload: bytes) -> dict[str, Any]:
        """A frame's JSON object. Raises NodeLost where it is none."""
        try:
            said = orjson.loads(payload)
        except orjson.JSONDecodeError:
            said = None
        if not isinstance(said, dict):
            self._finish()
            raise NodeLost("The agent sent what is no JSON object.")
        return said

    def _failure(self, kind: int, payload: bytes) -> Exception:
        self._finish()
        if kind == Kind.ERROR:
            said = self._said(payload)
            return NodeRefused(str(said.get("code")), str(said.get("message")))
        return NodeLost(f"The agent sent frame {kind} out of turn.")

    def _finish(self) -> None:
        self.ended = True
        self._forget()

    async def cancel(self, *, wait_s: float = 1.0) -> None:
        """Stop the node's work, and learn what it had used, if it says so in time."""
        if self.ended:
            return
        self._send(Kind.CANCEL, b"")
        try:
            async with asyncio.timeout(wait_s):
                async for _ in self.chunks():
                    pass
        except (NodeLost, NodeRefused, TimeoutError):
            self._finish()


class Link:
    """One agent's connection, in the process that holds it."""

    def __init__(
        self,
        link_id: UUID,
        node_id: int,
        send: Callable[[bytes], Any],
        send_text: Callable[[str], Any] | None = None,
    ) -> None:
        self.id = link_id
        self.node_id = node_id
        self.alive = asyncio.get_running_loop().time()
        self.replaced = asyncio.Event()
        self._send_bytes, self._send_text = send, send_text
        self._numbers = itertools.count(1)
        self._sinks: dict[int, Sink] = {}
        self._out: list[bytes] = []
        self._said: list[str] = []
        self._something = asyncio.Event()

    def open(self, request: bytes, make: Callable[[SendFrame, Forget], Any]) -> Any:
        """Start an exchange: `make(send, forget)` builds its sink, `request` is a REQUEST payload."""
        number = next(self._numbers)
        sink = make(lambda kind, payload: self.send(number, kind, payload), lambda: self._forget(number))
        self._sinks[number] = sink
        self.send(number, Kind.REQUEST, request)
        return sink

    def _forget(self, number: int) -> None:
        self._sinks.pop(number, None)

    def send(self, number: int, kind: Kind, payload: bytes = b"") -> None:
        self._out.append(protocol.encode(number, kind, payload))
        self._something.set()

    def say(self, message: dict[str, Any]) -> None:
        """A text message about the node itself."""
        self._said.append(orjson.dumps(message).decode())
        self._something.set()

    async def write(self) -> None:
        """Send what collects; the frames of one turn of the loop leave as one message."""
        while True:
            await self._something.wait()
            self._something.clear()
            out, self._out = self._out, []
            said, self._said = self._said, []
            if out:
                await self._send_bytes(b"".join(out))
            for text in said:
                if self._send_text is not None:
                    await self._send_text(text)

    async def ping(self) -> None:
        """Return when the agent has stopped answering."""
        loop = asyncio.get_running_loop()
        while loop.time() - self.alive < PONG_WITHIN_S:
            self.send(0, Kind.PING)
            await asyncio.sleep(PING_S)

    def receive(self, message: bytes) -> None:
        """Hand each frame to its exchange. Raises ProtocolError."""
        self.alive = asyncio.get_running_loop().time()
        for number, kind, payload in protocol.decode(message):
            if number:
                sink = self._sinks.get(number)
                if sink is not None:
                    sink.feed(kind, payload)
            elif kind == Kind.PING:
                self.send(0, Kind.PONG)

    def lose(self, why: str) -> None:
        """The connection is gone: every exchange on it ends."""
        sinks, self._sinks = self._sinks, {}
        for sink in sinks.values():
            sink.lose(why)


_ENVELOPE = struct.Struct(">I16sQQB")


def _wrap(sender: UUID, node_id: int, number: int, kind: int, payload: bytes) -> bytes:
    return _ENVELOPE.pack(len(payload), sender.bytes, node_id, number, kind) + payload


def _unwrap(message: bytes) -> Iterator[tuple[UUID, int, int, int, bytes]]:
    at = 0
    while at < len(message):
        length, sender, node_id, number, kind = _ENVELOPE.unpack_from(message, at)
        start = at + _ENVELOPE.size
        at = start + length
        yield UUID(bytes=sender), node_id, number, kind, message[start:at]


class _Forward:
    """The link's end of an exchange that another process started."""

    def __init__(self, links: Links, origin: UUID, number: int, node_id: int) -> None:
        self._links, self._origin, self._number, self._node_id = links, origin, number, node_id
        self.send: SendFrame = lambda kind, payload: None
        self.forget: Forget = lambda: None

    def feed(self, kind: int, payload: bytes) -> None:
        if kind in (Kind.END, Kind.ERROR):
            self._close()
        self._links.tell(self._origin, self._node_id, self._number, kind, payload)

    def lose(self, why: str) -> None:
        self._close()
        self._links.tell(self._origin, self._node_id, self._number, LOST, why.encode())

    def abandon(self) -> None:
        """Nobody hears the answer any more: stop the agent's work."""
        self.send(Kind.CANCEL, b"")
        self._close()

    def _close(self) -> None:
        self._links.forwards.pop((self._origin, self._number), None)
        self.forget()


@dataclass(frozen=True, slots=True)
class _Remote:
    """An exchange over another process's link, and what must not change while it lasts."""

    gateway_id: UUID
    node_id: int
    link_id: UUID | None
    exchange: Exchange


class Links:
    """All exchanges of one process: over its own links, and over those of other processes."""

    def __init__(self, directory: Directory, bus: Bus) -> None:
        self.own: dict[int, Link] = {}
        self.forwards: dict[tuple[UUID, int], _Forward] = {}
        self._directory = directory
        self._bus = bus
        self._numbers = itertools.count(1)
        self._remote: dict[int, _Remote] = {}
        bus.subscribe(f"gateway:{directory.gateway_id.hex}", self._heard)
        bus.on_lost(self._lost_bus)
        bus.on_undelivered(self._nobody_there)
        directory.on_change(self._changed)
        directory.on_errand(self._errand)

    def open(self, node: LiveNode, *, path: str, deadline_s: float, request_id: str, body: bytes) -> Exchange:
        """Send a request to a node that pulls. Raises NodeLost when it is not connected."""
        head = orjson.dumps({"path": path, "deadline_s": deadline_s, "request_id": request_id})
        request = head + b"\n" + body
        link = self.own.get(node.id)
        if link is not None:
            exchange: Exchange = link.open(request, Exchange)
            return exchange
        if node.gateway_id is None or node.gateway_id == self._directory.gateway_id:
            raise NodeLost("The agent is not connected.")
        return self._open_elsewhere(node, node.gateway_id, request)

    def _open_elsewhere(self, node: LiveNode, gateway_id: UUID, request: bytes) -> Exchange:
        number = next(self._numbers)

        def send(kind: Kind, payload: bytes) -> None:
            self.tell(gateway_id, node.id, number, kind, payload)

        exchange = Exchange(send, lambda: self._remote.pop(number, None))
        self._remote[number] = _Remote(gateway_id, node.id, node.link_id, exchange)
        send(Kind.REQUEST, request)
        return exchange

    def tell(self, gateway_id: UUID, node_id: int, number: int, kind: int, payload: bytes) -> None:
        """One frame to another process."""
        self._bus.publish(
            f"gateway:{gateway_id.hex}", _wrap(self._directory.gateway_id, node_id, number, kind, payload)
        )

    def _heard(self, message: bytes) -> None:
        for sender, node_id, number, kind, payload in _unwrap(message):
            if kind == Kind.REQUEST:
                self._forward(sender, node_id, number, payload)
            elif kind in (Kind.CREDIT, Kind.CANCEL):
                forward = self.forwards.get((sender, number))
                if forward is not None:
                    forward.send(Kind(kind), payload)
            elif (remote := self._remote.get(number)) is not None:
                self._feed(remote.exchange, kind, payload)

    @staticmethod
    def _feed(exchange: Exchange, kind: int, payload: bytes) -> None:
        if kind == LOST:
            exchange.lose(payload.decode())
        else:
            exchange.feed(kind, payload)

    def _forward(self, origin: UUID, node_id: int, number: int, request: bytes) -> None:
        forward = _Forward(self, origin, number, node_id)
        link = self.own.get(node_id)
        if link is None:
            forward.lose("The agent is no longer connected.")
            return
        self.forwards[origin, number] = forward

        def make(send: SendFrame, forget: Forget) -> _Forward:
            forward.send, forward.forget = send, forget
            return forward

        link.open(request, make)

    def _lost_bus(self) -> None:
        """Frames may be missing: what crosses processes cannot go on."""
        for remote in list(self._remote.values()):
            remote.exchange.lose("The connection between our processes broke.")
        for forward in list(self.forwards.values()):
            forward.abandon()

    def _errand(self, node: LiveNode) -> None:
        """There is something that the agent should ask for; one that is not connected hears it with its heartbeat."""
        link = self.own.get(node.id)
        if link is not None:
            link.say({"type": "errands"})

    def _changed(self, node: LiveNode) -> None:
        """A node that is connected anew, or no longer, answers nothing over its old link."""
        own = self.own.get(node.id)
        if own is not None and node.link_id is not None and own.id != node.link_id:
            own.replaced.set()
        for remote in list(self._remote.values()):
            gone = remote.link_id != node.link_id or not self._directory.is_there(node.gateway_id)
            if remote.node_id == node.id and gone:
                remote.exchange.lose("The agent's connection broke.")

    def _nobody_there(self, topic: str) -> None:
        """A process did not hear what we sent it: what runs through it cannot go on."""
        kind, _, name = topic.partition(":")
        if kind == "gateway":
            self._directory.doubt(UUID(name))
        for remote in list(self._remote.values()):
            if topic == f"gateway:{remote.gateway_id.hex}":
                remote.exchange.lose("The process that holds the agent's connection is gone.")
        for (origin, _), forward in list(self.forwards.items()):
            if topic == f"gateway:{origin.hex}":
                forward.abandon()
