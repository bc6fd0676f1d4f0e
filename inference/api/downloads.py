"""Downloads that are made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header
from rest_framework.request import Request

from clients.api.files import BINARY


def streamed(
    request: Request, pieces: Iterator[bytes], *, size: int | None, filename: str, content_type: str = BINARY
) -> StreamingHttpResponse:
    """A download that is made while it is sent. The pieces must need no database."""
    headers = {
        "Content-Disposition": content_disposition_header(True, filename) or "attachment",
        "Cache-Control": "private, no-cache",
    }
    if size is not None:
        headers["Content-Length"] = str(size)
    if not isinstance(request._request, ASGIRequest):
        return StreamingHttpResponse(pieces, content_type=content_type, headers=headers)
    if not connection.in_atomic_block:
        # A download may take hours, and needs the database no more.
        connection.close()
    return StreamingHttpResponse(_asynchronously(pieces), content_type=content_type, headers=headers)


async def _asynchronously(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    # Under ASGI Django would read an ordinary iterator to its end before it sends anything.
    loop = asyncio.get_running_loop()
    while (piece := await loop.run_in_executor(None, next, pieces, None)) is not None:
        if piece:
            yield piece
