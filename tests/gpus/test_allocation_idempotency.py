"""`Idempotency-Key` at /compute/allocate: nodes are reserved, kept for longer and paid for once."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from clients import ledger
from clients.models import AccountKind, Client, Hold, StoredReply
from gpus.models import Allocation, Lease, Node
from marketplace import money

WANTED = {"task_type": "training", "gpu_count": 1, "duration_hours": 1}
KEY = {"Idempotency-Key": "gpus for monday"}


@pytest.fixture
def rich(alice: Client) -> Client:
    ledger.grant(client_id=alice.pk, amount=10 * money.TOKEN, reference="grant:1", reason="test", by_id=None)
    return alice


@pytest.fixture
def add(bob: Client, join: Any, connect: Any) -> Callable[[str], Node]:
    """A node of bob's that is online, for 2 tokens an hour."""

    def online(name: str) -> Node:
        now: datetime = timezone.now()
        joined = join(bob, "toy", now=now, machine_id=name, name=name, hour_price=2 * money.TOKEN)
        node: Node = joined.node
        connect(node, now)
        return node

    return online


def held(client: Client) -> int:
    account = ledger.account(client.pk, AccountKind.SPENDABLE)
    return ledger.balances([account])[account.pk][1]


def test_a_repeat_reserves_and_holds_nothing_more(api: Any, rich: Client, add: Callable[[str], Node]) -> None:
    add("m1")
    add("m2")
    first, again = (api(rich).post("/compute/allocate", WANTED, headers=KEY) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201), first.content
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    assert (Allocation.objects.count(), Lease.objects.count()) == (1, 1)
    assert held(rich) == 2 * money.TOKEN
    other = api(rich).post("/compute/allocate", WANTED | {"duration_hours": 2}, headers=KEY)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")


def test_a_repeated_extension_is_one_extension(api: Any, rich: Client, add: Callable[[str], Node]) -> None:
    add("m1")
    made = api(rich).post("/compute/allocate", WANTED).json()["allocation_id"]
    path = f"/compute/allocations/{made}/extend"
    first, again = (api(rich).post(path, {"duration_hours": 1}, headers=KEY) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200), first.content
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    lease = Lease.objects.get()
    assert (lease.expires_at - lease.started_at).total_seconds() == 7200
    assert held(rich) == 4 * money.TOKEN


def test_what_was_refused_may_be_tried_again(api: Any, rich: Client, add: Callable[[str], Node]) -> None:
    refused = api(rich).post("/compute/allocate", WANTED, headers=KEY)
    assert refused.status_code == 503
    add("m1")
    dear = api(rich).post("/compute/allocate", WANTED | {"duration_hours": 6}, headers=KEY)
    assert dear.status_code == 402, dear.content
    assert not StoredReply.objects.exists()
    assert not Allocation.objects.exists()
    assert api(rich).post("/compute/allocate", WANTED, headers=KEY).status_code == 201
    assert held(rich) == 2 * money.TOKEN


@pytest.mark.django_db(transaction=True)
def test_many_at_once_reserve_once(api: Any, rich: Client, add: Callable[[str], Node]) -> None:
    for name in ("m1", "m2", "m3"):
        add(name)
    replies: list[Any] = []

    def send() -> None:
        try:
            replies.append(api(rich).post("/compute/allocate", WANTED, headers=KEY))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status_code for reply in replies] == [201] * 6, [reply.content for reply in replies]
    assert len({reply.content for reply in replies}) == 1
    assert sum("Idempotent-Replayed" in reply.headers for reply in replies) == 5
    assert (Allocation.objects.count(), Hold.objects.filter(ended_at=None).count()) == (1, 1)
