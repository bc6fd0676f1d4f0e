"""Reserved nodes in the pools of a process."""

import asyncio
import time
from uuid import uuid4

import pytest

from gpus import placement
from gpus.directory import LiveNode
from gpus.liveness import Liveness, NodeFacts
from gpus.placement import LiveOffer, NoCapacity, Pool
from gpus.pools import AllocationNotFound, Pools, Reserved

ONLINE = Liveness("online", "", takes_work=True)
ALICE, CHARLIE = 1, 3
MINE = str(uuid4())


@pytest.fixture
def pools() -> Pools:
    return Pools()


def add(pools: Pools, number: int, *models: str, concurrency: int = 1) -> LiveNode:
    node = LiveNode(id=number, owner_id=9, facts=NodeFacts("approved"), name=f"n{number}", liveness=ONLINE)
    for model in models or ("llama",):
        node.offers[model] = LiveOffer(node, model, frozenset({"chat"}), concurrency)
        pools.put(node.offers[model])
    refresh(node)
    return node


def refresh(node: LiveNode) -> None:
    for offer in node.offers.values():
        assert offer.pool is not None
        offer.pool.refresh(offer)


def reserve(pools: Pools, node: LiveNode, allocation: str | None = MINE, *, for_s: float = 60) -> None:
    pools.assign(node, allocation and Reserved(allocation, ALICE, time.time() + for_s))
    refresh(node)


def pool(pools: Pools, allocation: str = "", client: int = ALICE, model: str = "llama") -> Pool:
    return pools.of(allocation, client)[model]


def test_a_reserved_node_serves_its_allocation_only(pools: Pools) -> None:
    mine, everybodys = add(pools, 1), add(pools, 2)
    reserve(pools, mine)
    own, general = placement.choose(pool(pools, MINE)), placement.choose(pool(pools))

    assert own is not None
    assert general is not None
    assert (own.node, general.node) == (mine, everybodys)
    assert placement.choose(pool(pools)) is None
    assert placement.choose(pool(pools, MINE)) is None


def test_an_allocation_may_be_written_in_capitals(pools: Pools) -> None:
    reserve(pools, add(pools, 1))
    assert pools.of(MINE.upper(), ALICE)


@pytest.mark.parametrize("allocation", ["0f0e0d0c-0000-4000-8000-000000000000", "nonsense", "\0"])
def test_an_unknown_allocation_is_not_found(pools: Pools, allocation: str) -> None:
    with pytest.raises(AllocationNotFound):
        pools.of(allocation, ALICE)


def test_a_strangers_allocation_is_not_found(pools: Pools) -> None:
    reserve(pools, add(pools, 1))
    with pytest.raises(AllocationNotFound):
        pools.of(MINE, CHARLIE)


def test_an_allocation_whose_time_is_over_is_not_found_and_its_node_not_yet_free(pools: Pools) -> None:
    node = add(pools, 1)
    reserve(pools, node, for_s=-1)
    with pytest.raises(AllocationNotFound):
        pools.of(MINE, ALICE)
    assert placement.choose(pool(pools)) is None
    reserve(pools, node, for_s=10)  # it was extended
    assert pools.of(MINE, ALICE)


def test_what_runs_goes_on_when_the_node_is_reserved_and_set_free(pools: Pools) -> None:
    node = add(pools, 1, concurrency=2)
    offer = node.offers["llama"]
    before = placement.choose(pool(pools))
    reserve(pools, node)
    within = placement.choose(pool(pools, MINE))
    assert before is not None
    assert within is not None
    assert placement.choose(pool(pools, MINE)) is None  # both slots are taken

    before.release(took_s=1)
    assert placement.choose(pool(pools, MINE)) is not None
    reserve(pools, node, None)
    assert offer.outstanding == 2
    within.release()
    assert placement.choose(pool(pools)) is not None
    assert all(each.ready == [] for each in pools.all())


def test_the_general_pool_says_that_nodes_are_reserved(pools: Pools) -> None:
    reserve(pools, add(pools, 1))
    wait_s, error = placement.explain(pool(pools), policy=placement.ANY, failed=placement.NONE)
    assert wait_s == 0
    assert isinstance(error, NoCapacity)
    assert error.message == "1 node holds llama: 1 is reserved for an allocation."
    assert pool(pools).does("chat")


def test_nothing_is_left_behind(pools: Pools) -> None:
    node = add(pools, 1, "llama", "other")
    reserve(pools, node)
    pools.withdraw(node.offers.pop("other"))
    assert pools.general.keys() == {"llama"}
    pools.withdraw(node.offers.pop("llama"))
    pools.assign(node, None)
    assert list(pools.all()) == []


def test_a_node_can_pass_from_one_allocation_to_another(pools: Pools) -> None:
    node, other = add(pools, 1), str(uuid4())
    reserve(pools, node)
    reserve(pools, node, other)
    slot = placement.choose(pool(pools, other))
    assert slot is not None
    with pytest.raises(AllocationNotFound):
        pools.of(MINE, ALICE)


async def test_who_waits_in_an_allocation_that_ends_is_told(pools: Pools) -> None:
    node = add(pools, 1)
    reserve(pools, node)
    slot = placement.choose(pool(pools, MINE))
    waiting = asyncio.create_task(placement.take(pool(pools, MINE), consumer=ALICE, for_s=5))
    await asyncio.sleep(0)
    reserve(pools, node, None)
    with pytest.raises(AllocationNotFound):
        await waiting
    assert slot is not None
    slot.release()
    assert node.offers["llama"].outstanding == 0
