from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from gpus import gateways, states, tasks
from gpus.models import Gateway, Heartbeat, Node, NodeEvent
from marketplace import bus


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "announce", lambda *_: None)


def test_the_sweep_writes_down_who_fell_silent_and_came_back(
    bob: Any, join: Any, connect: Any, now: Any
) -> None:
    node = join(bob).node
    connect(node)
    assert states.sweep(now=now) == 1

    later = now + timedelta(minutes=5)
    assert states.sweep(now=later) == 1
    node.refresh_from_db()
    assert (node.state, node.state_since) == ("silent", later)
    assert "stopped calling" in node.state_reason

    connect(node, later)
    states.sweep(now=later)
    assert list(NodeEvent.objects.order_by("id").values_list("state", flat=True)) == [
        "unreachable",
        "online",
        "silent",
        "online",
    ]


def test_a_sweep_that_finds_nothing_new_writes_nothing(bob: Any, join: Any, now: Any) -> None:
    join(bob)

    assert states.sweep(now=now) == 0
    assert NodeEvent.objects.count() == 1


def test_a_new_reason_for_the_same_state_is_no_event(bob: Any, join: Any, now: Any) -> None:
    node = join(bob).node
    Node.objects.filter(pk=node.pk).update(unreachable_since=now, unreachable_why="timed out")

    assert states.sweep(now=now) == 1

    node.refresh_from_db()
    assert "timed out" in node.state_reason
    assert NodeEvent.objects.count() == 1


def test_of_two_who_find_the_same_change_one_writes_it(bob: Any, join: Any, now: Any) -> None:
    node = join(bob).node
    found = states.assess_all([node.pk], now=now + timedelta(hours=1))[node.pk]
    change = states.Change(node.pk, node.state, found)

    assert states.record(change, now=now)
    assert not states.record(change, now=now)
    assert NodeEvent.objects.filter(state="silent").count() == 1


def test_an_approval_that_the_sweep_notices_is_announced(
    charlie: Any, join: Any, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = join(charlie).node
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(bus, "announce", lambda *message: said.append(message))
    charlie.provider_status = "approved"
    charlie.save()

    states.sweep(now=now)

    assert ("nodes", str(node.pk)) in said


def test_the_sweep_takes_few_queries_however_many_nodes(
    bob: Any, join: Any, now: Any, django_assert_max_num_queries: Any
) -> None:
    for index in range(30):
        join(bob, machine_id=f"m{index}")

    with django_assert_max_num_queries(6):
        assert states.sweep(now=now + timedelta(hours=1)) == 30


def test_a_lost_gateway_lets_go_of_its_nodes_and_is_forgotten_later(
    bob: Any, join: Any, connect: Any, now: Any
) -> None:
    lost, kept = join(bob, machine_id="m1").node, join(bob, machine_id="m2").node
    connect(lost, now)
    connect(kept, now + timedelta(seconds=30))

    assert gateways.sweep(now=now + timedelta(seconds=31)) == 1
    assert Node.objects.get(pk=lost.pk).gateway is None
    assert Node.objects.get(pk=kept.pk).gateway is not None
    assert Gateway.objects.count() == 2

    gateways.sweep(now=now + timedelta(hours=1, seconds=5))
    assert Gateway.objects.count() == 1


def test_the_tasks_ring_for_the_sweeps(bob: Any, join: Any) -> None:
    node = join(bob, now=timezone.now()).node
    Heartbeat.objects.filter(node=node).update(at=timezone.now() - timedelta(hours=1))

    assert tasks.sweep_nodes() == 1
    assert tasks.sweep_gateways() == 0
