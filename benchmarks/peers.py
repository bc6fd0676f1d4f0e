"""Who is measured: the engine, LiteLLM, and the marketplace with its nodes, each started as users would."""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import dataclass
from typing import Any

import orjson
import psutil

from benchmarks import load
from benchmarks.calls import Caller
from benchmarks.load import LoadError, Target
from benchmarks.programs import ROOT, Programs, StandError, django_program, free_port

HOME = ROOT / ".local" / "bench"
LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
ROUTED_WITHIN_S = 60
HEARTBEAT_EVERY_S = 10
# More than any run has under way, so that a node's own limit is never what is measured.
CONCURRENCY = 1000
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


async def engine(programs: Programs, *models: str) -> str:
    """A mock engine that lists `models`; its address."""
    names = [argument for model in models for argument in ("--model", model)]
    command = (sys.executable, "-m", "benchmarks.mock_engine", "--port", "0", *names)
    program = await programs.start("engine", *command, speaks=True)
    return (await program.first_line()).decode()


# --- LiteLLM ---------------------------------------------------------------------------------------------

# What LiteLLM's page on production says, and not a line of log for each request.
_LITELLM_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "DATABASE_URL": "",
    "REDIS_URL": "",
}
_LITELLM_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"uvicorn": {"level": "WARNING"}, "uvicorn.access": {"level": "WARNING"}},
}


async def litellm(programs: Programs, upstream: str, *, provider: str, workers: int) -> str:
    """A LiteLLM proxy with one model, `bench`; no keys, no database, no callbacks. Its address."""
    if not LITELLM.exists():
        raise StandError(f"{LITELLM} is missing; scripts/bench installs it.")
    port, folder = free_port(), HOME / f"litellm-{provider}"
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "config.json", folder / "log.json"
    config.write_bytes(orjson.dumps(_litellm_config(upstream, provider)))
    log.write_bytes(orjson.dumps(_LITELLM_LOG))
    program = await programs.start(
        f"litellm-{provider}",
        str(LITELLM), "--config", str(config), "--log_config", str(log),
        "--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers),
        environment=_LITELLM_ENVIRONMENT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    await program.until_ready(url, "/health/liveliness")
    return url


def _litellm_config(upstream: str, provider: str) -> dict[str, Any]:
    parameters = {"model": f"{provider}/bench", "api_base": f"{upstream}/v1", "api_key": "none"}
    return {
        "model_list": [{"model_name": "bench", "litellm_params": parameters}],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }


# --- The marketplace -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Marketplace:
    """A running marketplace with one web process, an approved provider in it, and that account's API key.

    `newest` is the id of the newest record from before the measurement.
    """

    url: str
    environment: dict[str, str]
    web: psutil.Process
    key: str = ""
    newest: int = 0

    async def rows(self, *arguments: str) -> Any:
        """What `benchmarks.rows` prints."""
        return orjson.loads(await django_program("benchmarks.rows", *arguments, environment=self.environment))

    def target(self, model: str) -> Target:
        return Target(self.url, model, self.key)


async def marketplace(programs: Programs, *, fsync: bool = True) -> Marketplace:
    command = (sys.executable, "-m", "benchmarks.market", str(HOME), *([] if fsync else ["--no-fsync"]))
    program = await programs.start("marketplace", *command, environment={"HTTP_PORT": ""}, speaks=True)
    said = orjson.loads(await program.first_line())
    market = Marketplace(said["url"], said["environment"], psutil.Process(said["web"]))
    market.key = (await market.rows("account"))["key"]
    return market


async def push_node(
    programs: Programs, market: Marketplace, upstream: str, *, model: str, paid: bool = True
) -> None:
    """Register the engine itself as a node that takes pushes, and send its heartbeats from now on."""
    offer = {"name": model, "kinds": ["chat"], "concurrency": CONCURRENCY}
    delivery = {"machine_id": model, "push_url": upstream, "model_name": model, "models": [offer]}
    async with Caller(market.url, key=market.key) as caller:
        status, said = await caller.post("/llm_models/register/", HARDWARE | delivery)
    if status != 201:
        raise StandError(f"The push node could not be registered: {status} {said}")
    programs.tasks.append(asyncio.create_task(_send_heartbeats(market.url, said["node_token"])))
    await until_routed(programs, market, model)
    if paid:
        await _price(programs, market, model)


async def _send_heartbeats(url: str, node_token: str) -> None:
    while True:
        async with Caller(url) as caller:
            status, said = await caller.post("/llm_models/heartbeat/", {"node_token": node_token})
        if status != 200:
            raise StandError(f"A heartbeat was answered with {status}: {said}")
        await asyncio.sleep(HEARTBEAT_EVERY_S)


async def pull_node(programs: Programs, market: Marketplace, upstream: str, *, model: str) -> None:
    """Start an agent in front of the engine, which fetches its work."""
    state = HOME / "agent"
    shutil.rmtree(state, ignore_errors=True)
    await programs.start(
        "agent",
        sys.executable, "-m", "gpus.agent", "--marketplace", market.url, "--upstream", upstream,
        "--model", model, "--concurrency", str(CONCURRENCY), "--state-dir", str(state),
        environment={"AGENT_TOKEN": market.key},
    )  # fmt: skip
    await until_routed(programs, market, model)
    await _price(programs, market, model)


async def _price(programs: Programs, market: Marketplace, model: str) -> None:
    """Put a price on a model, and wait until the web process knows."""
    await market.rows("price", model)
    for _ in range(ROUTED_WITHIN_S):
        async with Caller(market.url, key=market.key) as caller:
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20}
            await caller.post("/v1/chat/completions", body)
        if (await market.rows("recorded", str(market.newest)))["charged"] != "0":
            market.newest = (await market.rows("newest"))["newest"]
            return
        await asyncio.sleep(0.2)
    raise StandError(f"{model} is not paid after {ROUTED_WITHIN_S} requests.")


async def until_routed(programs: Programs, market: Marketplace, model: str) -> None:
    """Wait until a chat request to `model` is answered; it leaves a record too, so `newest` moves on."""
    error = LoadError("")
    for _ in range(ROUTED_WITHIN_S):
        programs.check_alive()
        try:
            await load.run(market.target(model), connections=1, count=1)
        except LoadError as failed:
            error = failed
            await asyncio.sleep(1)
        else:
            market.newest = (await market.rows("newest"))["newest"]
            return
    raise StandError(f"{model} is not served after {ROUTED_WITHIN_S} seconds: {error}")
