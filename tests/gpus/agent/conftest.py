from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from yarl import URL

from gpus.agent.engines.discovery import Wanted
from gpus.agent.engines.upstream import Upstream
from gpus.agent.intake import Intake
from gpus.agent.pull import Puller
from tests.gpus.agent.fakes import LinkServer, ModelServer


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpus.agent.engines.upstream.RETRY_FIRST_S", 0.05)
    monkeypatch.setattr("gpus.agent.pull.RETRY_FIRST_S", 0.05)
    monkeypatch.setattr("gpus.agent.node.RETRY_FIRST_S", 0.05)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def models() -> ModelServer:
    return ModelServer()


@pytest.fixture
async def upstream(stack: AsyncExitStack, models: ModelServer) -> Callable[..., Any]:
    """Starts an engine in front of the model server."""

    async def start(*, key: str = "", changed: Callable[[], None] = lambda: None, **wanted: Any) -> Upstream:
        url = await stack.enter_async_context(models.running_at())
        engine = Upstream(url, key=key, wanted=Wanted(wanted.pop("names", {}), **wanted))
        await engine.start(changed)
        stack.push_async_callback(engine.close)
        return engine

    return start


@pytest.fixture
def marketplace() -> LinkServer:
    return LinkServer()


class Pulled:
    """A node that pulls from a marketplace."""

    def __init__(self, intake: Intake, puller: Puller) -> None:
        self.intake, self.puller = intake, puller
        self.drains = self.refusals = 0


@pytest.fixture
async def pulled(
    stack: AsyncExitStack, marketplace: LinkServer, upstream: Callable[..., Any]
) -> Callable[..., Any]:
    """Connects a node with the model server behind it to the marketplace."""
    import asyncio

    async def start(**wanted: Any) -> Pulled:
        url = URL(await stack.enter_async_context(marketplace.running_at()))
        intake = Intake([await upstream(**wanted)])
        target = url.with_scheme("ws").join(URL("/llm_models/connect/"))

        def drain() -> None:
            node.drains += 1

        def refused() -> None:
            node.refusals += 1

        puller = Puller(
            intake,
            target=lambda: (target, "node-token"),
            on_drain=drain,
            on_errands=lambda: None,
            connected=lambda: None,
            refused=refused,
        )
        node = Pulled(intake, puller)
        task = asyncio.create_task(puller.run())

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(stop)
        if marketplace.refuse_link is None:
            async with asyncio.timeout(5):
                await marketplace.connected.wait()
        return node

    return start
