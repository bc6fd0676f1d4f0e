"""kill -9 of web, worker, PostgreSQL and Valkey at random moments while requests are paid for.

Afterwards each request is charged exactly once, with a receipt, or not at all; within a minute every hold is gone; and
the books add up. `KILL_ROUNDS=200` is the long proof; `KILL_SEED` repeats the choices of another run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import psycopg2
import pytest
from aiohttp import web

from inference import verification
from marketplace.embedded import postgres
from marketplace.embedded.home import Home, place_for_services
from marketplace.money import TOKEN
from tests.clients import ledger_books
from tests.engine import answer
from tests.flows.conftest import Marketplace, eventually
from tests.flows.fleet import Fleet

ROUNDS = int(os.environ.get("KILL_ROUNDS", "4"))
SEED = int(os.environ.get("KILL_SEED", str(time.time_ns())))
CONSUMERS = 16
PARTS = ("web-1", "worker", "postgres", "valkey")
RECEIPTS_READ = 50
GONE_WITHIN_S = 60

# Requests whose transfer is not what the record says, or is missing, or nobody's. One statement: one moment.
UNPAID = """
    SELECT coalesce(i.id::text, t.reference), i.status, i.code, i.charged, t.amount, i.fee, t.fee, i.created_at
    FROM inference_inference i
    FULL JOIN (SELECT * FROM clients_transfer WHERE kind = 'inference') AS t
        ON t.reference = 'inference:' || i.id
    WHERE coalesce(i.charged, -1) <> coalesce(t.amount, 0) OR coalesce(i.fee, -1) <> coalesce(t.fee, 0)
        OR (i.charged > 0 AND i.status NOT IN ('completed', 'partial'))
        -- What chains want is paid there.
        OR (i.charged = 0 AND i.status = 'completed' AND i.client_id NOT IN (
            SELECT id FROM clients_client WHERE email = 'house:onchain@house.invalid'))
        OR t.destination_id <> (SELECT id FROM clients_account WHERE kind = 'earned' AND client_id = i.provider_id)
        OR t.source_id <> (SELECT id FROM clients_account WHERE kind = 'spendable' AND client_id = i.client_id)
"""
# Whatever is held or said to run, and since when.
OPEN = """
    SELECT 'hold', reference, amount::text, created_at FROM clients_hold
    WHERE ended_at IS NULL AND starts_with(reference, 'inference:')
    UNION ALL SELECT 'running', id::text, code, created_at FROM inference_inference WHERE status = 'running'
    UNION ALL SELECT 'in the way', inference_id::text, '', created_at FROM inference_running
"""


class Database:
    """The marketplace's, from outside."""

    def __init__(self, marketplace: Marketplace) -> None:
        self.url = postgres.url(place_for_services(Home(marketplace.home)))

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return list(cursor.fetchall())
        finally:
            connection.close()


@dataclass
class Told:
    """What consumers were told: how their requests ended, and which of them have their answers."""

    count: Counter[str] = field(default_factory=Counter)
    answered: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)


