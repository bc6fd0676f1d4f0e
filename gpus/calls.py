"""The HTTP/1.1 client that calls nodes: keep-alive connections per address, answers as they come, little else.

A general client costs the relay a third of all its work on a request; nodes need POST with a body, and a reply that
may be streamed. Names resolve to addresses that `push_urls` allows, and the connection goes to just these;
redirections are not followed, cookies not kept, proxies not asked.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

from gpus import push_urls

CONNECT_WITHIN_S = 5.0
# Shorter than the five seconds after which many servers (uvicorn, so vLLM) close an idle connection.
IDLE_S = 4.0
RESOLVE_AGAIN_S = 10.0
MAX_HEAD_BYTES = 64 * 1024
# So much of an answer may wait for its reader before the socket is left alone.
HIGH_WATER = 256 * 1024


class CallFailed(Exception):
    """The other side broke the connection, or said what is no HTTP."""


class CannotConnect(CallFailed):
    """There is no connection to be had at all."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a URL leads: all that connections are shared by."""

    tls: bool
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(tls, parts.hostname or "", parts.port or (443 if tls else 80))

    @property
    def header(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Connection(asyncio.Protocol):
    """One connection, for one call at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.used = 0
        self.lost = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._waiting: asyncio.Future[None] | None = None
        self._head_bytes = self._buffered = 0
        self._head_done = self._done = self._keep = self._paused = False
        self._error: str | None = None

    def send(self, request: bytes) -> None:
        """Begin a call."""
        assert self.transport is not None
        if self.used:
            self._reset()
        self.used += 1
        self.transport.write(request)

    async def head(self) -> int:
        """The status; `headers` are there with it. Raises CallFailed."""
        while not self._head_done:
            await self._more()
        return self.status

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises CallFailed where it breaks off."""
        while True:
            if self._chunks:
                yield self._take()
            elif self._done:
                return
            else:
                await self._more()

    def _take(self) -> bytes:
        """All that has come, as one piece: each piece costs the same on its way to the consumer."""
        chunks, self._chunks, self._buffered = self._chunks, [], 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def reusable(self) -> bool:
        """Whether another call may follow: the answer was read to its end, and the server stays."""
        return self._done and self._keep and not self._chunks and not self.lost

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def _more(self) -> None:
        if self._error is not None:
            raise CallFailed(self._error)
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _fail(self, why: str) -> None:
        self._error = self._error or why
        self._wake()
        self.close()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the answer is no HTTP: {error}")
            return
        if not self._head_done and self._head_bytes > MAX_HEAD_BYTES:
            self._fail("the head of the answer is too long")
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.transport = None
        if self._head_done and not self._done and self._ends_with_connection() and error is None:
            self._done = True
        elif not self._done:
            self._error = self._error or f"the connection broke: {error or 'closed by the other side'}"
        self._wake()

    def _ends_with_connection(self) -> bool:
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    # --- httptools ----------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._head_done = self.status >= 200

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue and the like
            self.headers = {}
            return
        self._keep = self._parser.should_keep_alive()
        self._done = True


@dataclass(slots=True)
class _Addresses:
    found: list[str] = field(default_factory=list)
    until: float = 0.0


class Caller:
    """Connections to everywhere, kept for the next call."""

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[Connection]] = {}
        self._addresses: dict[Origin, _Addresses] = {}
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])

    async def call(self, origin: Origin, request: bytes) -> Connection:
        """Send a request and wait for the head of its answer. Raises CallFailed, CannotConnect.

        A kept connection that the server has closed meanwhile is replaced once by a new one.
        """
        await self._allowed(origin)
        kept = self._kept(origin)
        if kept is not None:
            try:
                return await _begin(kept, request)
            except CallFailed:
                if kept.status or not kept.lost:
                    raise
        return await _begin(await self._connect(origin), request)

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """After a call: keep the connection if another may follow, else close it."""
        if not connection.reusable:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.setdefault(origin, deque()).append(connection)

    def close(self) -> None:
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()

    def _kept(self, origin: Origin) -> Connection | None:
        """The connection that was used last; those that have been idle for too long are closed."""
        kept = self._idle.get(origin)
        if not kept:
            return None
        oldest = time.monotonic() - IDLE_S
        while kept and (kept[0].idle_since < oldest or kept[0].lost):
            kept.popleft().close()
        while kept:
            connection = kept.pop()
            if not connection.lost:
                return connection
        del self._idle[origin]
        return None

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": self._tls, "server_hostname": origin.host} if origin.tls else {}
        why: object = "no address"
        for address in await self._allowed(origin):
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    _, connection = await loop.create_connection(Connection, address, origin.port, **options)
                return connection
            except (OSError, TimeoutError) as error:
                why = error or "no answer in time"
        raise CannotConnect(str(why))

    async def _allowed(self, origin: Origin) -> list[str]:
        """The addresses that we may connect to. Raises CannotConnect."""
        known = self._addresses.get(origin)
        if known is None or known.until < time.monotonic():
            try:
                found = await asyncio.to_thread(push_urls.resolve, origin.host, origin.port)
            except push_urls.PushUrlRefused as refused:
                raise CannotConnect(refused.message) from None
            known = self._addresses[origin] = _Addresses(found, time.monotonic() + RESOLVE_AGAIN_S)
        return known.found


async def _begin(connection: Connection, request: bytes) -> Connection:
    try:
        connection.send(request)
        await connection.head()
    except BaseException:
        connection.close()
        raise
    return connection


def request_head(method: str, path: str, origin: Origin, headers: Mapping[str, str]) -> bytes:
    """The head of a request, without Content-Length and the empty line at its end."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {origin.header}",
        *(f"{name}: {headers[name]}" for name in headers),
    ]
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")
