"""Stands before a node of a chain, and answers from memory what it was asked before.

    python -m benchmarks.chain_cache NODE_URL

Prints its port. What is asked must not change: for a chain that rests. One process, one thread.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import orjson
import uvloop
from aiohttp import web

MOST_BYTES = 64 * 2**20
NODE_TIMEOUT_S = 300


class Cache:
    """The results as the node wrote them, by method and parameters."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.known: dict[bytes, bytes] = {}

    async def answer(self, request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        batch = asked if isinstance(asked, list) else [asked]
        keys = [orjson.dumps([one["method"], one.get("params", [])]) for one in batch]
        await self._learn({key: one for key, one in zip(keys, batch, strict=True) if key not in self.known})
        parts = [
            b'{"jsonrpc":"2.0","id":' + orjson.dumps(one.get("id")) + b"," + self.known[key] + b"}"
            for key, one in zip(keys, batch, strict=True)
        ]
        body = b"[" + b",".join(parts) + b"]" if isinstance(asked, list) else parts[0]
        return web.Response(body=body, content_type="application/json")

    async def _learn(self, unknown: dict[bytes, dict[str, Any]]) -> None:
        wanted = list(unknown.items())
        if not wanted:
            return
        body = orjson.dumps([one | {"id": number} for number, (_, one) in enumerate(wanted)])
        timeout = aiohttp.ClientTimeout(total=NODE_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(self.node, data=body) as reply,
        ):
            answers = orjson.loads(await reply.read())
        for answer in answers:
            name = "error" if "error" in answer else "result"
            self.known[wanted[answer["id"]][0]] = f'"{name}":'.encode() + orjson.dumps(answer.get(name))


async def serve(node: str) -> None:
    application = web.Application(client_max_size=MOST_BYTES)
    application.router.add_post("/", Cache(node).answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
