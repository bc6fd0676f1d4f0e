"""Which node gets a request."""

import asyncio
from collections import Counter

import pytest

from gpus import placement
from gpus.directory import LiveNode
from gpus.liveness import Liveness, NodeFacts
from gpus.placement import LiveOffer, NoCapacity, Policy, PolicyNotMet, Pool, QueueFull

ONLINE = Liveness("online", "", takes_work=True)
SILENT = Liveness("silent", "", "Start it.")
ALICE, BOB = 1, 2


def add(
    pool: Pool, number: int, *, concurrency: int = 1, liveness: Liveness = ONLINE, **fields: object
) -> LiveOffer:
    node = LiveNode(
        id=number, owner_id=9, facts=NodeFacts("approved"), name=f"node-{number}", liveness=liveness
    )
    for name, value in fields.items():
        setattr(node, name, value)
    offer = LiveOffer(node, pool.model, frozenset({"chat"}), concurrency)
    node.offers[pool.model] = offer
    pool.add(offer)
    pool.refresh(offer)
    return offer


@pytest.fixture
def pool() -> Pool:
    return Pool("llama")


def test_it_takes_the_only_free_node(pool: Pool) -> None:
    add(pool, 1, liveness=SILENT)
    add(pool, 2)
    slot = placement.choose(pool)
    assert slot is not None
    assert slot.node.id == 2
    assert placement.choose(pool) is None
    slot.release()
    assert placement.choose(pool) is not None


def test_releasing_twice_frees_one_slot(pool: Pool) -> None:
    offer = add(pool, 1, concurrency=3)
    first, second = placement.choose(pool), placement.choose(pool)
    assert first is not None
    assert second is not None
    first.release()
    first.release()
    assert offer.outstanding == 1


def test_it_spreads_load_by_concurrency(pool: Pool) -> None:
    add(pool, 1, concurrency=100)
    add(pool, 2, concurrency=300)
    taken = Counter(slot.node.id for slot in (placement.choose(pool) for _ in range(200)) if slot)
    assert 30 <= taken[1] <= 80
    assert taken[1] + taken[2] == 200


def test_it_prefers_the_node_that_answers_faster(pool: Pool) -> None:
    slow, fast = add(pool, 1, concurrency=100), add(pool, 2, concurrency=100)
    slow.latency_s, fast.latency_s = 4.0, 1.0
    taken = Counter(slot.node.id for slot in (placement.choose(pool) for _ in range(100)) if slot)
    assert taken[2] > 2 * taken[1]


def test_it_counts_what_other_processes_have_outstanding(pool: Pool) -> None:
    offer = add(pool, 1, concurrency=2)
    offer.elsewhere = 2
    pool.refresh(offer)
    assert placement.choose(pool) is None
    offer.elsewhere = 1
    pool.refresh(offer)
    assert placement.choose(pool) is not None
    assert placement.choose(pool) is None


def test_it_obeys_the_policy(pool: Pool) -> None:
    add(pool, 1, region="eu", trusted=False)
    add(pool, 2, region="eu", trusted=True)
    add(pool, 3, region="us", trusted=True)
    slot = placement.choose(pool, policy=Policy(region="eu", trusted_only=True))
    assert slot is not None
    assert slot.node.id == 2
    assert placement.choose(pool, policy=Policy(region="eu", trusted_only=True)) is None


async def test_a_refusal_counts_every_node_by_its_reason(pool: Pool) -> None:
    add(pool, 1, liveness=SILENT, region="eu")
    add(pool, 2, region="us")
    add(pool, 3, region="us")
    with pytest.raises(NoCapacity) as refused:
        await placement.take(pool, consumer=ALICE, policy=Policy(region="eu"), for_s=5)
    assert refused.value.message == "3 nodes hold llama: 2 are not in region eu, 1 is silent."
    assert refused.value.details == {"nodes": {"silent": 1, "not in region eu": 2}}


async def test_a_demand_that_no_node_meets_is_the_requests_own_fault(pool: Pool) -> None:
    add(pool, 1, region="us")
    add(pool, 2, region="us", liveness=SILENT)
    with pytest.raises(PolicyNotMet) as refused:
        await placement.take(pool, consumer=ALICE, policy=Policy(region="eu"), for_s=5)
    assert refused.value.message == "2 nodes hold llama: 2 are not in region eu."


async def test_it_waits_for_a_slot_that_comes_free(pool: Pool) -> None:
    add(pool, 1)
    first = placement.choose(pool)
    waiting = asyncio.create_task(placement.take(pool, consumer=ALICE, for_s=5))
    await asyncio.sleep(0)
    assert first is not None
    first.release()
    second = await waiting
    assert second.node.id == 1
    assert placement.choose(pool) is None


async def test_it_gives_up_after_the_time(pool: Pool) -> None:
    add(pool, 1)
    placement.choose(pool)
    with pytest.raises(NoCapacity) as refused:
        await placement.take(pool, consumer=ALICE, for_s=0.01)
    assert refused.value.code == "queue_timeout"
    assert refused.value.retry_after
    assert pool.waiters == 0


async def test_the_queue_is_bounded(pool: Pool, settings: object) -> None:
    settings.QUEUE_LENGTH = 1  # type: ignore[attr-defined]
    add(pool, 1)
    placement.choose(pool)
    waiting = asyncio.create_task(placement.take(pool, consumer=ALICE, for_s=5))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await placement.take(pool, consumer=BOB, for_s=5)
    waiting.cancel()


async def test_consumers_are_served_in_turn(pool: Pool) -> None:
    add(pool, 1)
    slot = placement.choose(pool)
    served: list[str] = []

    async def wait(name: str, consumer: int) -> None:
        mine = await placement.take(pool, consumer=consumer, for_s=5)
        served.append(name)
        mine.release()

    names = [("a1", ALICE), ("a2", ALICE), ("a3", ALICE), ("b1", BOB)]
    tasks = [asyncio.create_task(wait(name, consumer)) for name, consumer in names]
    await asyncio.sleep(0)
    assert slot is not None
    slot.release()
    await asyncio.gather(*tasks)
    assert served.index("b1") == 1


async def test_a_waiter_that_leaves_loses_no_slot(pool: Pool) -> None:
    offer = add(pool, 1)
    slot = placement.choose(pool)
    waiting = asyncio.create_task(placement.take(pool, consumer=ALICE, for_s=5))
    await asyncio.sleep(0)
    assert slot is not None
    slot.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert offer.outstanding == 0
    assert placement.choose(pool) is not None


async def test_a_node_that_comes_back_serves_who_waits(pool: Pool) -> None:
    add(pool, 1)
    placement.choose(pool)
    other = add(pool, 2, liveness=SILENT)
    waiting = asyncio.create_task(placement.take(pool, consumer=ALICE, for_s=5))
    await asyncio.sleep(0)
    other.node.liveness = ONLINE
    pool.refresh(other)
    assert (await waiting).node.id == 2


def test_ready_holds_just_the_free_offers(pool: Pool) -> None:
    offers = [add(pool, number, concurrency=2) for number in range(20)]
    slots = [placement.choose(pool) for _ in range(40)]
    assert pool.ready == []
    for slot in slots[::2]:
        assert slot is not None
        slot.release()
    assert {offer.node.id for offer in pool.ready} == {offer.node.id for offer in offers if offer.free > 0}
    assert all(pool.ready[offer.place] is offer for offer in pool.ready)
