"""Requests while nodes are reserved, through served web processes."""

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from clients import keys, ledger
from clients.models import Transfer
from gpus import allocations, leases, prices
from gpus.candidates import Wanted
from gpus.models import Allocation, Lease, Node
from gpus.prices import Wish, Wishes
from marketplace import bus, money
from marketplace.money import TOKEN
from tests.engine import Engine
from tests.served import Server, last_record

CHAT = {"model": "llama", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@pytest.fixture
def node(add_node: Callable[..., Node], engine: Engine, alice: Any) -> Node:
    """Bob's node, at a price per token and per hour; alice has money."""
    ledger.grant(client_id=alice.pk, amount=100 * TOKEN, reference="grant:t", reason="tests", by_id=None)
    found = add_node("n1", url=engine.url)
    wishes = Wishes(every=Wish(TOKEN, TOKEN, TOKEN), hour=36 * TOKEN)
    prices.change(node_id=found.pk, wishes=wishes, now=timezone.now())
    return found


def reserve(client: Any, seconds: int = 3600) -> Allocation:
    return allocations.allocate(
        client_id=client.pk, wanted=Wanted("inference", 1, seconds, model="llama"), now=timezone.now()
    )


def ask(url: str, key: str, allocation: object = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} | ({"X-Allocation": str(allocation)} if allocation else {})
    return httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=headers, timeout=20)


def knows(server: Server, node: Node, allocation: Allocation | None) -> None:
    live = server.hot.gateway.directory.nodes[node.pk]
    wanted = allocation and str(allocation.pk)
    server.until(lambda: (live.reserved and live.reserved.allocation_id) == wanted)


def test_only_requests_that_name_the_allocation_get_the_node_and_cost_nothing_more(
    serve: Callable[[], Server], node: Node, alice: Any, charlie: Any, key: str
) -> None:
    first, second = serve(), serve()
    for server in (first, second):
        server.knows(node)
    made = reserve(alice)
    for server in (first, second):
        knows(server, node, made)
    strangers = keys.create(charlie, name="tests").key

    reply = ask(second.url, key, made.pk)
    assert reply.status_code == 200, reply.text
    record = last_record("completed")
    assert (record.charged, record.allocation_id, record.node_id) == (0, made.pk, node.pk)
    assert not Transfer.objects.filter(kind="inference").exists()

    unnamed = ask(first.url, key)
    assert unnamed.status_code == 503
    assert "1 is reserved for an allocation" in unnamed.json()["error"]["message"]
    foreign = ask(first.url, strangers, made.pk)
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "allocation_not_found")
    assert ask(first.url, key, "nonsense").status_code == 404


def test_after_its_end_the_node_is_everybodys_again_and_paid_per_token(
    server: Server, node: Node, alice: Any, key: str
) -> None:
    server.knows(node)
    made = reserve(alice)
    knows(server, node, made)
    allocations.release(allocation_id=made.pk, client_id=alice.pk, now=timezone.now())
    knows(server, node, None)

    assert ask(server.url, key, made.pk).json()["error"]["code"] == "allocation_not_found"
    assert ask(server.url, key).status_code == 200
    assert last_record("completed").charged > TOKEN


def test_a_lost_message_costs_a_moment(
    server: Server, node: Node, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.knows(node)
    monkeypatch.setattr(bus, "announce", lambda *_said: None)
    made = reserve(alice)
    knows(server, node, made)
    allocations.release(allocation_id=made.pk, client_id=alice.pk, now=timezone.now())
    knows(server, node, None)


def test_a_process_that_starts_later_knows_it_too(
    serve: Callable[[], Server], node: Node, alice: Any, key: str
) -> None:
    made = reserve(alice)
    server = serve()
    server.knows(node)
    assert ask(server.url, key).status_code == 503
    assert ask(server.url, key, made.pk).status_code == 200


def test_when_its_time_is_over_it_serves_nobody_even_before_the_sweep(
    server: Server, node: Node, alice: Any, key: str
) -> None:
    server.knows(node)
    made = reserve(alice, seconds=1)
    knows(server, node, made)
    server.until(lambda: ask(server.url, key, made.pk).status_code == 404)
    assert ask(server.url, key).status_code == 503

    leases.sweep(now=timezone.now())
    knows(server, node, None)
    assert ask(server.url, key).status_code == 200
    assert Lease.objects.get().charged == money.parse("0.01")
