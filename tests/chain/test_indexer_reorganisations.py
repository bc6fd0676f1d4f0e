"""Blocks that were read and then are gone: at every depth, across everything that events can say."""

import itertools

import pytest

from chain import indexer, reorganisations
from chain.ethereum import Fault
from chain.models import Block, Log, Network, Reorganisation, Response, Source, Task
from tests.chain import fake
from tests.chain.fake import FakeChain, address
from tests.chain.indexed import follow, is_consistent, network_of, nodes, read_afresh, rows

pytestmark = pytest.mark.django_db

SOURCE, TASK, RESPONSE = address(1), address(2), address(3)
ALICE, BOB, CHARLIE = address(11), address(12), address(13)


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain()


@pytest.fixture
def network(chain: FakeChain) -> Network:
    return network_of(chain)


@pytest.fixture(autouse=True)
def _node(chain: FakeChain):
    indexer._paces.clear()
    with nodes(chain):
        yield


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks from which on deposits were told that all is gone."""
    found: list[int] = []
    monkeypatch.setattr("chain.deposits.forget_from", lambda network, block: found.append(block))
    return found


def story(chain: FakeChain) -> None:
    """Ten blocks in which everything happens that changes a row."""
    chain.mine(fake.source_published(SOURCE, ALICE))
    chain.mine(fake.source_updated(SOURCE, ALICE, url="https://files.example/2"))
    chain.mine(fake.task_published(TASK, SOURCE))
    chain.mine(fake.attempted(TASK, BOB), fake.task_status(TASK, 1))
    chain.mine(fake.attempted(TASK, CHARLIE), fake.source_status(SOURCE, 1))
    chain.mine(fake.response_submitted(RESPONSE, TASK, BOB), fake.task_status(TASK, 2))
    chain.mine(fake.source_updated(SOURCE, ALICE, url="https://files.example/3"))
    chain.mine(fake.response_status(RESPONSE, 1), fake.task_status(TASK, 5))
    chain.mine(fake.deposited(BOB, 5), fake.source_status(SOURCE, 0))
    chain.mine()


@pytest.mark.parametrize("windows", [1, 3, 500])
@pytest.mark.parametrize("depth", range(1, 11))
def test_after_a_reorganisation_it_is_as_if_only_the_new_chain_had_been(
    chain: FakeChain, network: Network, settings, depth: int, windows: int
) -> None:
    settings.CHAIN_WINDOW_BLOCKS = windows
    story(chain)
    follow(network)
    gone = chain.fork(depth)
    chain.mine(fake.deposited(CHARLIE, 1))
    # All that happened happens again, later, and all but the last in other blocks.
    chain.mine_empty(1)
    for block in gone[: len(gone) // 2]:
        chain.mine(*block.events)
    chain.mine_empty(depth)
    follow(network)
    assert rows(network) == read_afresh(chain)
    assert rows(network)["cursor"] == (chain.head.number, chain.head.hash)
    assert is_consistent(network, chain)


def test_it_is_noted_how_deep_it_went(chain: FakeChain, network: Network, forgotten: list[int]) -> None:
    story(chain)
    follow(network)
    chain.fork(3)
    chain.mine_empty(4)
    follow(network)
    noted = Reorganisation.objects.get()
    assert (noted.common_block, noted.depth, noted.logs) == (7, 3, 4)
    assert forgotten == [7]
    follow(network)
    assert Reorganisation.objects.count() == 1


def test_a_status_goes_back_to_what_it_was(chain: FakeChain, network: Network) -> None:
    story(chain)
    follow(network)
    chain.fork(3)
    chain.mine_empty(4)
    follow(network)
    task, response = Task.objects.get(), Response.objects.get()
    assert (task.status, task.status_at) == (2, Log.objects.filter(name="TaskStatusChanged").last().at)
    assert (response.status, response.confirmed_at, response.confirmed_block) == (0, None, None)
    assert response.confirmed_transaction == ""
    assert Source.objects.get().status == 1
    chain.fork(9)
    chain.mine_empty(10)
    follow(network)
    assert (Source.objects.get().status, Source.objects.get().metadata_url) == (0, "https://files.example/2")
    assert Source.objects.get().updated_at is not None
    assert not Task.objects.exists()


def test_a_sources_first_words_come_back(chain: FakeChain, network: Network) -> None:
    story(chain)
    follow(network)
    chain.fork(9)
    chain.mine_empty(10)
    follow(network)
    source = Source.objects.get()
    assert (source.metadata_url, source.updated_at) == ("https://files.example/source", None)


def test_a_chain_that_became_shorter_is_believed(chain: FakeChain, network: Network) -> None:
    story(chain)
    follow(network)
    chain.fork(4)
    follow(network)
    assert network.cursor_block == 6
    assert rows(network) == read_afresh(chain)
    assert Reorganisation.objects.get().depth == 4


@pytest.mark.parametrize(("confirmations", "is_believed"), [(1, True), (2, True), (3, False), (12, False)])
def test_a_node_that_has_not_heard_of_the_newest_blocks_is_not_believed(
    chain: FakeChain, confirmations: int, is_believed: bool
) -> None:
    network = network_of(chain, confirmations=confirmations)
    story(chain)
    follow(network)
    newest = chain.fork(2)
    follow(network)
    assert (network.cursor_block, network.head_block) == ((8, 8) if is_believed else (10, 10))
    chain.blocks += newest
    follow(network)
    assert Reorganisation.objects.count() == is_believed
    assert rows(network) == read_afresh(chain)
    # It was another chain after all.
    chain.fork(2)
    chain.mine_empty(2)
    follow(network)
    assert rows(network) == read_afresh(chain)


def test_far_back_only_some_blocks_are_kept_and_that_is_enough(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    story(chain)
    chain.mine_empty(400)
    follow(network)
    assert Block.objects.count() < 100
    chain.fork(300)
    chain.mine_empty(301)
    follow(network)
    assert rows(network) == read_afresh(chain)
    assert Reorganisation.objects.get().common_block <= 110


def test_deeper_than_what_is_kept_everything_is_read_again(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch, forgotten: list[int]
) -> None:
    monkeypatch.setattr(indexer, "KEPT_BLOCKS", 20)
    story(chain)
    chain.mine_empty(50)
    follow(network)
    assert Block.objects.filter(number__gt=0).count() == 21
    chain.fork(30)
    chain.mine_empty(31)
    follow(network)
    assert rows(network) == read_afresh(chain)
    assert forgotten == [0]


def test_a_network_that_begins_later_goes_back_to_its_beginning(
    chain: FakeChain, forgotten: list[int]
) -> None:
    chain.mine_empty(5)
    network = network_of(chain, start_block=6)
    story(chain)
    follow(network)
    chain.fork(12)
    chain.mine_empty(2)
    story(chain)
    follow(network)
    assert forgotten == [5]
    assert (Source.objects.get().block_number, network.cursor_block) == (6, 15)


def test_a_network_whose_chain_has_not_reached_its_beginning_waits(chain: FakeChain) -> None:
    network = network_of(chain, start_block=5)
    chain.mine_empty(2)
    assert follow(network) == 0
    assert Network.objects.get().failures == 0
    chain.mine_empty(10)
    assert follow(network) == 8


def test_other_networks_are_left_alone(chain: FakeChain, network: Network) -> None:
    other = FakeChain(99)
    story(other)
    story(chain)
    beside = network_of(other, name="beside")
    with nodes(chain, other):
        follow(beside)
        before = rows(beside)
        follow(network)
        chain.fork(8)
        chain.mine_empty(9)
        follow(network)
    assert rows(beside) == before


QUESTIONS = list(range(1, 28))


@pytest.mark.parametrize("near", [1, 64])
@pytest.mark.parametrize("read_before", [0, 7])
@pytest.mark.parametrize("moment", QUESTIONS)
def test_the_chain_may_change_between_any_two_questions(
    chain: FakeChain,
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
    read_before: int,
    near: int,
) -> None:
    monkeypatch.setattr("chain.readings.NEAR_BLOCKS", near)
    story(chain)
    rest = chain.blocks[read_before + 1 :] if read_before else []
    chain.fork(len(rest))
    follow(network)
    chain.blocks += rest
    count = itertools.count(1)

    def change(method: str) -> None:
        if next(count) == moment:
            chain.interrupt = None
            gone = chain.fork(6)
            chain.mine(fake.task_published(address(77), SOURCE))
            for block in gone[:2]:
                chain.mine(*block.events)
            chain.mine_empty(6)

    chain.interrupt = change
    for time in range(1, 6):
        if time == 5:
            chain.interrupt = None
        follow(network, after_s=60 * time)
        assert is_consistent(network, chain)
    assert rows(network) == read_afresh(chain)


@pytest.mark.parametrize("moment", ["cursor", "logs", "projection", "deposits", "blocks"])
def test_a_rollback_happens_whole_or_not_at_all(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    story(chain)
    follow(network)
    before = rows(network)
    chain.fork(5)
    chain.mine_empty(6)

    def die(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    place = {
        "cursor": "chain.projections.touched",
        "logs": "chain.models.Response.objects.filter",
        "projection": "chain.projections.restore",
        "deposits": "chain.deposits.forget_from",
        "blocks": "chain.models.Reorganisation.objects.create",
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(place, die)
        with pytest.raises(KeyboardInterrupt):
            follow(network)
    assert rows(network) == before
    follow(Network.objects.get(), after_s=60)
    assert rows(network) == read_afresh(chain)


def test_whoever_lost_the_lease_rolls_nothing_back(chain: FakeChain, network: Network) -> None:
    story(chain)
    follow(network)
    stale = Network.objects.get()
    chain.fork(2)
    chain.mine_empty(3)

    def overtake(method: str) -> None:
        chain.interrupt = None
        follow(Network.objects.get(), after_s=60)

    chain.interrupt = overtake
    follow(stale, after_s=1)
    assert Reorganisation.objects.count() == 1
    assert rows(network) == read_afresh(chain)


@pytest.mark.parametrize("number", range(11))
def test_a_node_that_will_not_tell_of_a_block_does_not_say_that_it_is_gone(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    story(chain)
    follow(network)
    chain.fork(3)
    chain.mine_empty(5)
    tell = chain._block
    refusal = Fault("rate limit exceeded", is_revert=False)
    with monkeypatch.context() as patch:
        patch.setattr(chain, "_block", lambda which: refusal if which == hex(number) else tell(which))
        follow(network, after_s=60)
        assert is_consistent(network, chain)
        assert all(noted.common_block == 7 for noted in Reorganisation.objects.all())
    follow(network, after_s=120)
    assert rows(network) == read_afresh(chain)
    assert Reorganisation.objects.get().common_block == 7


def test_comparing_asks_little(chain: FakeChain, network: Network) -> None:
    chain.mine_empty(63)
    follow(network)
    chain.fork(40)
    chain.asked.clear()
    assert reorganisations.common(chain, network, head=23).number == 23
    assert len(chain.asked) == 1


def test_nothing_is_written_of_a_window_in_which_the_chain_changed(
    chain: FakeChain, network: Network
) -> None:
    story(chain)

    def change(method: str) -> None:
        if method == "eth_call":
            chain.interrupt = None
            chain.fork(9)
            story(chain)

    chain.interrupt = change
    assert follow(network) == 0
    assert not Log.objects.exists()
    assert "do not fit together" in Network.objects.get().failure


def test_events_of_another_chain_are_not_written_though_it_was_there_for_a_moment_only(
    chain: FakeChain, network: Network
) -> None:
    story(chain)
    good, asked = chain.blocks, iter(range(100))

    def flicker(method: str) -> None:
        chain.blocks = good
        if method == "eth_getLogs" and next(asked) == 0:
            chain.blocks = good[:8]
            story(chain)

    chain.interrupt = flicker
    assert follow(network) == 0
    assert not Log.objects.exists()
    assert follow(network, after_s=60) == 11
    assert is_consistent(network, chain)
