"""Random chains with reorganisations, outages, odd windows and deaths: in the end the rows are what the chain says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import indexer, readings
from chain.ethereum import NodeAway
from chain.leases import Lease
from chain.models import Network
from tests.chain import fake
from tests.chain.fake import Event, FakeChain, address
from tests.chain.indexed import follow, is_consistent, network_of, nodes, read_afresh, rows

pytestmark = pytest.mark.django_db

MOST_FOLLOWS = 60


class World:
    """Draws what might happen on a chain, as its contracts would have it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.chain = FakeChain()
        self._count = 1000

    def grow(self, blocks: int) -> None:
        for _ in range(blocks):
            self.chain.mine(*[self._event() for _ in range(self.random.choice([0, 0, 1, 2, 4]))])

    def fork(self, depth: int) -> None:
        """What happened in lost blocks mostly happens again, though in other blocks, and not in the same order."""
        gone = [event for block in self.chain.fork(depth) for event in block.events]
        again = [event for event in gone if self.random.random() < 0.6]
        self.chain.mine_empty(self.random.randrange(2))
        for event in self._possible(again):
            self.chain.mine(event)
        self.grow(self.random.randrange(4))

    def _possible(self, events: list[Event]) -> Iterator[Event]:
        """Those about contracts that there are."""
        there = {one for block in self.chain.blocks for event in block.events for one, _ in event.answers}
        for event in events:
            of, about = {one for one, _ in event.answers}, event.arguments[:1]
            if event.name in ("SourcePublished", "Deposited") or event.name == "TaskPublished":
                is_possible = event.name != "TaskPublished" or event.arguments[1] in there
            elif event.name == "ResponseSubmitted":
                is_possible = event.arguments[1] in there
            else:
                is_possible = about[0] in there
            if is_possible:
                there |= of
                yield event

    def _event(self) -> Event:
        names = {
            name: self._named(name) for name in ("SourcePublished", "TaskPublished", "ResponseSubmitted")
        }
        sources, tasks, responses = names.values()
        draw, pick = self.random, self.random.choice
        made: list[Event] = [fake.deposited(self._new(), draw.randrange(1, 10**20), transaction=self._new())]
        made.append(fake.source_published(self._new(), address(7), min_payment=draw.randrange(10**18)))
        if sources:
            made.append(
                fake.source_updated(pick(sources), address(7), url=f"https://files.example/{self._new()}")
            )
            made.append(fake.source_status(pick(sources), draw.randrange(2)))
            made += [fake.task_published(self._new(), pick(sources))] * 2
        if tasks:
            made.append(fake.attempted(pick(tasks), address(draw.randrange(1, 4))))
            made.append(fake.task_status(pick(tasks), draw.randrange(6)))
            made.append(fake.response_submitted(self._new(), pick(tasks), address(8)))
        if responses:
            made += [fake.response_status(pick(responses), draw.randrange(2))] * 2
        return pick(made)

    def _named(self, event: str) -> list[str]:
        return [one.arguments[0] for block in self.chain.blocks for one in block.events if one.name == event]

    def _new(self) -> str:
        self._count += 1
        return address(self._count)


class Killed(BaseException):
    """kill -9: nothing is tidied up."""


@contextmanager
def killed_when(moment: str) -> Iterator[None]:
    """The process dies before it writes a window, in the middle of that, or before it is taken back what it read."""
    places = {
        "before writing": (indexer, "_write"),
        "while writing": (indexer.projections, "apply"),
        "after the logs": (indexer.deposits, "seen"),
        "before rolling back": (indexer.reorganisations, "roll_back"),
        "while rolling back": (indexer.projections, "restore"),
    }
    module, name = places[moment]
    with mock.patch.object(module, name, side_effect=Killed), mock.patch.object(Lease, "give_back"):
        try:
            yield
        except Killed:
            return


MOMENTS = ["before writing", "while writing", "after the logs", "before rolling back", "while rolling back"]
STEPS = st.one_of(
    st.tuples(st.just("grow"), st.integers(1, 8)),
    st.tuples(st.just("fork"), st.integers(1, 12)),
    st.tuples(st.just("shrink"), st.integers(1, 4)),
    st.tuples(st.just("follow"), st.sampled_from([0, 60])),
    st.tuples(st.just("kill"), st.sampled_from(MOMENTS)),
    st.tuples(st.just("fork while reading"), st.integers(1, 16)),
    st.tuples(st.just("away while reading"), st.integers(1, 16)),
)


class Reader:
    """Follows the world's chain, a minute later each time, so that back-off and dead leases are over."""

    def __init__(self, world: World, network: Network) -> None:
        self.world, self.network, self.minutes = world, network, 0

    def step(self, what: str, value: int | str) -> None:
        world = self.world
        if what == "grow":
            world.grow(int(value))
        elif what == "fork":
            world.fork(int(value))
        elif what == "shrink":
            world.chain.fork(int(value))
        elif what == "follow":
            self.follow(float(value))
        elif what == "kill":
            with killed_when(str(value)):
                self.follow()
        else:
            self._at_question(int(value), what)

    def follow(self, for_s: float = 60) -> None:
        self.minutes += 1
        fresh = Network.objects.get(pk=self.network.pk)
        follow(fresh, after_s=60 * self.minutes, for_s=for_s)
        assert is_consistent(fresh, self.world.chain)

    def _at_question(self, number: int, what: str) -> None:
        left = [number]

        def interrupt(method: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                if what == "away while reading":
                    raise NodeAway
                self.world.fork(self.world.random.randrange(1, 8))

        self.world.chain.interrupt = interrupt
        self.follow()
        self.world.chain.interrupt = None


@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(STEPS, min_size=3, max_size=14),
    window=st.sampled_from([1, 2, 3, 7, 500]),
    kept=st.sampled_from([3, 1000]),
    near=st.sampled_from([1, 4, 64]),
    start_block=st.sampled_from([0, 0, 3]),
    confirmations=st.sampled_from([1, 3, 12]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_in_the_end_the_rows_say_what_the_chain_says(
    seed: int, steps: list, window: int, kept: int, near: int, start_block: int, confirmations: int
) -> None:
    world = World(seed)
    indexer._paces.clear()
    with (
        transaction.atomic(),
        nodes(world.chain),
        mock.patch.object(indexer.settings, "CHAIN_WINDOW_BLOCKS", window),
        mock.patch.object(indexer, "KEPT_BLOCKS", kept),
        mock.patch.object(readings, "NEAR_BLOCKS", near),
    ):
        world.grow(5)
        network = network_of(world.chain, start_block=start_block, confirmations=confirmations)
        reader = Reader(world, network)
        for what, value in steps:
            reader.step(what, value)
        # A chain that only became shorter is not believed at once, and one that has not begun yet is waited for.
        world.grow(16)
        for _ in range(3):
            reader.follow()
        assert rows(reader.network) == read_afresh(world.chain, start_block=start_block)
        transaction.set_rollback(True)
