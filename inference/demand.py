"""What consumers ask for and what comes of it: counted in each web process, added to the rows of the hour now and then.

`missed` compares this with what a provider's nodes offer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db import Error as DatabaseError
from django.db import close_old_connections, connection

from gpus.placement import Policy
from gpus.prices import Ceiling
from inference.models import Demand
from marketplace import background
from marketplace.money import MOST

logger = logging.getLogger(__name__)

SERVED = "served"
FLUSH_S = 10.0
# Consumers make up names and prices: what is more than so many different wishes in an hour is counted together.
MOST_KEYS = 2000
KEPT = timedelta(days=35)


class Wish(NamedTuple):
    """What was asked for, as the rows have it, and what came of it. `model` "": one of many others."""

    model: str
    kind: str
    region: str
    trusted_only: bool
    max_input_price: int
    max_output_price: int
    max_request_price: int
    outcome: str


class DemandCounter:
    """The requests of one process that have not been added to the rows yet."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[datetime, Wish]] = Counter()
        self._hour = datetime.min.replace(tzinfo=UTC)
        self._known: set[Wish] = set()

    def start(self) -> None:
        self._task = background.keep_running(self._work)

    async def stop(self) -> None:
        """Write what is left."""
        await background.end(self._task)
        await self.flush()

    def count(
        self, model: str, kind: str, policy: Policy, outcome: str, *, now: datetime | None = None
    ) -> None:
        """Note that a request has ended: `outcome` is SERVED, or the code of the error that it ended with."""
        hour = (now or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
        if hour != self._hour:
            self._hour, self._known = hour, set()
        wish = Wish(
            model, kind, policy.region[:50], policy.trusted_only, *_most(policy.ceiling), outcome[:50]
        )
        if wish not in self._known:
            if len(self._known) < MOST_KEYS:
                self._known.add(wish)
            else:
                wish = Wish("", kind, "", False, MOST, MOST, MOST, outcome[:50])
        self._counts[hour, wish] += 1

    async def flush(self) -> None:
        """Add what was counted to the rows, at most once: what a database that goes away may have got is not repeated.

        In a transaction of its own, since all processes add to the same rows: requests must not wait for these.
        """
        counts, self._counts = self._counts, Counter()
        if counts:
            try:
                await asyncio.to_thread(_add, counts)
            except DatabaseError as error:
                logger.warning(
                    "The demand of %d requests was not written: %s", counts.total(), str(error).split("\n")[0]
                )

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()


def _most(ceiling: Ceiling) -> tuple[int, int, int]:
    input_price, output_price, request_price = (MOST if part is None else part for part in ceiling)
    return input_price, output_price, request_price


_ADD = """
    INSERT INTO inference_demand (hour, model, kind, region, trusted_only, max_input_price, max_output_price,
        max_request_price, outcome, requests)
    SELECT hour, model, kind, region, trusted_only, max_input_price, max_output_price, max_request_price, outcome,
        requests
    FROM json_to_recordset(%s) AS row (
        hour timestamptz, model text, kind text, region text, trusted_only boolean, max_input_price numeric,
        max_output_price numeric, max_request_price numeric, outcome text, requests bigint)
    ON CONFLICT (hour, model, kind, region, trusted_only, max_input_price, max_output_price, max_request_price, outcome)
    DO UPDATE SET requests = inference_demand.requests + excluded.requests
"""


def _add(counts: Mapping[tuple[datetime, Wish], int]) -> None:
    # In one order, so that two processes cannot deadlock.
    rows = [
        wish._asdict() | {"hour": hour.isoformat(), "requests": count}
        for (hour, wish), count in sorted(counts.items())
    ]
    close_old_connections()
    try:
        with connection.cursor() as cursor:
            cursor.execute(_ADD, [json.dumps(rows)])
    finally:
        close_old_connections()


def sweep(*, now: datetime) -> int:
    """Delete what no report reaches back to; how many rows."""
    return Demand.objects.filter(hour__lt=now - KEPT).delete()[0]
