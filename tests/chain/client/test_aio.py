"""chain.client.aio: the same for asyncio."""

import asyncio
import inspect
import time
from collections.abc import Callable

import pytest

import chain.client
from chain.client import ChainConfig, TaskInfo, aio, provider, vault
from chain.client.errors import NodeUnreachable, NotEnoughInVault
from tests.chain.client.conftest import COIN, source_info
from tests.chain.network import Network
from tests.chain.pinboard import Pinboard


async def test_the_whole_path(network: Network, task_info: Callable[..., TaskInfo]) -> None:
    source = await aio.publish_source(source_info())
    await aio.register(source)
    with pytest.raises(NotEnoughInVault):
        await aio.publish_task(task_info(source))
    await aio.deposit(COIN)
    task = await aio.publish_task(task_info(source))
    await aio.attempt(task, 0)
    response = await aio.submit_response(task, "answer")
    assert (await aio.get_task_responses(task))[0].address == response
    await aio.confirm_response(response)

    assert (await aio.get_confirmed_response(task)).data == "answer"
    assert (await aio.get_task(task)).winningProvider == network.bob.address
    assert await aio.vault_balance(network.bob.address) == COIN // 100


def test_every_function_is_there_with_the_same_arguments() -> None:
    names = {name for name in chain.client.__all__ if inspect.isfunction(getattr(chain.client, name))}
    names |= {
        name
        for module in (vault, provider)
        for name in vars(module)
        if hasattr(getattr(module, name), "steps")
    }
    for name in names:
        blocking = getattr(chain.client, name, None) or getattr(vault, name, None) or getattr(provider, name)
        found = getattr(aio, name)
        assert inspect.iscoroutinefunction(found)
        assert inspect.signature(found) == inspect.signature(blocking), name


async def test_the_event_loop_goes_on_meanwhile(
    source: str, deposited: int, task_info: Callable[..., TaskInfo], pins: Pinboard
) -> None:
    pins.delay = 0.5
    longest, publication = 0.0, asyncio.create_task(aio.publish_task(task_info(source)))
    while not publication.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)

    assert await publication
    assert longest < 0.25


async def test_a_node_that_is_away_is_told(network: Network) -> None:
    ChainConfig.set_rpc("http://127.0.0.1:9/secret")

    with pytest.raises(NodeUnreachable) as caught:
        await aio.vault_balance(network.alice.address)

    assert "secret" not in str(caught.value)
