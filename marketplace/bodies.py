"""The bodies of requests on their way to Django: bounded, from people who may send them, on disk where they are large.

Django takes whatever comes, and works on it only when it is all there. So until a body is complete it holds none of
Django's places here; nobody fills the disk who has not said who they are; and whoever sends nothing more for long, or
more than may be, is told so.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import IO, Any

import orjson
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from marketplace.errors import MarketplaceError, PayloadTooLarge, face_of, headers, render
from marketplace.http import ConsumerLeft, Receive, Scope, Send

# Paths whose requests may bring files: up to MAX_UPLOAD_BYTES.
UPLOADS = re.compile(
    r"/(data/upload(/parts/[^/]+/[^/]+)?|v1/files|v1/uploads/[^/]+/parts|ai/models/upload(/.+)?)/?"
)
# Where a signed link says how much may come.
LINKED = "/llm_models/training/files/"
# A wallet's signature comes with the file, so that nobody is proven before it is there: few of them at a time.
SIGNED = re.compile(r"/v1/user/(0x[0-9a-fA-F]{40})/dataset/?")
SIGNED_BYTES = 101 * 1024 * 1024
SIGNED_AT_ONCE = 4
# Anybody may send so much; for more one must be known.
FREE_BYTES = 256 * 1024
# Where anybody may leave a small file, and what a form has around it.
PINS = re.compile(r"/file/create/?")
FORM_BYTES = 64 * 1024
# Large bodies that one process takes at the same time, and how long each may pause.
LARGE_AT_ONCE = 64
PAUSE_S = 60.0
# Set in a request's scope when its answer, which may take long, needs neither Django nor the database any more.
NEEDS_NO_PLACE = "marketplace.needs_no_place"
_WRITE = 1024 * 1024


class TooSlow(MarketplaceError):
    code, status, message = (
        "request_timeout",
        408,
        f"Nothing more of the request came for {PAUSE_S:g} seconds.",
    )


class Received:
    """An ASGI `receive` whose body is already here: `file`, from its beginning. What comes after it is passed on."""

    def __init__(self, file: IO[bytes], receive: Receive) -> None:
        self.file = file
        self._receive = receive

    async def __call__(self) -> dict[str, Any]:
        return await self._receive()


class Handler(ASGIHandler):
    """Django, which takes a body that is already here as it is."""

    async def read_body(self, receive: Any) -> IO[bytes]:
        file: IO[bytes] = receive.file if isinstance(receive, Received) else await super().read_body(receive)
        return file


class Bodies:
    """Takes bodies in. `admit` raises a MarketplaceError for a large one that nobody known sends."""

    def __init__(self, admit: Callable[[Scope], Awaitable[None]]) -> None:
        self._admit = admit
        self._places = asyncio.Semaphore(LARGE_AT_ONCE)
        self._unproven = asyncio.Semaphore(SIGNED_AT_ONCE)

    async def take(self, scope: Scope, receive: Receive) -> Received:
        """The request with its whole body.

        Raises PayloadTooLarge, TooSlow, ConsumerLeft, and what `admit` raises.
        """
        limit = limit_of(scope["path"])
        announced = _announced(scope)
        if announced > limit:
            raise _too_large(limit)
        file: IO[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - Django closes it
            max_size=settings.FILE_UPLOAD_MAX_MEMORY_SIZE, mode="w+b"
        )
        try:
            await _Taking(file, receive, limit).take(self, scope, announced)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return Received(file, receive)

    @asynccontextmanager
    async def admitted(self, scope: Scope) -> AsyncIterator[None]:
        """A place for a large body of somebody known."""
        await self._admit(scope)
        async with self._unproven if SIGNED.fullmatch(scope["path"]) else self._places:
            yield


class _Taking:
    """One body that comes in."""

    def __init__(self, file: IO[bytes], receive: Receive, limit: int) -> None:
        self._file = file
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    async def take(self, bodies: Bodies, scope: Scope, announced: int) -> None:
        free = free_of(scope["path"])
        if announced > free or not await self._until(free):
            async with bodies.admitted(scope):
                await self._until(self._limit + 1)
        await self._write()

    async def _until(self, size: int) -> bool:
        """Take in more, until it is so much; whether that was all."""
        while self._size < size:
            try:
                message = await asyncio.wait_for(self._receive(), PAUSE_S)
            except TimeoutError:
                raise TooSlow from None
            if message["type"] == "http.disconnect":
                raise ConsumerLeft
            piece = message.get("body", b"")
            self._size += len(piece)
            if self._size > self._limit:
                raise _too_large(self._limit)
            self._waiting.append(piece)
            self._waiting_bytes += len(piece)
            if self._waiting_bytes >= _WRITE:
                await self._write()
            if not message.get("more_body"):
                return True
        return False

    async def _write(self) -> None:
        pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if self._size <= settings.FILE_UPLOAD_MAX_MEMORY_SIZE:
            self._file.writelines(pieces)
        else:
            await asyncio.to_thread(self._file.writelines, pieces)


def limit_of(path: str) -> int:
    """How many bytes a request to a path may bring."""
    most: int = settings.MAX_REQUEST_BYTES
    if path.startswith(LINKED):
        return max(most, settings.MAX_FILE_BYTES)
    if SIGNED.fullmatch(path):
        return max(most, SIGNED_BYTES)
    if PINS.fullmatch(path):
        return _pin_bytes()
    return max(most, settings.MAX_UPLOAD_BYTES) if UPLOADS.fullmatch(path) else most


def free_of(path: str) -> int:
    """How many bytes of that anybody may send, known or not."""
    return _pin_bytes() + 1 if PINS.fullmatch(path) else FREE_BYTES


def _pin_bytes() -> int:
    """A whole form with the largest file that may be left."""
    most: int = settings.PIN_MAX_BYTES
    return most + FORM_BYTES


def _announced(scope: Scope) -> int:
    text = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {limit} bytes.", details={"limit_bytes": limit})


async def refuse(error: MarketplaceError, scope: Scope, send: Send) -> None:
    """Answer without having read the body. The connection cannot be used any further then."""
    body = orjson.dumps(render(error, face_of(scope["path"])))
    head = {**headers(error), "Content-Type": "application/json", "Content-Length": str(len(body))}
    if scope.get("http_version", "1.1") != "2":
        head["Connection"] = "close"
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in head.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
