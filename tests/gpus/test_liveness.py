import time
from dataclasses import replace

import pytest

from gpus.liveness import NodeFacts, assess
from gpus.models import NodeState

NOW = 1_700_000_000.0
WELL = NodeFacts(provider_status="approved", has_link=True, last_heartbeat_at=NOW - 5)


def found(minimum: str = "0.1.0", **facts: object) -> object:
    return assess(replace(WELL, **facts), now=NOW, silent_after_s=45, minimum_agent_version=minimum)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "online"),
        ({"delivery": "push", "has_link": False}, "online"),
        ({"agent_version": "0.1.0"}, "online"),
        ({"agent_version": "0.10.0"}, "online"),
        ({"agent_version": "0.1.0rc1+local"}, "online"),
        ({"agent_version": "0.0.9"}, "outdated"),
        ({"agent_version": "nonsense"}, "outdated"),
        ({"last_heartbeat_at": NOW - 45}, "online"),
        ({"last_heartbeat_at": NOW - 46}, "silent"),
        ({"last_heartbeat_at": None}, "silent"),
        ({"has_link": False}, "unreachable"),
        ({"unreachable_since": NOW - 3}, "unreachable"),
        ({"delivery": "push", "unreachable_since": NOW - 3}, "unreachable"),
        ({"maintenance": True}, "maintenance"),
        ({"draining": True}, "draining"),
        ({"drain_requested": True}, "draining"),
        ({"provider_status": "none"}, "pending"),
        ({"provider_status": "pending"}, "pending"),
        ({"provider_status": "refused"}, "pending"),
        ({"provider_status": "suspended"}, "suspended"),
        ({"owner_active": False}, "suspended"),
        ({"suspended_at": NOW}, "suspended"),
    ],
)
def test_each_fact_has_its_state(facts: dict[str, object], state: str) -> None:
    liveness = found(**facts)

    assert liveness.state == state
    assert liveness.takes_work == (state == "online")
    assert liveness.reason.strip()
    assert bool(liveness.fix) == (state != "online")
    assert len(liveness.reason) <= 500


def test_what_must_be_put_right_first_is_named_first() -> None:
    everything = {
        "suspended_at": NOW,
        "suspended_reason": "mining",
        "provider_status": "pending",
        "agent_version": "0.0.1",
        "last_heartbeat_at": None,
        "has_link": False,
        "maintenance": True,
        "draining": True,
    }
    removed = [
        ("suspended", {"suspended_at": None}),
        ("pending", {"provider_status": "approved"}),
        ("outdated", {"agent_version": "1.0.0"}),
        ("silent", {"last_heartbeat_at": NOW}),
        ("unreachable", {"has_link": True}),
        ("maintenance", {"maintenance": False}),
        ("draining", {"draining": False}),
    ]
    for state, change in removed:
        assert found(**everything).state == state
        everything |= change
    assert found(**everything).state == "online"


def test_its_words_are_those_of_the_rows() -> None:
    states = {found(**facts).state for facts in ({}, {"draining": True}, {"maintenance": True})}

    assert states <= set(NodeState.values)


def test_an_operators_reason_is_passed_on() -> None:
    assert "mining" in found(suspended_at=NOW, suspended_reason="mining").reason
    assert "no invoice" in found(provider_status="refused", provider_reason="no invoice").reason


def test_the_sentence_stays_the_same_while_nothing_changes() -> None:
    facts = replace(WELL, last_heartbeat_at=NOW - 100)

    first, later = (assess(facts, now=at, silent_after_s=45) for at in (NOW, NOW + 60))

    assert first == later


def test_it_is_quick_enough_for_ten_thousand_nodes_each_second() -> None:
    facts = [replace(WELL, last_heartbeat_at=NOW - index % 90) for index in range(10_000)]
    started = time.perf_counter()

    for each in facts:
        assess(each, now=NOW, silent_after_s=45, minimum_agent_version="0.1.0")

    assert time.perf_counter() - started < 0.3
