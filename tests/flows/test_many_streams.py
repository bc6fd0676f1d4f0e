"""Two web processes, ten nodes that pull, 64 streams at once."""

import asyncio

from tests.flows.conftest import Marketplace
from tests.flows.fleet import Fleet, Outcomes, consume


def test_all_streams_arrive_in_order_and_complete(marketplace: Marketplace) -> None:
    fleet = Fleet(marketplace, "crowd", nodes=10, concurrency=8)
    outcomes = Outcomes()
    try:
        asyncio.run(consume(fleet, consumers=64, rounds=3, outcomes=outcomes))
    finally:
        fleet.stop()
    assert outcomes.wrong == []
    assert outcomes.count == {"complete": 192}
