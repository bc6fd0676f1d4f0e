"""How long the choice of a node takes, by the number of nodes that hold the model. Prints JSON."""

import statistics
import sys
import time
from collections.abc import Callable

import orjson

from gpus import placement
from gpus.directory import LiveNode
from gpus.liveness import Liveness, NodeFacts
from gpus.placement import LiveOffer, Policy, Pool
from gpus.prices import Rates

ONLINE = Liveness("online", "It is online.", takes_work=True)
SIZES = (10, 1_000, 10_000)
REGIONS = 4
CHOICES = 5_000
ROUNDS = 7


def pool(size: int) -> Pool:
    """A model on `size` live nodes in four regions; every node is measured and at work already."""
    made = Pool("bench")
    for number in range(size):
        node = LiveNode(
            id=number, owner_id=1, facts=NodeFacts("approved"), region=f"region-{number % REGIONS}"
        )
        node.liveness = ONLINE
        offer = LiveOffer(node, made.model, frozenset({"chat"}), 8, outstanding=number % 8)
        offer.latency_s = 0.5 + number % 5 / 10
        offer.charge(Rates(number % 7 * 10**18, number % 11 * 10**18))
        made.add(offer)
        made.refresh(offer)
    return made


def microseconds(choose: Callable[[], object]) -> float:
    """What one call takes: the median of several rounds of many calls."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CHOICES):
            choose()
        taken.append((time.perf_counter() - start) / CHOICES * 1e6)
    return statistics.median(taken)


def measure(size: int) -> dict[str, float]:
    """Microseconds to choose a node and to give its slot back, without and with a policy."""
    nodes, policy = pool(size), Policy(region="region-1")

    def take(policy: Policy) -> None:
        slot = placement.choose(nodes, policy=policy)
        assert slot is not None
        slot.release(took_s=0.5)

    return {
        "nodes": size,
        "any_us": microseconds(lambda: take(placement.ANY)),
        "region_us": microseconds(lambda: take(policy)),
    }


def main() -> None:
    sys.stdout.buffer.write(orjson.dumps([measure(size) for size in SIZES]))


if __name__ == "__main__":
    main()
