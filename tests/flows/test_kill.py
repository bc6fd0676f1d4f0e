"""kill -9 of any part in the middle of the work: consumers get a clear end, nothing stays running, all comes back."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.flows.conftest import Marketplace, eventually
from tests.flows.fleet import Fleet, Outcomes, consume

CONSUMERS, ROUNDS = 24, 6
# What a consumer may see while a part dies, besides complete answers.
ALLOWED = {
    "agent": {"error event node_lost"},
    "web-1": {
        "connection",
        "cut off",
        "error event node_lost",
        "status 502 node_failed",
        "status 503 no_capacity",
    },
    "worker": set(),
    "beat": set(),
    "valkey": {"error event node_lost", "status 502 node_failed"},
    "postgres": {"status 503 database_unavailable", "error event database_unavailable"},
}


@pytest.fixture(scope="module")
def fleet(marketplace: Marketplace) -> Iterator[Fleet]:
    found = Fleet(marketplace, "victims", nodes=3)
    yield found
    found.stop()


def running(marketplace: Marketplace) -> int:
    with marketplace.session() as session:
        reply = session.get(f"{marketplace.url}/inference/?status=running", timeout=30)
    return len(reply.json()) if reply.status_code == 200 else -1


async def while_streaming(fleet: Fleet, outcomes: Outcomes, kill: object) -> None:
    streams = asyncio.create_task(consume(fleet, consumers=CONSUMERS, rounds=ROUNDS, outcomes=outcomes))
    await asyncio.sleep(1.0)
    await asyncio.to_thread(kill)  # type: ignore[arg-type]
    await streams


@pytest.mark.parametrize("part", list(ALLOWED))
def test_a_killed_part_is_survived(marketplace: Marketplace, fleet: Fleet, part: str) -> None:
    def kill() -> None:
        if part == "agent":
            fleet.agents[0].kill()
            fleet.agents[0].wait()
            fleet.agents[0] = fleet._agent(f"{fleet.model}-0", 16)
        else:
            marketplace.kill(part)

    outcomes = Outcomes()
    asyncio.run(while_streaming(fleet, outcomes, kill))
    assert outcomes.wrong == []
    assert sum(outcomes.count.values()) == CONSUMERS * ROUNDS
    unexpected = outcomes.count.keys() - ALLOWED[part] - {"complete"}
    assert not unexpected, outcomes.count
    assert outcomes.count["complete"] > CONSUMERS * ROUNDS / 3, outcomes.count
    eventually(lambda: running(marketplace) == 0, within_s=45)
    eventually(lambda: fleet.online() == 3, within_s=60, what=lambda: str(fleet.nodes()))
    after = Outcomes()
    asyncio.run(consume(fleet, consumers=8, rounds=1, outcomes=after))
    assert after.count == {"complete": 8}
