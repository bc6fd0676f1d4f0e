"""A plain JSON call over one keep-alive connection, for everything that is not load."""

import asyncio
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from benchmarks.load import LoadError, whole_body


class Caller:
    """One connection to one server; one call at a time. An async context manager."""

    def __init__(self, url: str, *, key: str = "") -> None:
        self._url = urlsplit(url)
        self._authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._url.hostname, self._url.port or 80)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET; the JSON is None where the answer is none."""
        return _parsed(await self.send(self.request("GET", path)))

    async def post(self, path: str, content: object) -> tuple[int, Any]:
        """Status and JSON of a POST."""
        return _parsed(await self.send(self.request("POST", path, content)))

    def request(self, method: str, path: str, content: object = None) -> bytes:
        """A request with JSON content as it goes over the wire."""
        body = b"" if content is None else orjson.dumps(content)
        head = (
            f"{method} {self._url.path}{path} HTTP/1.1\r\nHost: {self._url.netloc}\r\n{self._authorization}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of a request given as bytes. Raises LoadError if the connection ends before."""
        assert self._reader is not None
        assert self._writer is not None
        self._writer.write(request)
        reply = b""
        while (body := whole_body(reply)) is None:
            data = await self._reader.read(65536)
            if not data:
                raise LoadError(f"{self._url.netloc} closed the connection; received: {reply[:400]!r}")
            reply += data
        return int(reply[9:12]), body


def _parsed(reply: tuple[int, bytes]) -> tuple[int, Any]:
    status, body = reply
    try:
        return status, orjson.loads(body)
    except orjson.JSONDecodeError:
        return status, None
