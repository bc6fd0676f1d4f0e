"""Threads that work beside each other: bounded, each piece once, leases kept while they work."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from chain import networks
from chain.fulfilment import course, crew, rounds, rows
from chain.fulfilment.crew import Crew
from chain.models import Fulfilment, FulfilmentStatus, Network, Source
from tests.chain import fulfilled


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    found = threading.Event()
    yield found
    found.set()


def until(true: Any) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_at_most_so_many_at_once(gate: threading.Event) -> None:
    hands = Crew(2)
    assert hands.free == 2
    assert hands.begin("a", gate.wait)
    assert hands.begin("b", gate.wait)
    assert (hands.free, hands.begin("c", gate.wait)) == (0, False)
    gate.set()
    until(lambda: hands.free == 2)
    assert hands.begin("c", gate.wait)


def test_the_same_is_done_once_at_a_time(gate: threading.Event) -> None:
    hands = Crew(5)
    assert hands.begin("a", gate.wait)
    assert not hands.begin("a", gate.wait)


def test_what_fails_is_logged_and_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    hands = Crew(1)
    hands.begin("a", lambda: 1 // 0)
    until(lambda: hands.free == 1)
    assert "ZeroDivisionError" in caplog.text


def test_a_process_that_ends_begins_nothing_more() -> None:
    hands = Crew(1)
    hands.closing.set()
    assert (hands.free, hands.begin("a", lambda: None)) == (0, False)


def test_leases_are_kept_while_somebody_works(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "KEEP_EVERY_S", 0.02)
    kept: list[Any] = []
    monkeypatch.setattr(rows, "keep", lambda tokens, now: kept.append(set(tokens)))
    hands, token = Crew(3), uuid4()
    hands.begin(token, gate.wait)
    hands.begin("source 5", gate.wait)
    until(lambda: {token} in kept)
    gate.set()
    until(lambda: hands.free == 3)
    until(lambda: hands._keeper is None)
    before = len(kept)
    time.sleep(0.1)
    assert len(kept) == before


def test_that_leases_cannot_be_kept_once_is_no_end(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crew, "KEEP_EVERY_S", 0.02)
    calls: list[int] = []

    def keep(tokens: Any, now: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the database is away")

    monkeypatch.setattr(rows, "keep", keep)
    Crew(1).begin(uuid4(), gate.wait)
    until(lambda: len(calls) > 2)


# --- Rounds ---------------------------------------------------------------------------------------------------


class Noting(fulfilled.Inline):
    """A crew that notes what it is to do, and does nothing."""

    def __init__(self, free: int = 1000) -> None:
        self.keys: list[Any] = []
        self.room = free

    @property
    def free(self) -> int:  # type: ignore[override]
        return self.room - len(self.keys)

    def begin(self, key: Any, work: Any) -> bool:
        if self.free <= 0:
            return False
        self.keys.append(key)
        return True


@pytest.fixture
def network(db: None, monkeypatch: pytest.MonkeyPatch) -> Network:
    found = fulfilled.network()
    monkeypatch.setattr(networks, "followed", lambda: [Network.objects.get(pk=found.pk)])
    return found


def look(hands: Any, *, after_s: float = 0) -> int:
    return rounds.look(hands, clock=lambda: fulfilled.NOW + timedelta(seconds=after_s))


def held(column: str = "source_address") -> list[str]:
    """The sources of what somebody works on."""
    rows_ = Fulfilment.objects.filter(token__isnull=False).order_by("pk")
    return list(rows_.values_list(column, flat=True))


def test_what_is_due_is_begun_once(network: Network) -> None:
    source = fulfilled.source(network)
    for _ in range(3):
        fulfilled.task(source)
    hands = Noting()
    assert look(hands) == 3
    assert look(hands) == 0
    assert look(Noting()) == 0
    assert len(held()) == 3


def test_what_was_held_by_the_dead_is_begun_by_others(network: Network) -> None:
    fulfilled.task(fulfilled.source(network))
    assert look(Noting()) == 1
    assert look(Noting(), after_s=29) == 0
    assert look(Noting(), after_s=31) == 1


def test_only_as_much_is_taken_as_can_be_done(network: Network) -> None:
    source = fulfilled.source(network)
    for _ in range(5):
        fulfilled.task(source)
    assert look(Noting(2)) == 2
    assert Fulfilment.objects.filter(token=None).count() == 3


def test_a_source_with_very_many_tasks_does_not_hold_up_the_others(network: Network) -> None:
    flood, other = fulfilled.source(network), fulfilled.source(network)
    for _ in range(20):
        fulfilled.task(flood)
    fulfilled.task(other)
    assert look(Noting(3)) == 3
    assert other.address in held()
    # And as long as its first ones are being worked on, those of others come first.
    fulfilled.task(third := fulfilled.source(network))
    look(Noting(1))
    assert third.address in held()


def test_within_a_source_whoever_publishes_very_many_does_not_hold_up_the_others(network: Network) -> None:
    source = fulfilled.source(network)
    for number in range(20):
        fulfilled.task(source, f"https://slow.example/{number}")
    fulfilled.task(source, "https://other.example/1")
    hands = Noting(3)
    assert look(hands) == 3
    assert "https://other.example/1" in held("config_url")
    # Nor as long as those are being worked on.
    fulfilled.task(source, "https://third.example/1")
    look(Noting(1))
    assert "https://third.example/1" in held("config_url")


def test_slow_links_of_one_source_take_up_half_of_the_crew(network: Network) -> None:
    source = fulfilled.source(network)
    for number in range(20):
        fulfilled.task(source, f"https://slow{number}.example/")
    assert look(Noting(16)) == 8
    assert look(Noting(8)) == 0
    # What is kept here is there at once, and what was fetched needs no link; other sources have their own share.
    fulfilled.task(source)
    fulfilled.task(fulfilled.source(network), "https://slow.example/x")
    assert look(Noting(8)) == 2
    waiting = Fulfilment.objects.filter(token=None).first()
    assert waiting is not None
    Fulfilment.objects.filter(pk=waiting.pk).update(config={"function_name": "chat"})
    assert look(Noting(8)) == 1
    # Their leases are over.
    assert look(Noting(16), after_s=31) == 8 + 3


def test_sources_whose_links_answer_slowly_leave_half_of_the_crew_to_tasks(network: Network) -> None:
    for _ in range(20):
        fulfilled.source(network)
    Source.objects.update(metadata_url="https://slow.example/x", fetched_url="", fetch_at=fulfilled.NOW)
    hands = Noting(16)
    for second in range(5):
        look(hands, after_s=second)
    assert sum(str(key).startswith("source") for key in hands.keys) == 8
    fulfilled.task(Source.objects.all()[0])
    assert look(hands, after_s=6) == 1


def test_a_network_that_is_paused_is_left(network: Network) -> None:
    fulfilled.task(fulfilled.source(network))
    Network.objects.update(is_paused=True)
    assert look(Noting()) == 0
    assert not Fulfilment.objects.exists()


def test_what_is_found_and_paused_then_is_left(network: Network) -> None:
    fulfilled.task(fulfilled.source(network))
    look(Noting(0))
    Network.objects.update(is_paused=True)
    assert look(Noting()) == 0
    Network.objects.update(is_paused=False)
    assert look(Noting()) == 1


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_do_each_thing_once(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fulfilled.source(network)
    for _ in range(30):
        fulfilled.task(source)
    done: list[int] = []
    monkeypatch.setattr(course, "advance", lambda held, clock: (done.append(held.pk), time.sleep(0.02)))
    crews = [Crew(16), Crew(16), Crew(16)]
    barrier = threading.Barrier(3)

    def live(hands: Crew) -> None:
        from django.db import connections

        barrier.wait()
        for _ in range(5):
            rounds.look(hands, clock=timezone.now_for_test)
            time.sleep(0.03)
        connections.close_all()

    monkeypatch.setattr(timezone, "now_for_test", lambda: fulfilled.NOW, raising=False)
    threads = [threading.Thread(target=live, args=(hands,)) for hands in crews]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    until(lambda: all(hands.free == 16 for hands in crews))
    assert sorted(done) == sorted(Fulfilment.objects.values_list("pk", flat=True))
    assert Fulfilment.objects.filter(status=FulfilmentStatus.FOUND).count() == 30
