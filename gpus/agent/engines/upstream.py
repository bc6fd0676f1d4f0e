"""Any OpenAI-compatible server as the engine: vLLM, Ollama, llama.cpp, TGI, `transformers serve`, …"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gpus.agent.engines import (
    JSON_TYPE,
    SSE_TYPE,
    Answer,
    Busy,
    CannotHost,
    Engine,
    EngineFailed,
    EngineUnreachable,
    Guest,
    NoSuchModel,
    Offer,
    Usage,
    Whole,
)
from gpus.agent.engines.borrowed import Borrowed
from gpus.agent.engines.discovery import DISCOVERY_TIMEOUT, Wanted, base_url, discover
from gpus.agent.engines.metering import Meter, ServerTokenizer, Tokenizer

logger = logging.getLogger(__name__)

REDISCOVER_S = 60.0
RETRY_FIRST_S, RETRY_MOST_S = 0.5, 15.0
CONNECT_TIMEOUT_S = 10.0
BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


class Relayed(Answer):
    """The upstream's answer as it comes."""

    def __init__(
        self, response: aiohttp.ClientResponse, request: dict[str, Any], tokenizer: Tokenizer | None
    ) -> None:
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", JSON_TYPE)
        self._response = response
        self._request = request
        self._tokenizer = tokenizer
        self._meter = Meter(self.content_type)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        feed = self._meter.feed
        try:
            async for chunk in self._response.content.iter_any():
                feed(chunk)
                yield chunk
        except BROKEN as error:
            raise EngineFailed(f"The engine's answer broke off: {error or type(error).__name__}") from error
        if self.content_type.startswith(SSE_TYPE) and not self._meter.done():
            yield b"data: [DONE]\n\n"  # some servers leave it out, and clients wait for it

    async def stop(self) -> None:
        # Closing the connection in mid-answer is how these servers learn that nobody waits any more.
        self._response.close()

    async def usage(self) -> Usage:
        return await self._meter.usage(self._request, self._tokenizer)


