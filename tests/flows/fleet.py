"""Real agents in front of one engine, and consumers who stream through them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from marketplace.embedded.home import PROJECT
from tests.engine import Background, Engine, chunk, stream
from tests.flows.conftest import Marketplace, eventually

WORDS = 20


class Fleet:
    """So many nodes that pull, all offering `model`, with an engine that takes its time."""

    def __init__(
        self,
        marketplace: Marketplace,
        model: str,
        *,
        nodes: int,
        pause_s: float = 0.03,
        concurrency: int = 16,
    ):
        self.marketplace, self.model = marketplace, model
        self.background = Background()
        self.engine = Engine(self.background)
        self.engine.models = [model]

        async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            name = body["messages"][0]["content"]
            return await stream(request, [chunk(f"{name}-{n} ") for n in range(WORDS)], pause_s=pause_s)

        self.engine.behaviour = slowly
        self.folder = Path(tempfile.mkdtemp(prefix="fleet-"))
        self.agents = [self._agent(f"{model}-{n}", concurrency) for n in range(nodes)]
        eventually(lambda: self.online() == nodes, within_s=60, what=lambda: str(self.nodes()))

    def _agent(self, name: str, concurrency: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "gpus.agent", "--marketplace", self.marketplace.url, "--name", name]
        command += ["--upstream", self.engine.url, "--concurrency", str(concurrency)]
        command += ["--state-dir", str(self.folder / name)]
        env = os.environ | {"AGENT_TOKEN": self.marketplace.provider["api_key"]}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=PROJECT, env=env, stdout=log, stderr=subprocess.STDOUT)

    def nodes(self) -> list[dict[str, Any]]:
        with self.marketplace.session(self.marketplace.provider["api_key"]) as session:
            found = session.get(f"{self.marketplace.url}/llm_models/nodes/", timeout=10)
        if found.status_code != 200:
            return []
        return [node for node in found.json() if node["name"].startswith(f"{self.model}-")]

    def online(self) -> int:
        return sum(node["state"] == "online" for node in self.nodes())

    def stop(self) -> None:
        for agent in self.agents:
            agent.send_signal(signal.SIGKILL)
            agent.wait()
        self.engine.stop()
        self.background.stop()


@dataclass
class Outcomes:
    """How streams ended: "complete", "error event", "status 503", "connection"."""

    count: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, how: str) -> None:
        self.count[how] += 1


async def consume(fleet: Fleet, *, consumers: int, rounds: int, outcomes: Outcomes) -> None:
    """So many consumers, each streaming one answer after the other."""
    headers = {"Authorization": f"Bearer {fleet.marketplace.api_key}"}
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

        async def one(consumer: int) -> None:
            for number in range(rounds):
                outcomes.note(await ask(session, fleet, f"c{consumer}r{number}", outcomes))

        await asyncio.gather(*(one(consumer) for consumer in range(consumers)))


async def ask(session: aiohttp.ClientSession, fleet: Fleet, name: str, outcomes: Outcomes) -> str:
    """Stream one answer, and check that what arrives is in order and, if it says so, whole."""
    body = {"model": fleet.model, "stream": True, "messages": [{"role": "user", "content": name}]}
    try:
        async with session.post(f"{fleet.marketplace.url}/v1/chat/completions", json=body) as reply:
            if reply.status != 200:
                said = await reply.json()
                return f"status {reply.status} {said['error']['code']}"
            text = (await reply.read()).decode()
    except (aiohttp.ClientError, ConnectionError):
        return "connection"
    except TimeoutError:
        return "timeout"
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    words = [json.loads(event) for event in events if event != "[DONE]"]
    got = [word["choices"][0]["delta"]["content"] for word in words if word.get("choices")]
    if got != [f"{name}-{n} " for n in range(len(got))]:
        outcomes.wrong.append(f"{name}: {got}")
    if events[-1:] == ["[DONE]"]:
        if len(got) != WORDS:
            outcomes.wrong.append(f"{name}: {len(got)} words, but [DONE]")
        return "complete"
    return f"error event {words[-1]['error']['code']}" if words and "error" in words[-1] else "cut off"
