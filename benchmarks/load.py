"""A lean load generator: the same for every peer, and so fast that it is not what is measured.

Each connection sends one chat request, reads the answer to its end, checks it, and sends the next. An answer
counts only if it is whole: status 200, the body ended as its framing says, all 20 pieces of the mock engine's
answer in order, and [DONE] at the end of a stream. The first wrong one ends the run with `LoadError`.

    python -m benchmarks.load http://127.0.0.1:9000 --model bench --connections 16 --seconds 3 [--stream]
"""

import argparse
import asyncio
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.mock_engine import PIECES

PROMPT = "Say twenty words about the sea, the wind and the ships between them."
_BODY_OF = re.compile(b".*?".join(piece.strip().encode() for piece in PIECES), re.DOTALL)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"


class LoadError(Exception):
    """An answer was wrong, incomplete or missing: the measurement is worth nothing."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send what. `url` is the base without /v1; `key` goes out as a bearer token."""

    url: str
    model: str
    key: str = ""


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the values do not exceed; NaN for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


@dataclass(slots=True)
class Result:
    """What one run gave. Latencies in seconds, of the measured requests only."""

    seconds: float = 0.0
    answered: int = 0  # every whole answer, those of the warm-up too
    latencies: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """The latency in milliseconds that `share` (0..1) of the requests did not exceed."""
        return percentile(self.latencies, share) * 1000


@dataclass(slots=True)
class _Window:
    """Which part of the run is measured (`time.perf_counter` seconds), or how many requests it has."""

    opens: float
    closes: float
    count: int | None
    result: Result
    sent: int = 0

    def wants_more(self) -> bool:
        if self.count is not None:
            return self.sent < self.count
        return time.perf_counter() < self.closes

    def answered(self, *, began: float, ended: float) -> None:
        self.result.answered += 1
        # By the moment of the answer: a slow peer loses nothing at the edges of the window.
        if self.count is not None or self.opens <= ended <= self.closes:
            self.result.latencies.append(ended - began)


class _Connection(asyncio.Protocol):
    """One keep-alive connection that always has one request under way, until the window closes."""

    def __init__(self, request: bytes, *, stream: bool, window: _Window, done: asyncio.Future[None]) -> None:
        self.request = request
        self.stream = stream
        self.window = window
        self.done = done
        self.buffer = b""
        self.began = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        try:
            body = whole_body(self.buffer)
            if body is None:
                return
            ended = time.perf_counter()
            _check(self.buffer, body, stream=self.stream)
        except LoadError as error:
            self._fail(str(error))
            return
        self.window.answered(began=self.began, ended=ended)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._fail(f"the connection was closed ({exc or 'end of file'}); received: {self.buffer[:400]!r}")

    def stop(self) -> None:
        """Close the connection at once, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def _next(self) -> None:
        assert self.transport is not None
        self.buffer = b""
        if not self.window.wants_more():
            if not self.done.done():
                self.done.set_result(None)
            self.transport.close()
            return
        self.window.sent += 1
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(reason))
        self.stop()


def whole_body(reply: bytes) -> bytes | None:
    """The body of a reply, freed of its framing; None as long as a part is missing.

    Raises LoadError for a reply whose end cannot be known.
    """
    end = reply.find(b"\r\n\r\n")
    if end < 0:
        return None
    # Looking at the last bytes first saves taking a stream apart at each of its pieces.
    if reply.endswith(_LAST_CHUNK) and _CHUNKED.search(reply, 0, end):
        return _unchunked(reply, end + 4)
    length = _LENGTH.search(reply, 0, end)
    if length is not None:
        body = reply[end + 4 :]
        if len(body) > int(length[1]):
            raise LoadError(
                f"the body is longer than its Content-Length of {int(length[1])}: {reply[:400]!r}"
            )
        return body if len(body) == int(length[1]) else None
    if not _CHUNKED.search(reply, 0, end + 2):
        raise LoadError(f"a reply without length or chunks: {reply[:400]!r}")
    return None


def _unchunked(reply: bytes, at: int) -> bytes | None:
    """The content of the chunks from `at` on; None if the last chunk has not arrived."""
    parts: list[bytes] = []
    while True:
        line = reply.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(reply[at:line].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(reply[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
        if at > len(reply):
            return None


def _check(reply: bytes, body: bytes, *, stream: bool) -> None:
    if reply[9:12] != b"200":
        raise LoadError(f"not 200: {reply[:1000]!r}")
    if not _BODY_OF.search(body):
        raise LoadError(f"the answer is incomplete: {body[:2000]!r}")
    if stream and not body.rstrip().endswith(b"data: [DONE]"):
        raise LoadError(f"the stream ended without [DONE]: {body[-400:]!r}")


def chat_request(target: Target, *, stream: bool) -> bytes:
    """One chat request as it goes over the wire."""
    url = urlsplit(target.url)
    content = {"model": target.model, "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    body = orjson.dumps(content)
    authorization = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
    head = (
        f"POST {url.path}/v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def run(
    target: Target,
    *,
    connections: int,
    stream: bool = False,
    seconds: float = 3.0,
    warm_up: float = 1.0,
    count: int | None = None,
    patience: float = 60.0,
) -> Result:
    """Load one target, and return when every request that was sent has been answered.

    Measures the answers that arrive within `seconds` after `warm_up` seconds, or exactly `count` requests. An
    answer that is still missing `patience` seconds after the end, and any wrong one, raises LoadError.
    """
    url = urlsplit(target.url)
    loop = asyncio.get_running_loop()
    result = Result()
    start = time.perf_counter()
    window = _Window(start + warm_up, start + warm_up + seconds, count, result)
    request = chat_request(target, stream=stream)
    opened: list[_Connection] = []
    try:
        for _ in range(connections):
            connection = _Connection(request, stream=stream, window=window, done=loop.create_future())
            opened.append(connection)
            await loop.create_connection(lambda: opened[-1], url.hostname or "127.0.0.1", url.port or 80)
        within = patience + (0 if count is not None else warm_up + seconds)
        await _all_of([connection.done for connection in opened], within=within)
    finally:
        for connection in opened:
            connection.stop()
    result.seconds = time.perf_counter() - start if count is not None else seconds
    if not result.latencies:
        raise LoadError(f"{target.url} answered no request within the {seconds} measured seconds")
    return result


async def _all_of(ends: Sequence[asyncio.Future[None]], *, within: float) -> None:
    try:
        async with asyncio.timeout(within):
            await asyncio.gather(*ends)
    except TimeoutError:
        missing = sum(not done.done() or done.cancelled() for done in ends)
        raise LoadError(f"{missing} of {len(ends)} connections still wait for an answer") from None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="base address without /v1")
    parser.add_argument("--model", default="bench")
    parser.add_argument("--key", default="", help="an API key")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--count", type=int, help="send so many requests instead of measuring for a time")
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    target = Target(options.url.rstrip("/"), options.model, options.key)
    result = uvloop.run(
        run(
            target,
            connections=options.connections,
            stream=options.stream,
            seconds=options.seconds,
            count=options.count,
        )
    )
    shares = "  ".join(
        f"p{share * 100:.0f} {result.percentile_ms(share):.2f} ms" for share in (0.5, 0.95, 0.99)
    )
    print(f"{result.rate:,.0f} requests/s  {shares}  ({result.requests} requests, 0 errors)")


if __name__ == "__main__":
    main()
