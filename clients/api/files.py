"""Stored contents, given out: as a whole or in part, streamed. And `/files/{token}`, for whoever has a link to one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, cast

from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.utils.http import content_disposition_header
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.views import APIView

from clients import files
from clients.api.documentation import errors
from clients.models import Blob
from marketplace import storage
from marketplace.bodies import NEEDS_NO_PLACE
from marketplace.errors import MarketplaceError, http_response

BINARY = "application/octet-stream"
# Threads of their own: slow storage must not keep others waiting.
_readers = ThreadPoolExecutor(16, thread_name_prefix="files")
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")

RANGE_PARAMETERS = [
    openapi.Parameter("Range", openapi.IN_HEADER, "`bytes=0-1023`: only a part.", type=openapi.TYPE_STRING),
    openapi.Parameter(
        "If-Range",
        openapi.IN_HEADER,
        "An ETag: the part, if this is still it; else all.",
        type=openapi.TYPE_STRING,
    ),
]
CONTENT: dict[int | str, openapi.Response | str] = {
    200: openapi.Response("The content. `ETag` is its SHA-256.", openapi.Schema(type=openapi.TYPE_FILE)),
    206: openapi.Response("The part that was asked for.", openapi.Schema(type=openapi.TYPE_FILE)),
    304: "It is still what `If-None-Match` says.",
    416: "There is no such part. `Content-Range` says how long it is.",
}


class NoSuchRange(MarketplaceError):
    code, status, message = "range_not_satisfiable", 416, "The content has no such part."


@dataclass(frozen=True, slots=True)
class _Part:
    start: int
    length: int
    is_asked: bool = True


def reply(
    request: Request | HttpRequest, blob: Blob, *, filename: str, content_type: str = BINARY
) -> HttpResponseBase:
    """A content as a download, or the part of it that `Range` asks for (RFC 9110, 14). Never whole in memory.

    It is always sent as an attachment, so that no browser shows or runs what somebody has uploaded.
    """
    plain = request._request if isinstance(request, Request) else request
    tag = f'"{blob.sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": content_disposition_header(True, filename) or "attachment",
    }
    if tag in [each.strip().removeprefix("W/") for each in plain.headers.get("If-None-Match", "").split(",")]:
        return HttpResponse(status=304, headers=headers)
    part = _asked_part(plain, blob.size, tag)
    if part is None:
        refused = http_response(NoSuchRange(f"The content has {blob.size} bytes."), plain.path)
        refused["Content-Range"] = f"bytes */{blob.size}"
        return refused
    headers["Content-Length"] = str(part.length)
    if part.is_asked:
        headers["Content-Range"] = f"bytes {part.start}-{part.start + part.length - 1}/{blob.size}"
    status = 206 if part.is_asked else 200
    if plain.method == "HEAD" or not part.length:
        return HttpResponse(status=status, content_type=content_type, headers=headers)
    return StreamingHttpResponse(
        _pieces(plain, blob, part), status=status, content_type=content_type, headers=headers
    )


def _asked_part(request: HttpRequest, size: int, tag: str) -> _Part | None:
    """What is asked for; None where there is no such part. Several parts at once are answered with everything."""
    whole = _Part(0, size, is_asked=False)
    match = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-" or request.headers.get("If-Range", tag) != tag:
        return whole
    if match[1] == "":
        length = min(int(match[2]), size)
        return _Part(size - length, length) if length else None
    start, end = int(match[1]), min(int(match[2] or size), size - 1)
    if start >= size:
        return None
    return _Part(start, end - start + 1) if end >= start else whole


def _pieces(request: HttpRequest, blob: Blob, part: _Part) -> Iterator[bytes] | AsyncIterator[bytes]:
    """Under ASGI Django would read an ordinary iterator to its end before it sends anything."""
    # Opened here, so that what is gone is an error and not a broken answer.
    file = files.opened(blob, start=part.start)
    if not isinstance(request, ASGIRequest):
        return _Pieces(file, part.length)
    if not connection.in_atomic_block:
        # A download may take hours, and needs the database no more.
        connection.close()
        cast(dict[str, Any], request.scope)[NEEDS_NO_PLACE] = True
    return _AsynchronousPieces(_Pieces(file, part.length))


class _Pieces(Iterator[bytes]):
    """Django closes it, also where nothing of it was read."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._pieces = storage.chunks_of(file, length=length)
        self.close = file.close

    def __next__(self) -> bytes:
        return next(self._pieces)


class _AsynchronousPieces(AsyncIterator[bytes]):
    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self.close = pieces.close

    async def __anext__(self) -> bytes:
        piece = await asyncio.get_running_loop().run_in_executor(_readers, next, self._pieces, b"")
        if not piece:
            raise StopAsyncIteration
        return piece


class LinkedFile(APIView):
    """Everybody's who has the link; a credential is neither needed nor looked at."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @swagger_auto_schema(
        operation_id="files_read",
        tags=["files"],
        security=[],
        operation_description="A content by a signed link, which expires. With HEAD: its size and hash.",
        manual_parameters=RANGE_PARAMETERS,
        responses={**CONTENT, **errors(403, 404)},
    )
    def get(self, request: Request, token: str) -> HttpResponseBase:
        blob = files.linked(token, now=timezone.now())
        return reply(request, blob, filename=blob.sha256)
