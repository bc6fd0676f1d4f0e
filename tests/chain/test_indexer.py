"""Reading a chain from a cursor: what is written, how far, by whom, and what happens when its node is away."""

from datetime import timedelta

import pytest

from chain import indexer, leases, readings
from chain.models import Attempt, Block, Log, Network, Response, Source, Task
from tests.chain import fake
from tests.chain.fake import FakeChain, address
from tests.chain.indexed import NOW, follow, network_of, nodes, rows

pytestmark = pytest.mark.django_db

SOURCE, TASK, RESPONSE = address(1), address(2), address(3)
ALICE, BOB = address(11), address(12)


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


def story(chain: FakeChain) -> None:
    """Alice's source; her task, which Bob answers; the answer is confirmed: a block each."""
    chain.mine(fake.source_published(SOURCE, ALICE))
    chain.mine(fake.task_published(TASK, SOURCE))
    chain.mine(fake.attempted(TASK, BOB, 7), fake.task_status(TASK, 1))
    chain.mine(fake.response_submitted(RESPONSE, TASK, BOB), fake.task_status(TASK, 2))
    chain.mine(fake.response_status(RESPONSE, 1), fake.task_status(TASK, 5))


# what is written


def test_events_become_sources_tasks_attempts_and_responses(chain: FakeChain, network: Network) -> None:
    story(chain)
    assert follow(network) == 6
    source, task = Source.objects.get(), Task.objects.get()
    assert (source.address, source.client, source.metadata_url) == (
        SOURCE,
        ALICE,
        "https://files.example/source",
    )
    assert (source.min_payment, source.delivery_method, source.status) == (10**15, 1, 0)
    assert (task.source, task.payment, task.config_url) == (source, 10**16, "https://files.example/task")
    assert (task.status, task.block_number, task.expiry_time) == (5, 2, 2_000_000_000)
    assert task.status_at - task.published_at == timedelta(seconds=30)
    attempt, response = Attempt.objects.get(), Response.objects.get()
    assert (attempt.task, attempt.provider, attempt.suggested_payment) == (task, BOB, 7)
    assert (response.task, response.provider, response.data) == (task, BOB, "https://files.example/answer")
    assert (response.status, response.confirmed_block) == (1, 5)
    assert response.confirmed_transaction == Log.objects.get(name="ResponseStatusChanged").transaction_hash
    assert (network.cursor_block, network.cursor_hash) == (5, chain.head.hash)


def test_numbers_in_events_are_kept_as_decimal_strings(chain: FakeChain, network: Network) -> None:
    chain.mine(fake.deposited(BOB, 2**256 - 1, account=2**200))
    follow(network)
    arguments = Log.objects.get().arguments
    assert arguments == {"account": str(2**200), "sender": BOB, "amount": str(2**256 - 1)}
    assert list(arguments) == ["account", "amount", "sender"] or set(arguments) == {
        "account",
        "sender",
        "amount",
    }


def test_a_source_says_what_its_last_change_says(chain: FakeChain, network: Network) -> None:
    chain.mine(fake.source_published(SOURCE, ALICE))
    follow(network)
    Source.objects.update(fetch_tries=9, fetch_at=NOW + timedelta(days=9000))
    chain.mine(fake.source_updated(SOURCE, ALICE, url="https://files.example/2", min_payment=5))
    chain.mine(fake.source_status(SOURCE, 1))
    follow(network)
    source = Source.objects.get()
    assert (source.metadata_url, source.min_payment, source.status) == ("https://files.example/2", 5, 1)
    assert source.fetch_tries == 0, "what stands behind the new link is to be fetched"
    assert source.fetch_at < NOW + timedelta(days=9000)
    assert source.updated_at is not None


def test_a_strangers_events_are_not_listened_to(chain: FakeChain, network: Network) -> None:
    forged = fake.Event("Treasury", "Deposited", (1, BOB, 10**24), emitter=address(66))
    chain.mine(forged)
    # Even where the node does not filter.
    chain._logs = lambda wanted: [log for block in chain.blocks for log in chain._events(block)]
    follow(network)
    assert network.cursor_block == 1
    assert not Log.objects.exists()


