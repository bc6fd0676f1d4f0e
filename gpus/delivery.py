"""One job, two ways to a node: push (we call its URL) and pull (over the agent's connection). Both give an exchange."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult

from gpus import push_urls
from gpus.directory import LiveNode
from gpus.links import Links, NodeLost, NodeRefused, NodeUnreachable
from gpus.models import Delivery

CONNECT_WITHIN_S = 5.0
# Statuses by which a model server says that it is full or on its way down; another node may do better.
BUSY = frozenset((429, 503))


class Exchange(Protocol):
    """One request at a node: first `head`, then `chunks`; `cancel` stops the node's work at any time."""

    usage: dict[str, Any] | None
    usage_source: str

    async def head(self) -> tuple[int, str]: ...
    def chunks(self) -> AsyncIterator[bytes]: ...
    async def cancel(self) -> None: ...


class _PinnedResolver(AbstractResolver):
    """Names resolve to addresses that we may call, and the connection goes to just these."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            addresses = await asyncio.to_thread(push_urls.resolve, host, port)
        except push_urls.PushUrlRefused as refused:
            raise OSError(refused.message) from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


class PushExchange:
    """A request to a node's own URL."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        node: LiveNode,
        *,
        path: str,
        deadline_s: float,
        request_id: str,
        body: bytes,
    ) -> None:
        self.usage: dict[str, Any] | None = None
        self.usage_source = ""
        self._session = session
        self._url = _base(node) + path
        self._body = body
        self._headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {node.push_secret}",
            "X-Request-Id": request_id,
            "X-Deadline-S": f"{deadline_s:.1f}",
        }
        self._response: aiohttp.ClientResponse | None = None

    async def head(self) -> tuple[int, str]:
        """Status and content type. Raises NodeLost, NodeRefused."""
        try:
            self._response = await self._post()
        except aiohttp.ServerDisconnectedError:
            # Servers close connections that were idle for long; it happens while we send, too.
            self._response = await self._post_again()
        status = self._response.status
        if status in BUSY:
            self._response.close()
            raise NodeRefused(self._agent_error() or "busy", "The node is full.")
        if 300 <= status < 400:
            self._response.close()
            raise NodeLost("The node answered with a redirection, which is not followed.")
        self._read_usage(self._response.headers)
        return status, self._response.headers.get("Content-Type", "application/json")

    def _agent_error(self) -> str:
        """Our agent's own word for why it refuses; other servers have none."""
        assert self._response is not None
        return self._response.headers.get("X-Agent-Error", "")

    def _read_usage(self, headers: Mapping[str, str]) -> None:
        """What our agent has counted where the engine behind it reports nothing."""
        try:
            usage = orjson.loads(headers.get("X-Usage", "null"))
        except orjson.JSONDecodeError:
            return
        if isinstance(usage, dict):
            self.usage, self.usage_source = usage, headers.get("X-Usage-Source", "")

    async def _post_again(self) -> aiohttp.ClientResponse:
        try:
            return await self._post()
        except aiohttp.ServerDisconnectedError as error:
            raise NodeLost(f"The node broke the connection: {error}") from None

    async def _post(self) -> aiohttp.ClientResponse:
        _check_literal(self._url)
        try:
            return await self._session.post(
                self._url, data=self._body, headers=self._headers, allow_redirects=False
            )
        except aiohttp.ServerDisconnectedError:
            raise
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            raise NodeUnreachable(f"We could not call the node: {error or type(error).__name__}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NodeLost(f"The node broke the connection: {error or type(error).__name__}") from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises NodeLost when it breaks off."""
        assert self._response is not None
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NodeLost(f"The node's answer broke off: {error or type(error).__name__}") from None

    async def cancel(self) -> None:
        """Close the connection, which is how model servers learn that nobody waits any more."""
        if self._response is not None:
            self._response.close()


def _base(node: LiveNode) -> str:
    """People give a server's address with or without OpenAI's /v1; both mean the same."""
    return node.push_url.removesuffix("/v1")


def _check_literal(url: str) -> None:
    """An address in the URL itself is never resolved, so it is checked here, at each call."""
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    if not push_urls.is_allowed(host):
        raise NodeLost(f"This marketplace does not call {host}.")


class Deliveries:
    """Opens exchanges with nodes, whichever way they take work."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, resolver=_PinnedResolver(), ttl_dns_cache=10, keepalive_timeout=4
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    def open(self, node: LiveNode, *, path: str, deadline_s: float, request_id: str, body: bytes) -> Exchange:
        """Start a request at a node. Raises NodeLost."""
        if node.delivery == Delivery.PUSH:
            assert self._session is not None
            return PushExchange(
                self._session, node, path=path, deadline_s=deadline_s, request_id=request_id, body=body
            )
        return self._links.open(node, path=path, deadline_s=deadline_s, request_id=request_id, body=body)

    async def probe(self, node: LiveNode) -> str | None:
        """Why a node that takes pushes cannot be called; None when it answers at all."""
        assert self._session is not None
        url = _base(node) + "/v1/models"
        try:
            _check_literal(url)
            timeout = aiohttp.ClientTimeout(total=CONNECT_WITHIN_S)
            headers = {"Authorization": f"Bearer {node.push_secret}"}
            async with self._session.get(
                url, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return None if response.status < 500 else f"It answers with status {response.status}."
        except NodeLost as lost:
            return str(lost)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"We could not call the node: {error or type(error).__name__}"
