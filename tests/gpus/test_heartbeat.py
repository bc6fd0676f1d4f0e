"""POST /llm_models/heartbeat/"""

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from clients import terms
from clients.models import Client
from gpus import nodes
from gpus.models import Heartbeat, Node, Offer, Price
from marketplace.money import TOKEN
from tests.served import Server

URL = "/llm_models/heartbeat/"


@pytest.fixture
def node(server: Server, add_node: Callable[..., Node]) -> Node:
    return add_node("home")


@pytest.fixture
def beat(server: Server, node: Node) -> Callable[..., httpx.Response]:
    def beat(**said: Any) -> httpx.Response:
        return httpx.post(server.url + URL, json={"node_token": node.token, **said})  # type: ignore[attr-defined]

    return beat


def test_it_says_what_the_marketplace_thinks(beat: Callable[..., httpx.Response]) -> None:
    reply = beat(status="busy", metrics={"gpu_utilization": 0.5})
    assert reply.status_code == 200
    said = reply.json()
    assert said["status"] == "ok"
    assert said["next_heartbeat_in"] == 15
    assert said["state"] == "unreachable"
    assert said["reason"]
    assert said["fix"]
    assert (said["drain"], said["suspended"], said["maintenance"], said["messages"]) == (
        False,
        False,
        False,
        [],
    )


def test_it_is_written_down(beat: Callable[..., httpx.Response], node: Node, server: Server) -> None:
    before = timezone.now()
    beat(active_requests=3, metrics={"temperature_c": 61})
    server.until(lambda: Heartbeat.objects.get(node=node).at > before)
    found = Heartbeat.objects.get(node=node)
    assert (found.active_requests, found.metrics) == (3, {"temperature_c": 61})


def test_the_token_may_come_in_the_header(server: Server, node: Node) -> None:
    headers = {"Authorization": f"Token {node.token}"}  # type: ignore[attr-defined]
    assert httpx.post(server.url + URL, json={}, headers=headers).status_code == 200


def test_models_change_with_it(beat: Callable[..., httpx.Response], node: Node, server: Server) -> None:
    beat(models=["llama", {"name": "other", "kinds": ["embedding"], "concurrency": 4}])
    active = Offer.objects.filter(node=node, active=True)
    server.until(lambda: set(active.values_list("model", flat=True)) == {"llama", "other"})
    assert "other" in server.hot.gateway.directory.pools
    beat(models=["other"])
    server.until(lambda: "llama" not in server.hot.gateway.directory.pools)
    assert active.get().concurrency == 4


def test_draining_and_maintenance_are_heard_and_end(
    beat: Callable[..., httpx.Response], node: Node, server: Server
) -> None:
    assert beat(status="maintenance").json()["maintenance"] is True
    assert Node.objects.get().maintenance
    beat(status="draining")
    assert Node.objects.get().draining
    beat()
    found = Node.objects.get()
    assert (found.draining, found.maintenance) == (False, False)


def test_it_carries_an_operators_drain_and_message(
    beat: Callable[..., httpx.Response], node: Node, operator: Client, server: Server
) -> None:
    Node.objects.filter(pk=node.pk).update(message="Please update the driver.")
    nodes.request_drain(node_id=node.pk, by=operator, now=timezone.now())
    server.until(lambda: beat().json()["drain"])
    assert beat().json()["messages"] == ["Please update the driver."]


def test_a_missing_token_is_a_400(server: Server, node: Node) -> None:
    reply = httpx.post(server.url + URL, json={})
    assert reply.status_code == 400
    assert reply.json() == {"error": "node_token is required."}


def test_an_unknown_token_is_a_404(server: Server, node: Node) -> None:
    assert httpx.post(server.url + URL, json={"node_token": "nobody"}).status_code == 404


def test_an_account_token_is_no_node_token(server: Server, node: Node, key: str) -> None:
    assert httpx.post(server.url + URL, json={"node_token": key}).status_code == 404


@pytest.mark.parametrize(
    "said",
    [
        {"status": "asleep"},
        {"models": "llama"},
        {"models": [7]},
        {"metrics": [1]},
        {"metrics": {"x": "y" * 5000}},
        {"active_requests": -1},
        {"active_requests": "many"},
        {"agent_version": 1},
        {"engine": "\0"},
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    beat: Callable[..., httpx.Response], node: Node, said: dict[str, Any]
) -> None:
    before = Node.objects.values().get()
    assert beat(**said).status_code == 400
    assert Node.objects.values().get() == before


def test_a_node_that_registered_again_is_told_so(
    beat: Callable[..., httpx.Response], node: Node, server: Server
) -> None:
    Node.objects.filter(pk=node.pk).update(token_digest="0" * 64, changed_at=timezone.now())
    server.until(lambda: beat().status_code == 404)


def test_a_price_comes_with_it(
    beat: Callable[..., httpx.Response], node: Node, server: Server, operator: Client
) -> None:
    terms.change(by=operator, reason="tests", max_input_price=2 * TOKEN)
    assert beat(models=[{"name": "llama", "input_price": "1.5"}]).status_code == 200
    offer = server.hot.gateway.directory.nodes[node.pk].offers["llama"]
    server.until(lambda: offer.rates.input == 3 * TOKEN // 2)
    assert Offer.objects.get().concurrency == 10
    beat(models=[{"name": "llama", "input_price": "1.5"}])
    assert Price.objects.count() == 1


def test_a_price_beyond_the_limits_is_refused_but_shows_that_the_node_lives(
    beat: Callable[..., httpx.Response], node: Node, server: Server, operator: Client
) -> None:
    terms.change(by=operator, reason="tests", max_input_price=2 * TOKEN)
    before = timezone.now()
    reply = beat(models=[{"name": "llama", "input_price": "2.5"}])
    assert reply.status_code == 400
    assert "at most 2" in reply.json()["models"]["llama"]["input_price"][0]
    assert not Price.objects.exists()
    server.until(lambda: Heartbeat.objects.get(node=node).at > before)
