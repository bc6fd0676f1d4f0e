"""One HTTP call on the hot path: as little as possible between ASGI and an endpoint."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from django.conf import settings

from marketplace.errors import (
    InternalError,
    InvalidRequest,
    MarketplaceError,
    PayloadTooLarge,
    face_of,
    headers,
    render,
)

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = b"application/json"


class ConsumerLeft(Exception):
    """The connection was closed before the answer was complete."""


class Call:
    """A request and the way to answer it."""

    __slots__ = ("_body", "_receive", "_send", "path", "scope", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.started = False
        self._body: bytes | None = None
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> str | None:
        """A request header by its lower-case name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    async def body(self) -> bytes:
        """The whole request body. Raises PayloadTooLarge, ConsumerLeft."""
        if self._body is None:
            self._body = await self._whole_body()
        return self._body

    async def _whole_body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConsumerLeft
            part = message.get("body", b"")
            size += len(part)
            if size > settings.MAX_REQUEST_BYTES:
                raise PayloadTooLarge(f"The request body is larger than {settings.MAX_REQUEST_BYTES} bytes.")
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def json_object(self) -> tuple[bytes, dict[str, Any]]:
        """The body, and what it says. Raises InvalidRequest unless it is a JSON object."""
        body = await self.body()
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                f"The request body is not valid JSON: {error}.", code="invalid_json"
            ) from None
        if not isinstance(value, dict):
            raise InvalidRequest("The request body must be a JSON object.", code="invalid_json")
        return body, value

    def watch(self, left: Callable[[], None]) -> asyncio.Task[dict[str, Any]]:
        """Call `left` when the consumer closes the connection. Cancel the task when the answer is complete."""
        task = asyncio.ensure_future(self._receive())
        task.add_done_callback(lambda done: None if done.cancelled() else left())
        return task

    def overhear(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Show `listener` each ASGI message of the answer before it goes out."""
        send = self._send

        async def heard(message: dict[str, Any]) -> None:
            listener(message)
            await send(message)

        self._send = heard

    async def answer(
        self, status: int, body: bytes, more: Mapping[bytes, bytes] | None = None, *, kind: bytes = JSON
    ) -> None:
        """A whole reply."""
        await self._start(status, kind, more, length=len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, kind: bytes, more: Mapping[bytes, bytes]) -> None:
        """The head of a streamed reply."""
        await self._start(status, kind, more, length=None)

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": chunk})

    async def fail(self, error: MarketplaceError, more: Mapping[bytes, bytes] | None = None) -> None:
        """An error in the shape of the API that the path belongs to."""
        extra = {key.lower().encode(): value.encode() for key, value in headers(error).items()}
        await self.answer(
            error.status, orjson.dumps(render(error, face_of(self.path))), {**(more or {}), **extra}
        )

    async def _start(
        self, status: int, kind: bytes, more: Mapping[bytes, bytes] | None, length: int | None
    ) -> None:
        head = [(b"content-type", kind)]
        if length is not None:
            head.append((b"content-length", b"%d" % length))
        if more:
            head.extend(more.items())
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": head})


Endpoint = Callable[[Call], Awaitable[None]]


async def serve(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an endpoint; whatever it raises becomes an answer in the shape of its API."""
    call = Call(scope, receive, send)
    try:
        await endpoint(call)
    except ConsumerLeft:
        return
    except MarketplaceError as error:
        await call.fail(error)
    except Exception:  # the edge of the process: no client may see a bare connection reset
        logger.exception("Unforeseen error at %s", call.path)
        if not call.started:
            await call.fail(InternalError())