class Upstream(Engine):
    """Fronts one server. Its models are looked up every minute, and in back-off while it is away."""

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        wanted: Wanted,
        tokenizer: Tokenizer | None = None,
        adapters: Path | None = None,
    ) -> None:
        self.title = "openai-compatible server"
        self._base = base_url(url)
        self._key = key
        self._wanted = wanted
        self._tokenizer = tokenizer
        self._borrowed = None if adapters is None else Borrowed(self._base, adapters)
        self._found: list[tuple[Offer, str]] = []
        self._offers: list[Offer] = []
        self._own_names: dict[str, str] = {}
        self._urls: dict[str, URL] = {}
        # Whether this server takes `stream_options`; None until it has shown it.
        self._takes_stream_options: bool | None = None
        self._look_again = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._changed: Callable[[], None] = lambda: None

    @property
    def offers(self) -> list[Offer]:
        if self._borrowed is None or not self._offers:
            return self._offers
        return self._offers + self._borrowed.offers

    async def start(self, changed: Callable[[], None]) -> None:
        headers = {
            "Content-Type": JSON_TYPE,
            "Accept-Encoding": "identity",
            "User-Agent": "gpu-marketplace-agent",
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
        )
        self._tokenizer = self._tokenizer or ServerTokenizer(self._session, self._base)
        self._changed = changed
        await self._look()
        if not self._offers:
            print(
                f"waiting for {self._base} to list a model; if it does not, name one with --model", flush=True
            )
        self._loop = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._session.close()

    # --- Its models --------------------------------------------------------------------------------------
    async def _keep_looking(self) -> None:
        failures = 0
        while True:
            failures = 0 if self._offers else failures + 1
            pause = min(RETRY_FIRST_S * 2 ** min(failures, 10), RETRY_MOST_S) if failures else REDISCOVER_S
            try:
                async with asyncio.timeout(pause * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter is no secret
                    await self._look_again.wait()
                await asyncio.sleep(RETRY_FIRST_S)
            except TimeoutError:
                pass
            self._look_again.clear()
            await self._look()

    async def _look(self) -> None:
        try:
            found = await self._discovered()
        except EngineUnreachable as error:
            logger.debug("%s", error)
            found = []
        if found != self._found:
            self._found = found
            self._offers = [offer for offer, _ in found]
            self._own_names = {offer.name: own for offer, own in found if offer.name != own}
            self._takes_stream_options = None
            names = ", ".join(offer.name for offer in self._offers) or "nothing, for now"
            logger.info("%s offers %s", self._base, names)
            self._changed()

    async def _discovered(self) -> list[tuple[Offer, str]]:
        """Raises EngineUnreachable."""
        borrowed = self._borrowed
        if borrowed is None:
            return await discover(self._session, self._base, self._wanted)
        before, there = borrowed.loaded, set()

        def is_other(own: str, root: Any) -> bool:
            if not borrowed.is_ours(own, root):
                return False
            there.add(own)
            return True

        found = await discover(self._session, self._base, self._wanted, is_other)
        if found and borrowed.forget(before - there):
            self._changed()
        return found

    def _lost(self) -> None:
        """The server cannot be reached: offer nothing until it is found again."""
        if self._offers:
            self._found, self._offers = [], []
            self._changed()
        self._look_again.set()

    # --- Models of the marketplace's ---------------------------------------------------------------------
    @property
    def hosting(self) -> dict[str, Any] | None:
        if self._borrowed is None:
            return None
        bases = [offer.name for offer in self._offers]
        return {"engine": "vllm", "families": ["causal"], "adapters": True, "full": False, "bases": bases}

    @property
    def untried(self) -> list[Offer]:
        return [] if self._borrowed is None else self._borrowed.untried

    async def has_base(self, name: str, digest: str) -> bool:
        # What a server has loaded cannot be checked; the provider answers for the names.
        return any(offer.name == name for offer in self._offers)

    def has_guest(self, guest: Guest) -> bool:
        return self._borrowed is not None and guest.key in self._borrowed.loaded

    async def host(self, guest: Guest) -> None:
        base = next((offer for offer in self._offers if offer.name == guest.base), None)
        if self._borrowed is None or base is None:
            raise CannotHost(
                f"This node does not serve {guest.base or 'full models'}, which it would lie over."
            )
        if any(offer.name == guest.name for offer in self._offers):
            raise CannotHost(f"This node serves a model of its own as {guest.name}.")
        await self._borrowed.load(self._session, guest, base)

    def offer_guest(self, guest: Guest) -> None:
        if self._borrowed is not None:
            self._borrowed.offer(guest)
            self._changed()

    async def dismiss(self, guest: Guest) -> None:
        if self._borrowed is not None:
            await self._borrowed.unload(self._session, guest)
            self._changed()

    def _own_name(self, name: str) -> str | None:
        own = None if self._borrowed is None else self._borrowed.own_name(name)
        return own or self._own_names.get(name)

    # --- Answers -----------------------------------------------------------------------------------------
    async def open(self, path: str, body: bytes, request: dict[str, Any]) -> Answer:
        if (own := self._own_name(request["model"])) is not None and own != request["model"]:
            request = request | {"model": own}
            body = orjson.dumps(request)
        has_options = "stream_options" in request
        if has_options and self._takes_stream_options is False:
            body, has_options = _without_stream_options(request), False
        response = await self._post(path, body)
        if response.status == 200:
            if has_options:
                self._takes_stream_options = True
            return Relayed(response, request, self._tokenizer)
        if has_options and self._takes_stream_options is None and response.status in (400, 422):
            return await self._try_without(path, request, response)
        return await self._refused(response)

    async def _try_without(self, path: str, request: dict[str, Any], first: aiohttp.ClientResponse) -> Answer:
        """Ask once more without `stream_options`, which some servers refuse."""
        second = await self._post(path, _without_stream_options(request))
        if second.status != 200:
            second.close()
            return await self._refused(first)
        first.close()
        self._takes_stream_options = False
        return Relayed(second, request, self._tokenizer)

    async def _post(self, path: str, body: bytes) -> aiohttp.ClientResponse:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = self._base.join(URL(path.lstrip("/")))
        for attempt in (1, 2):
            try:
                return await self._session.post(url, data=body, allow_redirects=False)
            except aiohttp.ClientConnectorError as error:
                self._lost()
                raise EngineUnreachable(f"The engine at {self._base} cannot be reached: {error}") from error
            except aiohttp.ClientConnectionError as error:
                # Mostly a kept connection that the server had just closed: a fresh one will do.
                if attempt == 2:
                    self._look_again.set()
                    raise EngineFailed("The engine hung up without an answer.") from error
            except BROKEN as error:
                self._look_again.set()
                raise EngineFailed(f"The engine broke off: {error or type(error).__name__}") from error
        raise AssertionError("unreachable")

    async def _refused(self, response: aiohttp.ClientResponse) -> Answer:
        """What a failure means: the consumer's own is passed on, the node's is raised as a Refusal."""
        text = await _error_text(response)
        content_type = response.headers.get("Content-Type", JSON_TYPE)
        status = response.status
        if status in (429, 503):
            raise Busy(f"The engine is full: {_short(text)}")
        if status == 404:
            self._look_again.set()
            raise NoSuchModel(f"The engine does not have it: {_short(text)}")
        if status in (401, 403) or not 400 <= status < 500:
            logger.warning("The engine answers with status %s: %s", status, _short(text))
            raise EngineFailed(f"The engine answered with status {status}.")
        return _Passed(text, status, content_type)


class _Passed(Whole):
    """The upstream's own error, as it is."""

    def __init__(self, body: bytes, status: int, content_type: str) -> None:
        super().__init__(body, status=status)
        self.content_type = content_type


def _without_stream_options(request: dict[str, Any]) -> bytes:
    return orjson.dumps({key: value for key, value in request.items() if key != "stream_options"})


async def _error_text(response: aiohttp.ClientResponse) -> bytes:
    try:
        async with asyncio.timeout(DISCOVERY_TIMEOUT.total):
            return await response.read()
    except BROKEN:
        return b""
    finally:
        response.close()


def _short(text: bytes) -> str:
    return text.decode("utf-8", "replace")[:300]
