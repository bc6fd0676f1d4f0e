"""Fetching what sources and tasks on chains point to: somebody's URL, and whatever answers there.

Our own links (`/ipfs/…`) are read from where they are kept. Every other address is checked as a node's push URL is
(`gpus.push_urls`), the connection goes to just the addresses that were checked, each redirection is checked again, and
the whole answer has to come within a time and a size.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any
from urllib.parse import urljoin, urlsplit

import orjson
from django.conf import settings

from chain import pins
from gpus import push_urls
from gpus.calls import Caller, CallFailed, Connection, Origin, request_head
from marketplace.errors import MarketplaceError

TIMEOUT_S = 15.0
MAX_URL = 4096
MAX_REDIRECTS = 3
# How deep JSON may be nested: far beyond what functions need, far below what anything here chokes on.
MAX_DEPTH = 64
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
# Statuses that say nothing against the document.
_PASSING = frozenset((408, 425, 429))


class NotFetched(MarketplaceError):
    """It could not be fetched, or is not what it should be. `may_pass`: the same may succeed later."""

    code, status = "not_fetched", 502

    def __init__(self, code: str, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message, code=code)
        self.may_pass = may_pass


def fetch(url: str, *, limit: int | None = None, timeout_s: float = TIMEOUT_S) -> bytes:
    """What a URL leads to: at most `limit` bytes (PIN_MAX_BYTES), within `timeout_s` altogether. Raises NotFetched."""
    limit = limit or settings.PIN_MAX_BYTES
    own = _own(url.strip())
    if own is not None:
        if len(own) > limit:
            raise _too_large(limit)
        return own
    return asyncio.run(_fetch(url.strip(), limit, timeout_s))


def fetch_json(url: str, *, limit: int | None = None, timeout_s: float = TIMEOUT_S) -> Any:
    """The same, as JSON that the database takes. Raises NotFetched."""
    return read_json(fetch(url, limit=limit, timeout_s=timeout_s))


def read_json(content: bytes) -> Any:
    """JSON without what databases and parsers choke on: NUL, surrogates, infinities, a thousand levels."""
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise NotFetched("not_json", f"What the link leads to is not JSON: {error.msg[:200]}.") from None
    _check(said)
    return said


def _check(said: Any) -> None:
    level, depth = [said], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise NotFetched("too_deep", f"The JSON is nested more than {MAX_DEPTH} levels deep.")
        below: list[Any] = []
        for each in level:
            if isinstance(each, str) and "\0" in each:
                raise NotFetched("not_text", "A text in the JSON holds a NUL character.")
            if isinstance(each, dict):
                below.extend(each)
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
        level = below


def _own(url: str) -> bytes | None:
    """The content of a link to what is pinned here; None for any other link."""
    is_here = url.startswith(tuple(f"{base}/ipfs/" for base in {settings.PUBLIC_URL, settings.INTERNAL_URL}))
    is_ipfs = url.lower().startswith("ipfs://")
    if not (is_here or is_ipfs):
        return None
    cid = pins.cid_in(url)
    try:
        if cid is not None:
            return pins.read(cid)
    except pins.UnknownPin:
        pass
    if is_ipfs:
        raise NotFetched(
            "not_pinned",
            "Nothing is pinned here under this CID. Give a link by http, or pin it with POST /file/create.",
        )
    raise NotFetched("not_found", "The link leads to this marketplace, and nothing is pinned here under it.")


async def _fetch(url: str, limit: int, timeout_s: float) -> bytes:
    caller = Caller()
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await _get(caller, url, limit)
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(url, answer)
    except TimeoutError:
        raise NotFetched(
            "fetch_timeout", f"The answer was not complete within {timeout_s:g} seconds.", may_pass=True
        ) from None
    finally:
        caller.close()
    raise NotFetched("too_many_redirects", f"The link was redirected more than {MAX_REDIRECTS} times.")


async def _get(caller: Caller, url: str, limit: int) -> bytes | str:
    """The content, or where it is said to be."""
    path = _checked(url)
    origin = Origin.of(url)
    await _check_address(origin)
    headers = {"Accept": "application/json, */*", "Accept-Encoding": "identity", "Connection": "close"}
    request = request_head("GET", path, origin, headers) + b"\r\n"
    try:
        connection = await caller.call(origin, request)
        try:
            return await _read(connection, limit)
        finally:
            connection.close()
    except CallFailed as failure:
        raise NotFetched(
            "unreachable", f"The link cannot be followed: {str(failure)[:200]}.", may_pass=True
        ) from None


async def _read(connection: Connection, limit: int) -> bytes | str:
    status = connection.status
    if status in _REDIRECTS:
        location = connection.headers.get(b"location", b"").decode("latin-1").strip()
        if not location:
            raise NotFetched("bad_redirect", "The link is redirected to nowhere.")
        return location
    if status != 200:
        may_pass = status >= 500 or status in _PASSING
        raise NotFetched("not_found", f"The link was answered with status {status}.", may_pass=may_pass)
    if connection.headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        raise NotFetched("compressed", "The answer is compressed, although that was not asked for.")
    parts, size = [], 0
    async for chunk in connection.chunks():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        parts.append(chunk)
    return b"".join(parts)


def _checked(url: str) -> str:
    """The path and query of a URL that may be called. Raises NotFetched."""
    is_plain = url.isascii() and all(" " < character < "\x7f" for character in url)
    if not url or len(url) > MAX_URL or not is_plain:
        raise NotFetched("bad_url", f"The link must be plain ASCII of 1 to {MAX_URL} characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NotFetched("bad_url", "The link is not a URL.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise NotFetched("bad_url", "The link must begin with http:// or https:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise NotFetched("bad_url", "The link must not contain a user name or a password.")
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


async def _check_address(origin: Origin) -> None:
    """Raise NotFetched for where we do not call. The call itself connects only to what passes the same check."""
    try:
        await asyncio.to_thread(push_urls.resolve, origin.host, origin.port)
    except push_urls.PushUrlRefused:
        # Without the addresses that it leads to: the sentence may be read by a stranger. A name may be known later.
        raise NotFetched(
            "address_refused",
            f"{origin.host[:100]!r} is unknown, or leads to where this marketplace does not call.",
            may_pass=not _is_address(origin.host),
        ) from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _too_large(limit: int) -> NotFetched:
    return NotFetched("too_large", f"The link leads to more than {limit} bytes.")
