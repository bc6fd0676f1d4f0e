"""The edges of the agent's world: a model server, and a marketplace that speaks `gpus.protocol`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from gpus import protocol
from gpus.protocol import Kind

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def event(content: str = "", **more: Any) -> bytes:
    chunk = {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": content}}],
        **more,
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


class ModelServer:
    """A small OpenAI-compatible server, with the bad habits of real ones at the flick of a switch."""

    def __init__(self) -> None:
        self.models: Any = {"object": "list", "data": [{"id": "m", "max_model_len": 4096}]}
        self.pages: dict[str, Any] = {}
        self.words = ["one ", "two ", "three"]
        self.pause_s = 0.0
        self.usage: dict[str, int] | None = USAGE
        self.says_done = True
        self.refuses_stream_options = False
        self.error: tuple[int, Any] | None = None
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.abandoned = 0
        self.running = 0
        self.gate: asyncio.Event | None = None
        self.body: bytes | None = None
        self.breaks_off = False

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/{rest:.*}", self._answer)
        app.router.add_route("*", "/{page:.*}", self._page)
        return app

    @asynccontextmanager
    async def running_at(self, port: int = 0) -> AsyncIterator[str]:
        server = TestServer(self.app(), port=port)
        await server.start_server()
        try:
            yield str(server.make_url("/"))
        finally:
            await server.close()

    async def _models(self, request: web.Request) -> web.Response:
        if self.models is None:
            raise web.HTTPNotFound
        return web.json_response(self.models)

    async def _page(self, request: web.Request) -> web.Response:
        page = self.pages.get(request.path)
        if page is None:
            raise web.HTTPNotFound
        return web.json_response(page(await request.json()) if callable(page) else page)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.requests.append(asked)
        self.headers.append(request.headers)
        self.running += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            return await self._said(request, asked)
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned += 1
            raise
        finally:
            self.running -= 1

    async def _said(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if self.error is not None:
            return web.json_response(self.error[1], status=self.error[0])
        if self.refuses_stream_options and "stream_options" in asked:
            return web.json_response({"error": {"message": "stream_options: extra field"}}, status=400)
        if self.body is not None:
            return web.Response(body=self.body, content_type="application/json")
        if asked.get("stream"):
            return await self._stream(request)
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(self.words)}}
        usage = {} if self.usage is None else {"usage": self.usage}
        return web.json_response({"object": "chat.completion", "choices": [choice], **usage})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in self.words:
            await response.write(event(word, usage=None))
            await asyncio.sleep(self.pause_s)
        if self.breaks_off and request.transport is not None:
            request.transport.close()
            return response
        if self.usage is not None:
            await response.write(event(choices=[], usage=self.usage))
        if self.says_done:
            await response.write(b"data: [DONE]\n\n")
        return response


class Answered:
    """What came back for one exchange."""

    def __init__(self) -> None:
        self.head: dict[str, Any] | None = None
        self.body = b""
        self.end: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.over = asyncio.Event()
        self.grown = asyncio.Event()


class LinkServer:
    """The marketplace's end of agents' connections, and its registration and heartbeats."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.connected = asyncio.Event()
        self.answers: dict[int, Answered] = defaultdict(Answered)
        self.order: list[tuple[int, int]] = []
        self.messages = 0
        self.pongs = 0
        self.refuse_link: int | None = None
        self.gives_credit = True
        self.registrations: list[dict[str, Any]] = []
        self.authorizations: list[str] = []
        self.heartbeats: list[dict[str, Any]] = []
        self.known_token = ""
        self.reply: dict[str, Any] = {}
        self.failing = 0
        self._number = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get(protocol.CONNECT_PATH, self._connect)
        app.router.add_post("/client/login/", self._login)
        app.router.add_post("/llm_models/register/", self._register)
        app.router.add_post("/llm_models/heartbeat/", self._heartbeat)
        app.router.add_delete("/llm_models/deregister/", self._deregister)
        return app

    @asynccontextmanager
    async def running_at(self, port: int = 0) -> AsyncIterator[str]:
        server = TestServer(self.app(), port=port)
        await server.start_server()
        try:
            yield str(server.make_url("/"))
        finally:
            for socket in self.sockets:
                await socket.close()
            await server.close()

    # --- REST --------------------------------------------------------------------------------------------
    async def _login(self, request: web.Request) -> web.Response:
        said = await request.json()
        if said["password"] != "right":
            return web.json_response({"detail": "Wrong e-mail or password."}, status=401)
        return web.json_response({"token": "token-of-bob", "user_id": 2})

    async def _register(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers.get("Authorization", ""))
        if "bad" in self.authorizations[-1]:
            return web.json_response({"detail": "Unknown token."}, status=401)
        self.registrations.append(await request.json())
        self.known_token = f"node-token-{len(self.registrations):040d}"
        reply = {"node_token": self.known_token, "node_id": 5, "name": "bob-1", "heartbeat_interval_s": 1}
        if self.registrations[-1]["delivery"] == "push":
            reply["push_secret"] = "mp-secret"
        return web.json_response(reply | self.reply, status=201)

    async def _heartbeat(self, request: web.Request) -> web.Response:
        if self.failing:
            self.failing -= 1
            return web.json_response({"error": "down"}, status=503)
        said = await request.json()
        if said["node_token"] != self.known_token:
            return web.json_response({"error": "No node has this token."}, status=404)
        self.heartbeats.append(said)
        return web.json_response({"status": "ok", "next_heartbeat_in": 1, "messages": [], **self.reply})

    async def _deregister(self, request: web.Request) -> web.Response:
        said = await request.json()
        if said["node_token"] != self.known_token:
            return web.json_response({"error": "No node has this token."}, status=404)
        self.known_token = ""
        return web.Response(status=204)

    # --- The link ----------------------------------------------------------------------------------------
    async def _connect(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.refuse_link or (self.known_token and token != self.known_token):
            return web.json_response({"detail": "no"}, status=self.refuse_link or 401)
        socket = web.WebSocketResponse(max_msg_size=protocol.MAX_MESSAGE)
        await socket.prepare(request)
        self.sockets.append(socket)
        await socket.send_str('{"type": "hello"}')
        self.connected.set()
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                self.messages += 1
                for number, kind, payload in protocol.decode(message.data):
                    await self._frame(socket, number, kind, payload)
        return socket

    async def _frame(self, socket: web.WebSocketResponse, number: int, kind: int, payload: bytes) -> None:
        self.order.append((number, kind))
        answer = self.answers[number]
        if kind == Kind.HEAD:
            answer.head = orjson.loads(payload)
        elif kind == Kind.BODY:
            assert len(payload) <= protocol.MAX_PAYLOAD
            answer.body += payload
            if self.gives_credit:
                await socket.send_bytes(protocol.encode_credit(number, len(payload)))
        elif kind == Kind.END:
            answer.end = orjson.loads(payload)
        elif kind == Kind.ERROR:
            answer.error = orjson.loads(payload)
        elif kind == Kind.PING:
            await socket.send_bytes(protocol.encode(0, Kind.PONG))
        elif kind == Kind.PONG:
            self.pongs += 1
        answer.grown.set()
        if kind in (Kind.END, Kind.ERROR):
            answer.over.set()

    async def ask(
        self, body: dict[str, Any] | bytes, *, path: str = "/v1/chat/completions", deadline_s: float = 30
    ) -> int:
        """Send a request over the newest connection; its number."""
        self._number += 1
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        frame = protocol.encode_request(
            self._number, path=path, deadline_s=deadline_s, request_id=f"r{self._number}", body=content
        )
        await self.sockets[-1].send_bytes(frame)
        return self._number

    async def send(self, number: int, kind: Kind, payload: bytes = b"") -> None:
        await self.sockets[-1].send_bytes(protocol.encode(number, kind, payload))

    async def over(self, number: int) -> Answered:
        async with asyncio.timeout(10):
            await self.answers[number].over.wait()
        return self.answers[number]


async def until(condition: Callable[[], Any], *, within_s: float = 10) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)
