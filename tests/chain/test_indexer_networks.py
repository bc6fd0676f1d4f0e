"""Several networks at once: one that is away, or that takes its time, does not keep the others waiting."""

import threading
import time

import pytest

from chain import indexer, networks, tasks
from chain.models import Log, Network
from tests.chain import fake
from tests.chain.fake import FakeChain, address
from tests.chain.indexed import network_of, nodes

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch):
    """Three networks; the first is away."""
    made = [FakeChain(number) for number in (1, 2, 3)]
    made[0].is_away = True
    for chain in made:
        chain.mine(fake.source_published(address(1), address(2)))
    rows = [network_of(chain, name=f"chain-{chain.chain_id}") for chain in made]
    monkeypatch.setattr(
        networks, "followed", lambda: list(Network.objects.filter(pk__in=[row.pk for row in rows]))
    )
    indexer._paces.clear()
    with nodes(*made):
        yield made


def cursors() -> dict[int, int]:
    return dict(Network.objects.values_list("chain_id", "cursor_block"))


def test_one_task_reads_all_networks(chains: list[FakeChain]) -> None:
    assert tasks.follow_networks() == 4
    assert cursors() == {1: -1, 2: 1, 3: 1}
    assert Log.objects.count() == 2
    assert Network.objects.get(chain_id=1).failures == 1
    assert not Network.objects.filter(lease__isnull=False).exists()


def test_a_node_that_takes_its_time_is_not_waited_for(
    chains: list[FakeChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "FOLLOW_S", 0.5)
    chains[0].is_away = False
    goes_on = threading.Event()
    chains[0].interrupt = lambda method: goes_on.wait(10) and None
    began = time.monotonic()
    assert tasks.follow_networks() == 4
    assert time.monotonic() - began < 5
    chains[1].mine()
    assert tasks.follow_networks() == 1, "the others go on meanwhile"
    assert cursors() == {1: -1, 2: 2, 3: 1}
    goes_on.set()
    deadline = time.monotonic() + 10
    while Network.objects.filter(lease__isnull=False).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cursors() == {1: 1, 2: 2, 3: 1}


def test_a_network_by_itself_is_read_without_a_thread(
    chains: list[FakeChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = Network.objects.get(chain_id=2)
    monkeypatch.setattr(networks, "followed", lambda: [only])
    monkeypatch.setattr(indexer._readers, "submit", None)
    assert tasks.follow_networks() == 2


def test_without_networks_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "followed", list)
    assert tasks.follow_networks() == 0
