"""The marketplace's REST endpoints that an agent needs."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson
from yarl import URL

from gpus.protocol import CONNECT_PATH

TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)


class MarketplaceAway(Exception):
    """It cannot be reached, or fails by itself: try again later."""


class MarketplaceRefused(Exception):
    """It understood and said no. `status` is HTTP's, the text is its own."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class Marketplace:
    """A client of one marketplace. Every call raises MarketplaceAway or MarketplaceRefused."""

    def __init__(self, url: str) -> None:
        self.url = URL(url.rstrip("/") + "/")
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar(), trust_env=True
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def login(self, *, email: str, password: str) -> str:
        """An account's token."""
        reply = await self._call("POST", "client/login/", {"email": email, "password": password})
        token = reply.get("token")
        if not isinstance(token, str):
            raise MarketplaceRefused(200, "The login was answered without a token.")
        return token

    async def register(self, *, token: str, node: dict[str, Any]) -> dict[str, Any]:
        """Join as a node of the account that `token` belongs to."""
        reply = await self._call("POST", "llm_models/register/", node, token=token)
        if not isinstance(reply.get("node_token"), str):
            raise MarketplaceRefused(200, "The registration was answered without a node token.")
        return reply

    async def heartbeat(self, *, node_token: str, report: dict[str, Any]) -> dict[str, Any]:
        body = {"node_token": node_token} | report
        return await self._call("POST", "llm_models/heartbeat/", body, token=node_token)

    async def errands(self, *, node_token: str) -> dict[str, Any]:
        """What the node is to do besides answering: {"host": […], "train": […]}."""
        return await self._call("GET", "llm_models/errands/", None, token=node_token)

    async def tell_errands(self, *, node_token: str, said: dict[str, Any]) -> None:
        """How far the node is: {"host": [{"model", "revision", "state", "reason"}]}."""
        await self._call("POST", "llm_models/errands/", said, token=node_token)

    async def deregister(self, *, node_token: str) -> None:
        await self._call("DELETE", "llm_models/deregister/", {"node_token": node_token}, token=node_token)

    def connect_url(self, told: str) -> URL:
        """Where to connect: as the marketplace says, unless it names its loopback and we are elsewhere."""
        own = self.url.with_scheme("wss" if self.url.scheme == "https" else "ws").join(
            URL(CONNECT_PATH.lstrip("/"))
        )
        url = URL(told) if told else own
        return own if _is_loopback(url) and not _is_loopback(own) else url

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None, *, token: str = ""
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        url = self.url.join(URL(path))
        try:
            async with self.session().request(
                method, url, data=None if body is None else orjson.dumps(body), headers=headers
            ) as response:
                status, text = response.status, await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise MarketplaceAway(f"{self.url} cannot be reached: {error or type(error).__name__}") from error
        if status == 429 or status >= 500:
            raise MarketplaceAway(f"{url} answers with status {status}.")
        reply = _json(text)
        if status >= 400:
            raise MarketplaceRefused(status, said(reply) or f"{url} answers with status {status}.")
        if reply is None and status != 204:
            raise MarketplaceRefused(status, f"{url} does not answer as a marketplace would.")
        return reply if isinstance(reply, dict) else {}


def said(reply: Any) -> str:
    """The sentence in an error, whichever of the marketplace's shapes it has."""
    if isinstance(reply, dict):
        for key in ("detail", "error", "message"):
            if key in reply:
                return said(reply[key])
        return "; ".join(f"{key}: {said(value)}" for key, value in reply.items())
    if isinstance(reply, list):
        return " ".join(said(each) for each in reply)
    return "" if reply is None else str(reply)


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_loopback(url: URL) -> bool:
    return url.host in ("localhost", "::1") or (url.host or "").startswith("127.")
