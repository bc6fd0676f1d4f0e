"""The other end of `gpus.protocol`, as a test wants it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from gpus import protocol
from gpus.protocol import Kind

HEAD = json.dumps({"status": 200, "content_type": "text/event-stream"}).encode()


class Agent:
    """One node's connection. `behaviour(agent, exchange, head, body)` answers each request in a task of its own."""

    def __init__(self, url: str, token: str, behaviour: Callable[..., Awaitable[None]]) -> None:
        self.url = url.replace("http", "ws", 1) + protocol.CONNECT_PATH
        self.token = token
        self.behaviour = behaviour
        self.cancelled: list[int] = []
        self.said: list[dict[str, Any]] = []  # about the node itself
        self.credit: dict[int, int] = {}
        self.sent: dict[int, int] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.more = asyncio.Event()

    async def open(self) -> "Agent":
        self.socket: ClientConnection = await connect(
            self.url, additional_headers={"Authorization": f"Bearer {self.token}"}, max_size=None
        )
        assert json.loads(await self.socket.recv())["type"] == "hello"
        self.reading = asyncio.create_task(self._read())
        return self

    async def close(self) -> None:
        self.reading.cancel()
        await self.socket.close()

    async def _read(self) -> None:
        async for message in self.socket:
            if isinstance(message, str):
                self.said.append(json.loads(message))
                continue
            for number, kind, payload in protocol.decode(message):
                await self._frame(number, Kind(kind), payload)

    async def _frame(self, number: int, kind: Kind, payload: bytes) -> None:
        if kind == Kind.PING:
            await self.send(0, Kind.PONG)
        elif kind == Kind.REQUEST:
            self.credit[number], self.sent[number] = protocol.WINDOW, 0
            head, body = protocol.decode_request(payload)
            self.tasks[number] = asyncio.create_task(self._answer(number, head, json.loads(body)))
        elif kind == Kind.CREDIT:
            self.credit[number] += protocol.decode_credit(payload)
            self.more.set()
        elif kind == Kind.CANCEL:
            self.cancelled.append(number)
            self.tasks[number].cancel()
            await self.end(number, {"prompt_tokens": 4, "completion_tokens": 7}, "tokenizer")

    async def _answer(self, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        await self.behaviour(self, number, head, body)

    async def send(self, number: int, kind: Kind, payload: bytes = b"") -> None:
        await self.socket.send(protocol.encode(number, kind, payload))

    async def body(self, number: int, payload: bytes) -> None:
        """Send when there is credit for it."""
        while self.credit[number] < len(payload):
            self.more.clear()
            await self.more.wait()
        self.credit[number] -= len(payload)
        self.sent[number] += len(payload)
        await self.send(number, Kind.BODY, payload)

    async def end(self, number: int, usage: dict[str, int] | None = None, source: str = "engine") -> None:
        await self.send(number, Kind.END, json.dumps({"usage": usage, "usage_source": source}).encode())
