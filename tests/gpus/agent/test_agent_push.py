"""The web server of a node that is called by the marketplace."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
import pytest

from gpus.agent.intake import Intake
from gpus.agent.push import PushServer
from tests.gpus.agent.fakes import USAGE, ModelServer, until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
PATH = "/v1/chat/completions"
SECRET = "mp-secret"


class Pushed:
    def __init__(self, intake: Intake, session: aiohttp.ClientSession) -> None:
        self.intake, self.session = intake, session

    async def ask(self, request: Any, **headers: str) -> tuple[int, bytes, Any]:
        async with self.session.post(PATH, json=request, headers=headers) as response:
            return response.status, await response.read(), response.headers


@pytest.fixture
async def pushed(stack: AsyncExitStack, upstream: Callable[..., Any]) -> Pushed:
    intake = Intake([await upstream(concurrency=1)])
    server = PushServer(intake, host="127.0.0.1", port=0, secret=lambda: SECRET)
    await server.start()
    stack.push_async_callback(server.stop)
    session = aiohttp.ClientSession(
        f"http://127.0.0.1:{server.port}", headers={"Authorization": f"Bearer {SECRET}"}
    )
    await stack.enter_async_context(session)
    return Pushed(intake, session)


async def test_it_answers_plain_and_streamed(pushed: Pushed) -> None:
    status, body, headers = await pushed.ask(CHAT)
    assert (status, orjson.loads(body)["usage"]) == (200, USAGE)
    assert "X-Usage" not in headers
    status, body, headers = await pushed.ask(CHAT | {"stream": True})
    assert headers["Content-Type"] == "text/event-stream"
    assert body.endswith(b"data: [DONE]\n\n")


async def test_usage_travels_along_where_the_engine_reports_none(pushed: Pushed, models: ModelServer) -> None:
    models.usage = None
    _, _, headers = await pushed.ask(CHAT)
    assert orjson.loads(headers["X-Usage"])["completion_tokens"] == 4
    assert headers["X-Usage-Source"] == "estimate"
    _, body, _ = await pushed.ask(CHAT | {"stream": True})
    last = body.rstrip().rpartition(b"\n")[2]
    assert orjson.loads(last.removeprefix(b": usage "))["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("shown", ["", "Bearer wrong", "Bearer ", "Basic x"])
async def test_nobody_else_may_call_it(pushed: Pushed, models: ModelServer, shown: str) -> None:
    status, body, _ = await pushed.ask(CHAT, Authorization=shown)
    assert status == 401
    assert orjson.loads(body)["error"]["code"] == "unauthorized"
    assert models.requests == []


async def test_its_health_and_its_models_can_be_read(pushed: Pushed) -> None:
    async with pushed.session.get("/healthz", headers={"Authorization": ""}) as response:
        assert await response.json() == {"status": "ok"}
    async with pushed.session.get("/v1/models") as response:
        assert [each["id"] for each in (await response.json())["data"]] == ["m"]


async def test_refusals_have_a_status_and_a_code(pushed: Pushed, models: ModelServer) -> None:
    status, _, headers = await pushed.ask(CHAT | {"model": "other"})
    assert (status, headers["X-Agent-Error"]) == (404, "no_such_model")
    models.error = (500, {})
    status, _, headers = await pushed.ask(CHAT)
    assert (status, headers["X-Agent-Error"]) == (502, "engine_failed")
    pushed.intake.draining = True
    status, _, headers = await pushed.ask(CHAT)
    assert (status, headers["X-Agent-Error"], headers["Retry-After"]) == (503, "draining", "1")


async def test_a_caller_who_leaves_stops_the_engine(pushed: Pushed, models: ModelServer) -> None:
    models.words, models.pause_s = ["word "] * 1000, 0.02
    async with pushed.session.post(PATH, json=CHAT | {"stream": True}) as response:
        await response.content.readany()
        response.close()
    await until(lambda: models.abandoned == 1, within_s=1)
    await until(lambda: pushed.intake.active == 0)


async def test_the_deadline_of_the_marketplace_holds(pushed: Pushed, models: ModelServer) -> None:
    models.gate = asyncio.Event()
    status, body, _ = await pushed.ask(CHAT, **{"X-Deadline-S": "0.1"})
    assert status == 502
    assert b"deadline" in body
    await until(lambda: models.abandoned == 1)
