"""Which node gets a request."""

import asyncio
import random
from collections import Counter

import pytest

from gpus import placement
from gpus.directory import LiveNode
from gpus.liveness import Liveness, NodeFacts
from gpus.placement import LiveOffer, NoCapacity, Policy, PolicyNotMet, Pool, QueueFull
from gpus.prices import Ceiling, Rates
from marketplace.money import TOKEN

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
    random.seed(1)
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


def test_of_nodes_that_are_alike_it_prefers_the_cheaper(pool: Pool) -> None:
    dear, cheap = add(pool, 1, concurrency=100), add(pool, 2, concurrency=100)
    dear.charge(Rates(3, 3))
    cheap.charge(Rates(2, 2))
    slot = placement.choose(pool)
    assert slot is not None
    assert slot.offer is cheap


def test_a_free_offer_wins_and_divides_by_nothing(pool: Pool) -> None:
    free, dear = add(pool, 1, concurrency=9), add(pool, 2, concurrency=9)
    dear.charge(Rates(1, 0, 0))
    slot = placement.choose(pool)
    assert slot is not None
    assert slot.offer is free
    dear.charge(Rates())
    assert placement.choose(pool) is not None


def test_work_that_has_piled_up_outweighs_any_price(pool: Pool) -> None:
    cheap, dear = add(pool, 1, concurrency=8), add(pool, 2, concurrency=8)
    dear.charge(Rates(10**60, 10**60, 10**60))
    cheap.outstanding = 3
    slot = placement.choose(pool)
    assert slot is not None
    assert slot.offer is dear
    cheap.outstanding = 8
    pool.refresh(cheap)
    assert placement.choose(pool) is not None


async def test_a_refusal_names_the_maximum_price_that_would_do(pool: Pool, settings: object) -> None:
    settings.CURRENCY = "OMNIT"  # type: ignore[attr-defined]
    for number, price in enumerate((3, 2, 4)):
        add(pool, number).charge(Rates(price * TOKEN, price * TOKEN, number))
    add(pool, 9, liveness=SILENT).charge(Rates(TOKEN + 1))
    with pytest.raises(PolicyNotMet) as refused:
        await placement.take(pool, consumer=ALICE, policy=Policy(ceiling=Ceiling(TOKEN)), for_s=5)
    assert refused.value.message == (
        "4 nodes hold llama: 4 are over your maximum price. The cheapest of these asks 2 per million prompt tokens, "
        "2 per million completion tokens and 0.000000000000000001 OMNIT per request."
    )
    assert refused.value.details == {
        "nodes": {"over your maximum price": 4},
        "cheapest": {"input_price": "2", "output_price": "2", "request_price": "0.000000000000000001"},
    }


def test_foreseeing_names_the_best_node_and_why_not_the_others(pool: Pool) -> None:
    busy, best, dear = add(pool, 1, concurrency=4), add(pool, 2, concurrency=4), add(pool, 3)
    full, silent = add(pool, 4), add(pool, 5, liveness=SILENT)
    busy.outstanding, full.outstanding = 2, 1
    pool.refresh(full)
    dear.charge(Rates(9 * TOKEN))
    found = placement.foresee(pool, policy=Policy(ceiling=Ceiling(TOKEN)))

    assert (found.chosen, found.wait_s, found.error) == (best, 0.0, None)
    assert dict(found.others) == {
        busy: "slower so far, more outstanding work, or a higher price",
        full: "full",
        silent: "silent",
        dear: "over your maximum price",
    }
    assert best.outstanding == 0


async def test_foreseeing_estimates_the_wait_where_all_are_full(pool: Pool) -> None:
    offer = add(pool, 1, concurrency=2)
    pool.usual_s = 3.0
    slots = [placement.choose(pool) for _ in range(2)]
    waiting = asyncio.create_task(placement.take(pool, consumer=ALICE, for_s=5))
    await asyncio.sleep(0)
    found = placement.foresee(pool)
    assert (found.chosen, found.wait_s) == (offer, 3.0)
    waiting.cancel()
    assert all(slots)


def test_foreseeing_answers_the_error_where_nothing_would_do(pool: Pool) -> None:
    for number in range(60):
        add(pool, number, liveness=SILENT)
    found = placement.foresee(pool)
    assert (found.chosen, found.wait_s, len(found.others)) == (None, None, 50)
    assert isinstance(found.error, NoCapacity)
    assert "60 are silent" in found.error.message


def test_a_node_that_has_just_come_and_is_cheaper_gets_work_at_once(pool: Pool) -> None:
    """Nothing is known of its speed; it is taken for a usual one, not for a slow one."""
    known = add(pool, 1, concurrency=4)
    known.charge(Rates(2 * TOKEN, 6 * TOKEN))
    for _ in range(5):
        slot = placement.choose(pool)
        assert slot is not None
        slot.release(took_s=0.05)
    add(pool, 2, concurrency=4).charge(Rates(TOKEN, TOKEN))
    slot = placement.choose(pool)
    assert slot is not None
    assert slot.node.id == 2
