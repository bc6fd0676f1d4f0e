"""kill -9 at random moments under load: every request is charged exactly once, with a receipt, or not at all.

A few rounds in every check; `KILL_ROUNDS=200` for the long proof.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.engine import answer, chunk, stream
from tests.flows import books
from tests.flows.conftest import Marketplace, eventually
from tests.flows.fleet import Fleet

ROUNDS = int(os.environ.get("KILL_ROUNDS", "6"))
CONSUMERS = 16
PARTS = ("web-1", "web-2", "worker", "postgres", "valkey")
WITHIN_S = 60


@dataclass
class Seen:
    """How the requests ended, as their consumers saw it, by the number of their record."""

    answered: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    count: Counter[str] = field(default_factory=Counter)


async def behave(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if not body.get("stream"):
        await asyncio.sleep(random.random() * 0.3)
        return await answer(request, body)
    return await stream(request, [chunk(f"{n} ") for n in range(random.randrange(1, 20))], pause_s=0.02)


@pytest.fixture
def fleet(marketplace: Marketplace) -> Iterator[Fleet]:
    found = Fleet(marketplace, "paid", nodes=2)
    found.engine.behaviour = behave
    yield found
    found.stop()


async def ask(session: aiohttp.ClientSession, fleet: Fleet, seen: Seen) -> None:
    body = {
        "model": fleet.model,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": random.random() < 0.5,
        "max_tokens": 50,
    }
    try:
        async with session.post(f"{fleet.marketplace.url}/v1/chat/completions", json=body) as reply:
            number = int(reply.headers.get("X-Inference-Id", 0))
            text = await reply.text()
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        seen.count["cut off"] += 1
        return
    seen.count[str(reply.status)] += 1
    if reply.status != 200:
        seen.refused.add(number)
    elif text.endswith("data: [DONE]\n\n") or not body["stream"]:
        seen.answered.add(number)


async def consume(fleet: Fleet, seen: Seen, stop: asyncio.Event) -> None:
    headers = {"Authorization": f"Bearer {fleet.marketplace.api_key}"}
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

        async def one() -> None:
            while not stop.is_set():
                await ask(session, fleet, seen)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(CONSUMERS)))


async def under_load(fleet: Fleet, seen: Seen) -> None:
    stop = asyncio.Event()
    load = asyncio.create_task(consume(fleet, seen, stop))
    for number in range(ROUNDS):
        await asyncio.sleep(random.uniform(0.2, 1.5))
        part = random.choice(PARTS)
        await asyncio.to_thread(fleet.marketplace.kill, part)
        if ROUNDS > 20:
            print(f"round {number + 1}: killed {part}; {dict(seen.count)}", flush=True)
    await asyncio.sleep(1)
    stop.set()
    await load


@pytest.mark.timeout(120 + 20 * ROUNDS)
def test_whatever_is_killed_each_request_is_charged_once_or_not_at_all(
    marketplace: Marketplace, fleet: Fleet
) -> None:
    seen = Seen()
    asyncio.run(under_load(fleet, seen))

    ended = time.monotonic()
    found: dict[str, Any] = {}

    def settled() -> bool:
        found.update(books.read(marketplace.pid("web-1")))
        return not found["running"] and not found["holds"]

    eventually(settled, within_s=WITHIN_S, every_s=1, what=lambda: str({**found, "records": "…"}))
    print(f"settled {time.monotonic() - ended:.0f} s after the last kill; {dict(seen.count)}")
    found = books.read(marketplace.pid("web-1"), receipts=50)
    records = {int(number): (status, int(charged)) for number, (status, charged) in found["records"].items()}
    assert found["adds_up"], found["breaks"]
    assert len(seen.answered) > 10 * ROUNDS, seen.count
    unpaid = [
        number for number in seen.answered if records[number][0] != "completed" or not records[number][1]
    ]
    assert not unpaid, {number: records[number] for number in unpaid}
    charged = [number for number in seen.refused if records.get(number, ("", 0))[1]]
    assert not charged, {number: records[number] for number in charged}
