"""The program as a provider runs it: a process of its own that joins, answers, and stops."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import unused_port

from gpus.protocol import Kind
from tests.gpus.agent.fakes import LinkServer, ModelServer, until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
ROOT = Path(__file__).resolve().parents[3]


class Program:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.shown = ""
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.shown += line.decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(10):
            status = await self.process.wait()
            await self._reader
        return status


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[Program]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("AGENT_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gpus.agent", *arguments,
        cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    running = Program(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.ended()


@asynccontextmanager
async def serving(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path, *more: str
) -> AsyncIterator[tuple[Program, list[str]]]:
    """A program that has joined and connected, and the arguments it was started with."""
    async with models.running_at() as upstream, marketplace.running_at() as url:
        arguments = ["--marketplace", url, "--upstream", upstream, "--state-dir", str(tmp_path), *more]
        async with program(*arguments, "--token", "sk-bob") as running:
            await asyncio.wait_for(marketplace.connected.wait(), 10)
            yield running, arguments


async def test_it_joins_answers_drains_and_stops(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    models.words, models.pause_s = ["word "] * 30, 0.02
    async with serving(models, marketplace, tmp_path) as (running, _):
        number = await marketplace.ask(CHAT)
        await until(lambda: marketplace.answers[number].body)
        running.signal(signal.SIGTERM)
        await until(lambda: "draining" in running.shown)
        refused = await marketplace.over(await marketplace.ask(CHAT))
        assert refused.error is not None
        assert refused.error["code"] == "draining"
        assert await running.ended() == 0
        answer = marketplace.answers[number]
        assert answer.body.count(b"word ") == 30
        assert answer.end is not None
        assert running.shown.rstrip().endswith("safe to stop")
        assert marketplace.heartbeats[-1]["status"] == "draining"
        assert marketplace.heartbeats[-1]["active_requests"] == 0


async def test_a_second_signal_stops_it_at_once(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    models.words, models.pause_s = ["word "] * 1000, 0.1
    async with serving(models, marketplace, tmp_path) as (running, _):
        number = await marketplace.ask(CHAT)
        await until(lambda: marketplace.answers[number].body)
        running.signal(signal.SIGTERM)
        await until(lambda: "draining" in running.shown)
        running.signal(signal.SIGINT)
        assert await running.ended() == 130
        await until(lambda: models.abandoned == 1)


async def test_what_does_not_finish_in_time_is_stopped(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    models.words, models.pause_s = ["word "] * 1000, 0.1
    async with serving(models, marketplace, tmp_path, "--drain-timeout", "0.2") as (running, _):
        number = await marketplace.ask(CHAT)
        await until(lambda: marketplace.answers[number].body)
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert "1 requests did not finish in time" in running.shown


async def test_it_exits_when_an_operator_drains_it(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    async with serving(models, marketplace, tmp_path) as (running, _):
        marketplace.reply = {"drain": True}
        assert await running.ended() == 0
        assert "safe to stop" in running.shown


async def test_it_can_stay_and_wait_to_be_resumed(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    async with serving(models, marketplace, tmp_path, "--when-drained", "stay") as (running, _):
        marketplace.reply = {"drain": True}
        await until(lambda: "safe to stop" in running.shown)
        marketplace.reply = {"drain": False}
        await until(lambda: "resumed" in running.shown)
        assert (await marketplace.over(await marketplace.ask(CHAT))).end is not None


async def test_it_survives_a_kill_without_registering_again(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    async with serving(models, marketplace, tmp_path) as (running, arguments):
        running.process.kill()
        await running.ended()
        marketplace.connected.clear()
        async with program(*arguments):
            await asyncio.wait_for(marketplace.connected.wait(), 10)
            assert (await marketplace.over(await marketplace.ask(CHAT))).end is not None
    assert len(marketplace.registrations) == 1


async def test_models_come_and_go_with_the_server_behind_it(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    async with serving(models, marketplace, tmp_path):
        await until(lambda: marketplace.heartbeats)
        models.error = (404, {"error": "unloaded"})
        models.models = {"data": []}
        answer = await marketplace.over(await marketplace.ask(CHAT))
        assert answer.error is not None
        assert answer.error["code"] == "no_such_model"
        await until(lambda: marketplace.heartbeats[-1]["models"] == [])


async def test_it_can_be_called_instead_of_connecting(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    port = unused_port()
    arguments = ["--token", "sk-bob", "--state-dir", str(tmp_path), "--push-url", f"http://127.0.0.1:{port}"]
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(models.running_at())
        url = await stack.enter_async_context(marketplace.running_at())
        running = await stack.enter_async_context(
            program(*arguments, "--upstream", upstream, "--marketplace", url)
        )
        await until(lambda: marketplace.heartbeats)
        headers = {"Authorization": "Bearer mp-secret"}
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=CHAT) as response:
            assert (await response.read()).endswith(b"[DONE]\n\n")
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert not marketplace.sockets


async def ended_with(*arguments: str) -> tuple[int, str]:
    async with program(*arguments) as running:
        return await running.ended(), running.shown


async def test_mistakes_get_one_line(tmp_path: Path) -> None:
    state: list[Any] = ["--state-dir", str(tmp_path)]
    assert await ended_with("--upstream", "nowhere", *state) == (
        1,
        "gpus.agent: --upstream nowhere: expected a URL like http://host:8000.\n",
    )
    status, shown = await ended_with("--upstream", "http://127.0.0.1:9", *state)
    assert status == 1
    assert shown.startswith("gpus.agent: The marketplace does not know this node yet.")
    assert shown.count("\n") == 1


async def test_a_ping_is_answered_while_it_drains(
    models: ModelServer, marketplace: LinkServer, tmp_path: Path
) -> None:
    models.gate = asyncio.Event()
    async with serving(models, marketplace, tmp_path) as (running, _):
        number = await marketplace.ask(CHAT)
        await until(lambda: models.running == 1)
        running.signal(signal.SIGINT)
        await until(lambda: "draining" in running.shown)
        await marketplace.send(0, Kind.PING)
        await until(lambda: marketplace.pongs == 1)
        models.gate.set()
        assert (await marketplace.over(number)).end is not None
        assert await running.ended() == 0
