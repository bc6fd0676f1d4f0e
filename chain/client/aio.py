"""The same functions for asyncio: `from chain.client import aio`; `await aio.publish_task(task_info)`.

Same names, arguments, results and errors as `chain.client`. aiohttp carries the requests; web3 brings it.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, cast

import aiohttp

from chain.client import provider, responses, source, task, vault
from chain.client.blocking import MOST_BYTES, Operation
from chain.client.steps import Http, Pause, Reply, Step, Steps, Unreachable

P = ParamSpec("P")
T = TypeVar("T")


def awaitable(operation: Operation[P, T]) -> Callable[P, Awaitable[T]]:
    @functools.wraps(operation)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await perform(operation.steps(*args, **kwargs))

    return run


async def perform(steps: Steps[T]) -> T:
    """Carry the steps out without holding the event loop; cancelling it stops between two of them."""
    try:
        async with aiohttp.ClientSession(trust_env=True) as session:
            step = next(steps)
            while True:
                try:
                    outcome = await _carry_out(session, step)
                except Unreachable as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
    except StopIteration as finished:
        return cast(T, finished.value)
    finally:
        # Lets go of the key's lock, also where the task is cancelled.
        steps.close()


async def _carry_out(session: aiohttp.ClientSession, step: Step) -> Any:
    if isinstance(step, Http):
        return await _request(session, step)
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    return await asyncio.to_thread(step.call)


async def _request(session: aiohttp.ClientSession, step: Http) -> Reply:
    try:
        async with session.request(
            step.method,
            step.url,
            data=step.body or None,
            headers=dict(step.headers),
            timeout=aiohttp.ClientTimeout(total=step.timeout),
            allow_redirects=step.method == "GET",
        ) as reply:
            return Reply(reply.status, await _read(reply))
    except TimeoutError:
        raise Unreachable("no answer in time") from None
    except aiohttp.ClientConnectionError:
        raise Unreachable("no connection") from None
    except aiohttp.ClientError as error:
        raise Unreachable(f"the request failed ({type(error).__name__})") from None


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for chunk in reply.content.iter_any():
        found += chunk
        if len(found) > MOST_BYTES:
            raise Unreachable("the answer is too long")
    return bytes(found)


publish_source = awaitable(source.publish_source)
update_source = awaitable(source.update_source)
inactivate_source = awaitable(source.inactivate_source)
get_source = awaitable(source.get_source)

publish_task = awaitable(task.publish_task)
cancel_task = awaitable(task.cancel_task)
get_task = awaitable(task.get_task)

get_task_responses = awaitable(responses.get_task_responses)
get_confirmed_response = awaitable(responses.get_confirmed_response)
confirm_response = awaitable(responses.confirm_response)
get_response = awaitable(responses.get_response)

deposit = awaitable(vault.deposit)
withdraw = awaitable(vault.withdraw)
vault_balance = awaitable(vault.vault_balance)
vault_account = awaitable(vault.vault_account)
lock = awaitable(vault.lock)
unbond = awaitable(vault.unbond)
cancel_unbonding = awaitable(vault.cancel_unbonding)
claim = awaitable(vault.claim)

register = awaitable(provider.register)
unregister = awaitable(provider.unregister)
is_registered = awaitable(provider.is_registered)
attempt = awaitable(provider.attempt)
submit_response = awaitable(provider.submit_response)
announce_provider = awaitable(provider.announce_provider)
announce_master = awaitable(provider.announce_master)
set_agent = awaitable(provider.set_agent)
