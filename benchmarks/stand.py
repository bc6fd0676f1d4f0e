"""The test stand: starts every program of a run on free ports of this machine, and stops them at its end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from benchmarks import load
from benchmarks.calls import Caller
from benchmarks.load import LoadError, Target

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".local" / "bench"
LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
READY_WITHIN_S = 90
ROUTED_WITHIN_S = 60
HEARTBEAT_EVERY_S = 10
# More than any run has under way, so that a node's own limit is never what is measured.
CONCURRENCY = 1000
COMMON_MODEL = "bench-nodes"
STOP_WITHIN_S = 30
_PR_SET_PDEATHSIG = 1


HARDWARE = {
    "gpu_info": "NVIDIA H100 80GB",
    "cpu_name": "AMD EPYC",
    "cpu_core": "32",
    "cpu_frequency": "2400",
    "total_memory": "256",
    "total_swap": "0",
    "ram": "256",
    "os_name": "Linux",
    "os_version": "6.1",
}


@dataclass(slots=True)
class Marketplace:
    """A running marketplace with one web process. `newest` is the newest record from before this run."""

    url: str
    environment: dict[str, str]
    web: psutil.Process
    key: str
    newest: int

    async def rows(self, *arguments: str) -> Any:
        """What `benchmarks.rows` answers."""
        return await rows(self.environment, *arguments)


@dataclass(slots=True)
class Stand:
    """The programs of one run; `home` holds their data and logs."""

    home: Path = HOME
    programs: list[Program] = field(default_factory=list)
    heartbeats: list[asyncio.Task[None]] = field(default_factory=list)

    async def stop(self) -> None:
        """Stop all programs, the last started first."""
        for task in self.heartbeats:
            task.cancel()
        await asyncio.gather(*self.heartbeats, return_exceptions=True)
        while self.programs:
            await self.programs.pop().stop()

    async def engine(self, *models: str) -> str:
        """A mock engine; its address."""
        names = [argument for model in models for argument in ("--model", model)]
        program = await self.start(
            "engine",
            sys.executable, "-m", "benchmarks.mock_engine", "--port", "0", *names,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert program.process.stdout is not None
        url = (await program.process.stdout.readline()).decode().strip()
        if not url:
            raise StandError(f"The mock engine did not start:\n{program.last_words()}")
        return url

    async def litellm(self, engine: str, *, provider: str, workers: int) -> str:
        """A LiteLLM proxy in front of the engine; its address. Set up as benchmarks/README.md says."""
        port, folder = free_port(), self.home / f"litellm-{provider}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_bytes(orjson.dumps(_litellm_config(engine, provider)))
        (folder / "log.json").write_bytes(orjson.dumps(_LITELLM_LOG))
        program = await self.start(
            f"litellm-{provider}",
            str(LITELLM), "--config", str(folder / "config.json"), "--log_config", str(folder / "log.json"),
            "--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers),
            environment=_LITELLM_ENVIRONMENT,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        await until_ready(program, url, "/health/liveliness")
        return url

    async def marketplace(self) -> Marketplace:
        """A marketplace with one web process, and an approved provider with an API key in it."""
        program = await self.start(
            "marketplace",
            sys.executable, "-m", "benchmarks.market", str(self.home),
            environment={"HTTP_PORT": ""},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert program.process.stdout is not None
        line = await program.process.stdout.readline()
        if not line:
            raise StandError(f"The marketplace did not start:\n{program.last_words()}")
        said = orjson.loads(line)
        found = await rows(said["environment"], "account")
        return Marketplace(
            said["url"], said["environment"], psutil.Process(said["web"]), found["key"], found["newest"]
        )

    async def push_node(self, market: Marketplace, engine: str, *, model: str) -> None:
        """Register the engine itself as a node that takes pushes, and send its heartbeats from now on."""
        offer = {"name": model, "kinds": ["chat"], "concurrency": CONCURRENCY}
        node = {
            **HARDWARE,
            "machine_id": "bench-push",
            "push_url": engine,
            "model_name": model,
            "models": [offer],
        }
        async with Caller(market.url, key=market.key) as caller:
            status, said = await caller.post("/llm_models/register/", node)
        if status != 201:
            raise StandError(f"The push node could not be registered: {status} {said}")
        self.heartbeats.append(asyncio.create_task(_send_heartbeats(market.url, said["node_token"])))
        await self.until_routed(market, model)

    async def pull_node(self, market: Marketplace, engine: str, *, model: str) -> None:
        """An agent in front of the engine, which fetches its work."""
        state = self.home / "agent"
        shutil.rmtree(state, ignore_errors=True)
        await self.start(
            "agent",
            sys.executable, "-m", "gpus.agent", "--marketplace", market.url, "--upstream", engine,
            "--model", model, "--concurrency", str(CONCURRENCY), "--state-dir", str(state),
            environment={"AGENT_TOKEN": market.key},
        )  # fmt: skip
        await self.until_routed(market, model)

    async def until_routed(self, market: Marketplace, model: str) -> None:
        """Wait until a chat request to `model` is answered; it is a record too, so `newest` moves on."""
        target, error = Target(market.url, model, market.key), LoadError("")
        for _ in range(ROUTED_WITHIN_S):
            self._check_alive()
            try:
                await load.run(target, connections=1, count=1)
            except LoadError as failed:
                error = failed
                await asyncio.sleep(1)
            else:
                market.newest = (await market.rows("newest"))["newest"]
                return
        raise StandError(f"{model} is not served after {ROUTED_WITHIN_S} seconds: {error}")

    def _check_alive(self) -> None:
        for program in self.programs:
            if program.process.returncode is not None:
                raise StandError(
                    f"{program.name} ended with {program.process.returncode}:\n{program.last_words()}"
                )
        for task in self.heartbeats:
            if task.done():
                task.result()

    async def while_alive(self, work: asyncio.Future[Any]) -> None:
        """Wait for `work`; cancel it and raise StandError as soon as a program ends or a heartbeat fails."""
        ends = [asyncio.ensure_future(program.process.wait()) for program in self.programs]
        try:
            await asyncio.wait([work, *ends, *self.heartbeats], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self._check_alive()
        finally:
            for each in (work, *ends):
                each.cancel()
            await asyncio.gather(work, *ends, return_exceptions=True)
        work.result()


async def _send_heartbeats(url: str, node_token: str) -> None:
    while True:
        async with Caller(url) as caller:
            status, said = await caller.post("/llm_models/heartbeat/", {"node_token": node_token})
        if status != 200:
            raise StandError(f"A heartbeat was answered with {status}: {said}")
        await asyncio.sleep(HEARTBEAT_EVERY_S)


async def rows(environment: Mapping[str, str], *arguments: str) -> Any:
    """What `benchmarks.rows` prints."""
    return orjson.loads(await django_program("benchmarks.rows", *arguments, environment=environment))


# For programs that need the models' code, but no row.
_NO_SERVICES: Mapping[str, str] = {
    "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    "SECRET_KEY": "x" * 50,
    "DATABASE_URL": "postgresql://localhost/none",
    "REDIS_URL": "redis://localhost/0",
}


async def django_program(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> bytes:
    """Run `main` of a module that needs Django, in a process of its own; what it prints."""
    code = f"import django; django.setup(); import {module} as program; program.main()"
    environment = {**_NO_SERVICES, **(environment or {})}
    return await _output(sys.executable, "-c", code, *arguments, environment=environment)


def _litellm_config(engine: str, provider: str) -> dict[str, Any]:
    parameters = {"model": f"{provider}/bench", "api_base": f"{engine}/v1", "api_key": "none"}
    return {
        "model_list": [{"model_name": "bench", "litellm_params": parameters}],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }


# What LiteLLM's page on production says, and no line of log for each request.
_LITELLM_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"uvicorn": {"level": "WARNING"}, "uvicorn.access": {"level": "WARNING"}},
}
_LITELLM_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "DATABASE_URL": "",
}


@contextlib.asynccontextmanager
async def stand(home: Path = HOME) -> AsyncIterator[Stand]:
    """A stand that is cleared at the end, also on Ctrl-C and SIGTERM."""
    allow_many_connections()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    made = Stand(home)
    try:
        yield made
    finally:
        await made.stop()