class Load(threading.Thread):
    """Consumers who ask all the time, half of them for streams, and do not mind what happens."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self.fleet, self.told, self.over = fleet, Told(), threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for the end
            self.problem = error

    def finish(self) -> Told:
        self.over.set()
        self.join(120)
        assert not self.is_alive(), "requests do not end"
        if self.problem is not None:
            raise self.problem
        return self.told

    async def _all(self) -> None:
        headers = {"Authorization": f"Bearer {self.fleet.marketplace.api_key}"}
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._one(session, number % 2 == 0) for number in range(CONSUMERS)))

    async def _one(self, session: aiohttp.ClientSession, stream: bool) -> None:
        while not self.over.is_set():
            how, inference = await self._ask(session, stream)
            self.told.count[how] += 1
            if how == "complete" and inference:
                self.told.answered.append(inference)
            if how.startswith("status") and inference:
                self.told.refused.append(inference)
            if how != "complete":
                await asyncio.sleep(0.2)

    async def _ask(self, session: aiohttp.ClientSession, stream: bool) -> tuple[str, int]:
        body = {
            "model": self.fleet.model,
            "stream": stream,
            "messages": [{"role": "user", "content": "word"}],
        }
        inference = 0
        try:
            async with session.post(f"{self.fleet.marketplace.url}/v1/chat/completions", json=body) as reply:
                inference = int(reply.headers.get("x-inference-id", 0))
                text = await reply.text()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            return f"connection: {type(error).__name__}", inference
        if reply.status != 200:
            return f"status {reply.status} {json.loads(text)['error']['code']}", inference
        if stream and not text.rstrip().endswith("data: [DONE]"):
            return "error event" if '"error"' in text else "cut off", inference
        return "complete", inference


@pytest.fixture(scope="module")
def fleet(marketplace: Marketplace) -> Iterator[Fleet]:
    found = Fleet(marketplace, "paid", nodes=2, pause_s=0.01, concurrency=32)
    in_pieces = found.engine.behaviour

    async def in_time(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body.get("stream"):
            return await in_pieces(request, body)
        await asyncio.sleep(0.1)
        return await answer(request, body)

    found.engine.behaviour = in_time
    yield found
    found.stop()


def kill(marketplace: Marketplace, parts: list[str]) -> None:
    """All at once; returns when all are back."""
    before = [(part, marketplace.kill(part, wait=False)) for part in parts]
    for part, pid in before:
        marketplace.await_back(part, since=pid, within_s=90)


def wrong(database: Database, *, begun_before: float) -> dict[str, list[tuple[Any, ...]]]:
    """What should not be, at this moment; of what is open, only what had begun before (epoch seconds)."""
    found = {
        "books": database.rows(ledger_books.WRONG),
        "unpaid": database.rows(UNPAID),
        "still open": database.rows(
            f"SELECT * FROM ({OPEN}) AS open WHERE created_at < to_timestamp(%s)", begun_before
        ),
    }
    return {what: rows for what, rows in found.items() if rows}


def all_right(database: Database, history: list[str], told: Told) -> float:
    """Wait until all that has begun by now is over, and the books are right all the while; the seconds that it took."""
    began = time.time()
    while found := wrong(database, begun_before=began):
        assert found.keys() == {"still open"}, explained(found, history, told)
        assert time.time() < began + GONE_WITHIN_S, explained(found, history, told)
        time.sleep(0.25)
    return time.time() - began


def test_money_survives_that_anything_is_killed(marketplace: Marketplace, fleet: Fleet) -> None:
    draw, database, load = random.Random(SEED), Database(marketplace), Load(fleet)
    load.start()
    began, longest = time.monotonic(), 0.0
    history: list[str] = []
    for number in range(ROUNDS):
        # Of the first few rounds one is for each part; then one or several at once.
        parts = [PARTS[number]] if number < len(PARTS) else draw.sample(PARTS, draw.choice([1, 1, 1, 2, 3]))
        pause = draw.uniform(0.2, 2.0)
        time.sleep(pause)
        history.append(f"round {number + 1}: killed {', '.join(parts)} after {pause:.2f} s")
        kill(marketplace, parts)
        longest = max(longest, all_right(database, history, load.told))
        if number % 10 == 9:
            print(f"{history[-1]}; {time.monotonic() - began:.0f} s; {dict(load.told.count)}", flush=True)
    told = load.finish()
    longest = max(longest, all_right(database, history, told))
    print(
        f"{ROUNDS} rounds in {time.monotonic() - began:.0f} s; holds gone after {longest:.1f} s at most; {told.count}"
    )
    assert told.count["complete"] > 5 * ROUNDS, explained({}, history, told)
    check_answers(database, told, history)
    check_receipts(marketplace, database, draw)


def check_answers(database: Database, told: Told, history: list[str]) -> None:
    """Whoever has an answer has paid for it; whoever was refused has not."""
    paid = {row[0] for row in database.rows("SELECT id FROM inference_inference WHERE charged > 0")}
    assert set(told.answered) <= paid, explained({"free": [(set(told.answered) - paid,)]}, history, told)
    assert not set(told.refused) & paid, explained({"charged": [(set(told.refused) & paid,)]}, history, told)


def check_receipts(marketplace: Marketplace, database: Database, draw: random.Random) -> None:
    """Paid requests have receipts, which say what was paid."""
    rows = database.rows(
        "SELECT id, charged, fee FROM inference_inference WHERE charged > 0 AND desired_model = 'paid'"
    )
    with marketplace.session() as session:
        for inference, charged, fee in draw.sample(rows, min(RECEIPTS_READ, len(rows))):
            reply = session.get(f"{marketplace.url}/inference/{inference}/receipt", timeout=30)
            assert reply.status_code == 200, (inference, reply.text)
            receipt = verification.verify(verification.read(reply.text)).receipt
            assert receipt["ledger"]["reference"] == f"inference:{inference}"
            assert Decimal(receipt["charged"]) * TOKEN == charged, receipt
            assert Decimal(receipt["fee"]) * TOKEN == fee, receipt


def explained(found: dict[str, list[tuple[Any, ...]]], history: list[str], told: Told) -> str:
    lines = [f"KILL_SEED={SEED} KILL_ROUNDS={ROUNDS}", *history[-10:], str(told.count)]
    for what, rows in found.items():
        lines += [f"{what}: {len(rows)}", *(f"  {row}" for row in rows[:20])]
    return "\n".join(lines)


def test_nothing_is_left_running(marketplace: Marketplace, fleet: Fleet) -> None:
    eventually(lambda: fleet.online() == 2, within_s=60, what=lambda: str(fleet.nodes()))
