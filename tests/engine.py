"""A model server that does what a test tells it to, and a node's agent likewise, in threads of their own."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def chunk(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The usual: three words, plain or streamed; an embedding."""
    if "input" in body:
        return web.json_response(
            {"object": "list", "data": [{"index": 0, "embedding": [0.5, 0.5]}], "usage": usage(2, 0)}
        )
    if not body.get("stream"):
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "one two three"},
            "finish_reason": "stop",
        }
        return web.json_response(
            {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage(4, 3)}
        )
    return await stream(request, [chunk(word) for word in ("one ", "two ", "three")])


async def stream(
    request: web.Request, events: list[bytes], *, pause_s: float = 0.0, end: bool = True
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
        await asyncio.sleep(pause_s)
    if end:
        report = {"choices": [], "usage": usage(4, len(events))}
        await response.write(b"data: " + json.dumps(report).encode() + b"\n\ndata: [DONE]\n\n")
    return response


class Background:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Any, timeout: float = 20) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def start(self, work: Any) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


class Engine:
    """Answers as `behaviour` says, and remembers what it was asked."""

    def __init__(self, background: Background, port: int = 0) -> None:
        self.behaviour: Handler = answer
        self.models: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = threading.Event()
        self._background = background
        background.run(self._start(port))

    async def _start(self, port: int) -> None:
        application = web.Application()
        application.router.add_post("/v1/{endpoint:.*}", self._answer)
        application.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port: int = self._runner.addresses[0][1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        try:
            return await self.behaviour(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._background.run(self._runner.cleanup())