def test_the_vaults_deposits_are_not_taken_for_the_treasurys(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("chain.deposits.seen", lambda network, logs: seen.extend(logs))
    chain.mine(fake.Event("Vault", "Deposited", (BOB, 5)), fake.deposited(ALICE, 6), fake.deposited(BOB, 7))
    follow(network)
    assert [log.arguments["amount"] for log in seen] == ["6", "7"]
    assert all(log.pk for log in seen)
    assert Log.objects.count() == 3


@pytest.mark.parametrize("data", ["nul\x00nul", "🙂" * 10, "x" * 200_000, "\\u0000", ""])
def test_whatever_a_stranger_writes_is_read(chain: FakeChain, network: Network, data: str) -> None:
    chain.mine(fake.source_published(SOURCE, ALICE, url=data))
    chain.mine(fake.task_published(TASK, SOURCE, config=data))
    chain.mine(fake.response_submitted(RESPONSE, TASK, BOB, data=data))
    follow(network)
    found = Response.objects.get().data
    assert found == data.replace("\x00", "\ufffd")[:65_536]
    assert Task.objects.get().config_url == Source.objects.get().metadata_url == found


def test_text_that_is_no_text_is_read_as_far_as_it_can_be(chain: FakeChain, network: Network) -> None:
    event = fake.source_published(SOURCE, ALICE, url="AAAA")
    event.answers[SOURCE, "getSourceParams"] = event.answers[SOURCE, "getSourceParams"].replace(
        b"AAAA", b"\xed\xa0\x80\xff"
    )
    chain.mine(event)
    follow(network)
    assert Source.objects.get().metadata_url.strip("\ufffd") == ""


def test_numbers_beyond_all_measure_are_read(chain: FakeChain, network: Network) -> None:
    most = 2**256 - 1
    chain.mine(
        fake.source_published(SOURCE, ALICE, min_payment=most, duration=most, environments=255, delivery=255)
    )
    chain.mine(fake.task_published(TASK, SOURCE, expiry=most, payment=most), fake.attempted(TASK, BOB, most))
    chain.mine(fake.task_status(TASK, 255))
    follow(network)
    task = Task.objects.get()
    assert (task.payment, task.expiry_time, task.status) == (most, most, 255)


def test_a_contract_that_says_nothing_sensible_stops_nothing(chain: FakeChain, network: Network) -> None:
    broken = fake.Event("Nexus", "TaskPublished", (address(5), SOURCE))
    chain.mine(fake.source_published(SOURCE, ALICE), broken, fake.attempted(address(5), BOB))
    chain.mine(fake.task_published(TASK, SOURCE))
    follow(network)
    assert network.cursor_block == 2
    assert [task.address for task in Task.objects.all()] == [TASK]
    assert Log.objects.count() == 4


def test_a_source_from_before_the_first_block_is_known_from_its_first_task_on(chain: FakeChain) -> None:
    chain.mine(fake.source_published(SOURCE, ALICE))
    chain.mine(fake.source_status(SOURCE, 1))
    chain.mine(fake.source_status(SOURCE, 0))
    chain.mine_empty(3)
    network = network_of(chain, start_block=4)
    chain.mine(fake.task_published(TASK, SOURCE))
    chain.mine(fake.source_status(SOURCE, 1))
    follow(network)
    assert (Task.objects.get().source.client, Source.objects.get().status) == (ALICE, 1)
    chain.fork(1)
    chain.mine()
    follow(network)
    assert Source.objects.get().status == 0, "as it was when the task was published"


def test_a_node_that_forgets_the_past_is_asked_for_the_present(chain: FakeChain, network: Network) -> None:
    chain.keeps_states = False
    story(chain)
    follow(network)
    assert Response.objects.get().task.source.client == ALICE


# windows


@pytest.mark.parametrize("blocks", [1, 2, 3, 500])
def test_the_size_of_windows_changes_nothing(chain: FakeChain, settings, blocks: int) -> None:
    story(chain)
    chain.mine_empty(150)
    story_of_another_size = rows_with(chain, settings, 1000)
    assert rows_with(chain, settings, blocks) == story_of_another_size


def rows_with(chain: FakeChain, settings, blocks: int) -> dict:
    settings.CHAIN_WINDOW_BLOCKS = blocks
    Network.objects.all().delete()
    network = network_of(chain)
    follow(network)
    found = rows(network)
    assert found["cursor"][0] == chain.head.number
    return found


def test_a_window_that_a_node_refuses_is_halved_and_grows_again(chain: FakeChain, network: Network) -> None:
    chain.most_blocks = 7
    chain.mine_empty(1200)
    follow(network)
    assert network.cursor_block == 1200
    assert Network.objects.get().failures == 0
    refused = len([questions for questions in chain.asked if "eth_getLogs" in questions]) - 1200 / 7
    assert refused < 1200 / 7
    chain.most_blocks = 10**9
    chain.mine_empty(3000)
    follow(network)
    chain.asked.clear()
    chain.mine_empty(1000)
    follow(network)
    assert len(chain.asked) == 3, "two windows of 500 blocks"


def test_a_node_that_refuses_even_one_block_is_away(chain: FakeChain, network: Network) -> None:
    chain.most_blocks = 0
    chain.mine_empty(3)
    follow(network)
    assert Network.objects.get().failure == "The chain's node does not answer for so many blocks at once."


def test_no_more_time_than_allowed_is_spent(chain: FakeChain, network: Network, settings) -> None:
    settings.CHAIN_WINDOW_BLOCKS = 10
    chain.mine_empty(100)
    assert follow(network, for_s=0) == 10
    assert follow(network, for_s=0) == 10
    assert network.cursor_block == 19


def test_nothing_new_costs_one_round_trip(chain: FakeChain, network: Network) -> None:
    story(chain)
    follow(network)
    chain.asked.clear()
    follow(network)
    assert len(chain.asked) == 1


def test_a_window_costs_a_few_round_trips_whatever_is_in_it(chain: FakeChain, network: Network) -> None:
    chain.mine(fake.source_published(SOURCE, ALICE))
    for number in range(100):
        chain.mine(fake.task_published(address(1000 + number), SOURCE))
    follow(network)
    assert Task.objects.count() == 100
    assert len(chain.asked) <= 5


# twice, and by two


def test_events_that_are_there_already_are_left_as_they_are(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    story(chain)
    chain.mine(fake.deposited(BOB, 5))
    follow(network)
    before = rows(network)
    seen = []
    monkeypatch.setattr("chain.deposits.seen", lambda network, logs: seen.extend(logs))
    Network.objects.update(cursor_block=-1, cursor_hash="")
    follow(network)
    assert rows(network) == before
    assert seen == []


def test_one_process_at_a_time_reads_a_network(chain: FakeChain, network: Network) -> None:
    story(chain)
    held = leases.take(network, now=NOW)
    assert held is not None
    assert leases.take(Network.objects.get(), now=NOW) is None
    assert follow(network, after_s=20) == 0
    held.give_back()
    assert follow(network, after_s=20) == 6


def test_the_lease_of_a_process_that_was_killed_runs_out(chain: FakeChain, network: Network) -> None:
    story(chain)
    assert leases.take(network, now=NOW) is not None
    assert follow(network, after_s=31) == 6


def test_whoever_lost_the_lease_writes_nothing(chain: FakeChain, network: Network) -> None:
    story(chain)
    other = Network.objects.get()

    def overtake(method: str) -> None:
        chain.interrupt = None
        assert follow(other, after_s=60) == 6

    def at_logs(method: str) -> None:
        if method == "eth_getLogs":
            overtake(method)

    chain.interrupt = at_logs
    assert follow(network) == 0
    assert Network.objects.get().cursor_block == 5
    assert Log.objects.count() == 8
    assert Network.objects.get().lease is None


def test_a_paused_network_is_left_alone(chain: FakeChain, network: Network) -> None:
    story(chain)
    Network.objects.update(is_paused=True)
    assert follow(network) == 0
    assert chain.asked == []


def test_pausing_stops_a_reader_before_it_writes(chain: FakeChain, network: Network) -> None:
    story(chain)
    chain.interrupt = lambda method: Network.objects.update(is_paused=True)
    assert follow(network) == 0
    assert not Log.objects.exists()


def test_whoever_waits_for_progress_is_told_after_each_step(
    chain: FakeChain, network: Network, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CHAIN_WINDOW_BLOCKS = 2
    told = []
    monkeypatch.setattr(indexer, "_callbacks", [])
    indexer.on_progress(lambda network, now: told.append((network.cursor_block, network.head_block)))
    story(chain)
    follow(network)
    assert told == [(1, 5), (3, 5), (5, 5)]
    follow(network)
    assert len(told) == 3


# a node that is away


def test_an_outage_is_shown_and_asked_about_less_and_less_often(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    story(chain)
    follow(network)
    monkeypatch.setattr(indexer.random, "uniform", lambda least, most: most)
    chain.is_away = True
    moment, pauses = NOW, []
    for _ in range(8):
        assert indexer.follow(network, now=moment) == 0
        found = Network.objects.get()
        pauses.append(round((found.next_poll_at - moment).total_seconds()))
        asked = len(chain.asked)
        assert indexer.follow(network, now=found.next_poll_at - timedelta(seconds=0.1)) == 0
        assert len(chain.asked) == asked, "not before its time"
        moment = found.next_poll_at
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert (found.failures, found.failure) == (8, "The chain's node does not answer at the moment.")
    assert found.failing_since - NOW < timedelta(seconds=1)


def test_it_is_as_if_nothing_had_been_when_the_node_is_back(chain: FakeChain, network: Network) -> None:
    chain.is_away = True
    follow(network)
    chain.is_away = False
    story(chain)
    assert follow(network, after_s=2) == 6
    found = Network.objects.get()
    assert (found.failures, found.failure, found.failing_since) == (0, "", None)
    assert (found.head_block, found.lag, found.lease) == (5, 0, None)


def test_a_node_that_tells_of_blocks_but_not_of_events_is_away_as_well(
    chain: FakeChain, network: Network
) -> None:
    story(chain)
    follow(network)
    chain.most_blocks = 0
    chain.mine()
    for time in range(1, 4):
        follow(network, after_s=60 * time)
    found = Network.objects.get()
    assert (found.failures, found.lag) == (3, 1)
    assert found.failing_since - NOW < timedelta(seconds=61)
    chain.most_blocks = 500
    follow(network, after_s=300)
    assert (Network.objects.get().failures, Network.objects.get().lag) == (0, 0)


@pytest.mark.parametrize("untold", [{1}, {3}, {5}, {2, 4}])
def test_blocks_whose_events_a_node_does_not_know_yet_are_not_passed_over(
    chain: FakeChain, network: Network, untold: set[int]
) -> None:
    story(chain)
    chain.untold = untold
    follow(network)
    assert (Network.objects.get().cursor_block, Log.objects.count()) == (-1, 0)
    assert Network.objects.get().failure == readings.Untold.message
    chain.untold = set()
    follow(network, after_s=60)
    assert (Network.objects.get().lag, Task.objects.get().status, Response.objects.get().status) == (0, 5, 1)


def test_a_filter_that_names_more_than_there_is_delays_nothing(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "_bloom", lambda block: "0x" + "ff" * 256)
    story(chain)
    follow(network)
    assert (Network.objects.get().lag, Response.objects.get().status) == (0, 1)
    assert len(chain.asked) <= 4


@pytest.mark.parametrize("bloom", [None, "0x", "0x" + "00" * 256])
def test_chains_without_filters_are_read_as_well(
    chain: FakeChain, network: Network, monkeypatch: pytest.MonkeyPatch, bloom: str | None
) -> None:
    monkeypatch.setattr(chain, "_bloom", lambda block: bloom)
    story(chain)
    follow(network)
    assert Response.objects.get().status == 1


def test_how_far_it_lags_behind_is_known_before_it_is_read(
    chain: FakeChain, network: Network, settings
) -> None:
    settings.CHAIN_WINDOW_BLOCKS = 2
    story(chain)
    follow(network, for_s=0)
    assert Network.objects.get().lag == 4


def test_another_chain_is_not_read(chain: FakeChain, network: Network) -> None:
    story(chain)
    chain.chain_id, by_id = 5, chain.chain_id
    follow(network)
    chain.chain_id = by_id
    found = Network.objects.get()
    assert found.failure == f"Its node is of chain 5, not of {by_id}."
    assert found.failures == 1
    assert not Log.objects.exists()


def test_a_chain_that_was_begun_anew_is_not_read(chain: FakeChain, network: Network) -> None:
    story(chain)
    follow(network)
    before = rows(network)
    anew = FakeChain(genesis="another")
    story(anew)
    anew.mine_empty(3)
    with nodes(anew):
        assert follow(network) == 0
    assert "its first block is not the one that was read" in Network.objects.get().failure
    assert rows(network) == before
    assert Block.objects.get(number=0).hash == chain.blocks[0].hash
