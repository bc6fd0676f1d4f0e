"""One job, two ways to a node: push (we call its URL) and pull (over the agent's connection). Both give an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from gpus.calls import Caller, CallFailed, CannotConnect, Connection, Origin, request_head
from gpus.directory import LiveNode
from gpus.links import Links, NodeLost, NodeRefused, NodeUnreachable
from gpus.models import Delivery

PROBE_WITHIN_S = 5.0
# Statuses by which a model server says that it is full or on its way down; another node may do better.
BUSY = frozenset((429, 503))


class Exchange(Protocol):
    """One request at a node: first `head`, then `chunks`; `cancel` stops the node's work at any time."""

    usage: dict[str, Any] | None
    usage_source: str

    async def head(self) -> tuple[int, str]: ...
    def chunks(self) -> AsyncIterator[bytes]: ...
    async def cancel(self) -> None: ...


class PushExchange:
    """A request to a node's own URL."""

    def __init__(self, caller: Caller, origin: Origin, request: bytes) -> None:
        self.usage: dict[str, Any] | None = None
        self.usage_source = ""
        self._caller = caller
        self._origin = origin
        self._request = request
        self._connection: Connection | None = None

    async def head(self) -> tuple[int, str]:
        """Status and content type. Raises NodeLost, NodeUnreachable, NodeRefused."""
        try:
            connection = self._connection = await self._caller.call(self._origin, self._request)
        except CannotConnect as error:
            raise NodeUnreachable(f"We could not call the node: {error}") from None
        except CallFailed as error:
            raise NodeLost(f"The node did not answer: {error}") from None
        headers, status = connection.headers, connection.status
        if status in BUSY:
            raise NodeRefused(_text(headers.get(b"x-agent-error")) or "busy", "The node is full.")
        if 300 <= status < 400:
            raise NodeLost("The node answered with a redirection, which is not followed.")
        if b"x-usage" in headers:
            self._read_usage(headers)
        return status, _text(headers.get(b"content-type")) or "application/json"

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises NodeLost when it breaks off."""
        connection = self._connection
        assert connection is not None
        try:
            async for chunk in connection.chunks():
                yield chunk
        except CallFailed as error:
            raise NodeLost(f"The node's answer broke off: {error}") from None
        self._connection = None
        self._caller.give_back(self._origin, connection)

    async def cancel(self) -> None:
        """Close the connection, which is how model servers learn that nobody waits any more."""
        if self._connection is not None:
            self._connection.close()

    def _read_usage(self, headers: dict[bytes, bytes]) -> None:
        """What our agent has counted where the engine behind it reports nothing."""
        try:
            usage = orjson.loads(headers[b"x-usage"])
        except orjson.JSONDecodeError:
            return
        if isinstance(usage, dict):
            self.usage, self.usage_source = usage, _text(headers.get(b"x-usage-source"))


def _text(value: bytes | None) -> str:
    return value.decode("latin-1") if value else ""


class _Target:
    """What stays the same in all requests to one push URL."""

    __slots__ = ("base", "headers", "key", "origin")

    def __init__(self, node: LiveNode) -> None:
        self.key = (node.push_url, node.push_secret)
        self.origin = Origin.of(node.push_url)
        # People give a server's address with or without OpenAI's /v1; both mean the same.
        self.base = urlsplit(node.push_url).path.removesuffix("/").removesuffix("/v1")
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {node.push_secret}"}

    def request(self, path: str, more: dict[str, str], body: bytes) -> bytes:
        head = request_head("POST", self.base + path, self.origin, {**self.headers, **more})
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)

    def probe(self) -> bytes:
        return request_head("GET", self.base + "/v1/models", self.origin, self.headers) + b"\r\n"


class Deliveries:
    """Opens exchanges with nodes, whichever way they take work."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._targets: dict[int, _Target] = {}

    def start(self) -> None:
        self._caller = Caller()

    async def stop(self) -> None:
        self._caller.close()

    def open(self, node: LiveNode, *, path: str, deadline_s: float, request_id: str, body: bytes) -> Exchange:
        """Start a request at a node. Raises NodeLost."""
        if node.delivery == Delivery.PUSH:
            target = self._target(node)
            more = {"X-Request-Id": request_id, "X-Deadline-S": f"{deadline_s:.1f}"}
            return PushExchange(self._caller, target.origin, target.request(path, more, body))
        return self._links.open(node, path=path, deadline_s=deadline_s, request_id=request_id, body=body)

    def _target(self, node: LiveNode) -> _Target:
        target = self._targets.get(node.id)
        if target is None or target.key != (node.push_url, node.push_secret):
            target = self._targets[node.id] = _Target(node)
        return target

    async def probe(self, node: LiveNode) -> str | None:
        """Why a node that takes pushes cannot be called; None when it answers at all."""
        target = self._target(node)
        try:
            async with asyncio.timeout(PROBE_WITHIN_S):
                connection = await self._caller.call(target.origin, target.probe())
        except (CallFailed, TimeoutError) as error:
            return f"We could not call the node: {error or 'no answer in time'}"
        connection.close()
        return None if connection.status < 500 else f"It answers with status {connection.status}."
