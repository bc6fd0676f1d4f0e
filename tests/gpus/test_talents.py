"""What a node does besides answering: said when it registers and with heartbeats, and errands called for."""

import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from clients import terms
from clients.models import Client
from gpus import nodes
from gpus.models import Node, Price
from marketplace.money import TOKEN
from tests.agent import Agent
from tests.engine import Background
from tests.served import Server

TRAINING = {"methods": ["causal"], "slots": 2, "device": "cuda", "gpus": 1, "memory_mib": 24000}
HOSTING = {
    "engine": "transformers", "families": ["causal"], "adapters": True, "full": True, "most": 3, "bases": ["llama"],
}  # fmt: skip


@pytest.fixture
def said(hardware: dict[str, str]) -> dict[str, Any]:
    return {**hardware, "model_name": "llama", "machine_id": "m1"}


def test_a_node_says_what_else_it_does(api: Any, bob: Client, said: dict[str, Any]) -> None:
    more = {"training": TRAINING, "hosting": HOSTING, "training_price": "2.5"}
    assert api(bob).post("/llm_models/register/", said | more, format="json").status_code == 201
    node = Node.objects.get()
    assert (node.training, node.hosting) == (TRAINING, HOSTING)
    assert node.training_price is not None
    assert node.training_price.training_price == 5 * TOKEN // 2
    # Registered again without, it does so no longer; what it asks stays.
    api(bob).post("/llm_models/register/", said, format="json")
    node.refresh_from_db()
    assert (node.training, node.hosting, node.training_price is None) == (None, None, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"training": {"methods": ["magic"]}},
        {"training": {"slots": 0}},
        {"training": [1]},
        {"hosting": {"engine": "sorcery"}},
        {"hosting": {"most": -1}},
        {"hosting": {"bases": "llama"}},
        {"training_price": "-1"},
    ],
)
def test_nonsense_is_refused(api: Any, bob: Client, said: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert api(bob).post("/llm_models/register/", said | wrong, format="json").status_code == 400


def test_the_operators_limits_hold_for_training_too(
    api: Any, bob: Client, operator: Client, said: dict[str, Any]
) -> None:
    terms.change(by=operator, reason="A limit.", max_training_price=TOKEN)
    reply = api(bob).post("/llm_models/register/", said | {"training_price": "2"}, format="json")
    assert reply.status_code == 400
    assert "per million tokens trained on" in str(reply.json())


def test_the_price_of_training_is_set_and_shown_like_the_others(
    api: Any, bob: Client, charlie: Client, operator: Client, said: dict[str, Any]
) -> None:
    terms.change(by=operator, reason="A default.", default_training_price=7 * TOKEN)
    node = api(bob).post("/llm_models/register/", said, format="json").json()["node_id"]
    url = f"/llm_models/nodes/{node}/prices/"
    shown = api(bob).get(url).json()
    assert (shown["training_price"], shown["training_price_asked"]) == ("7", None)
    assert api(bob).put(url, {"hour_price": "3"}, format="json").json()["training_price"] is None
    changed = api(bob).put(url, {"training_price": "4"}, format="json").json()
    assert (changed["training_price"], changed["training_price_asked"]) == ("4", "4")
    assert changed["limits"]["training_price"] == {"min": None, "max": None}
    assert api(bob).get(f"{url}history/").json()[0]["training_price"] == "4"
    assert api(charlie).put(url, {"training_price": "4"}, format="json").status_code == 404


# --- Heartbeats -------------------------------------------------------------------------------------------


@pytest.fixture
def node(server: Server, add_node: Callable[..., Node]) -> Node:
    return add_node("home")


@pytest.fixture
def beat(server: Server, node: Node) -> Callable[..., httpx.Response]:
    def beat(**said: Any) -> httpx.Response:
        return httpx.post(f"{server.url}/llm_models/heartbeat/", json={"node_token": node.token, **said})  # type: ignore[attr-defined]

    return beat


def test_a_heartbeat_says_it_and_takes_it_back(beat: Callable[..., httpx.Response], node: Node) -> None:
    assert beat(training=TRAINING, hosting=HOSTING, training_price="2").status_code == 200
    node.refresh_from_db()
    assert (node.training, node.hosting) == (TRAINING, HOSTING)
    assert node.training_price is not None
    beat()
    node.refresh_from_db()
    assert node.hosting == HOSTING
    beat(hosting=None)
    node.refresh_from_db()
    assert (node.training, node.hosting) == (TRAINING, None)


def test_saying_it_again_writes_nothing(beat: Callable[..., httpx.Response], node: Node) -> None:
    for _ in range(3):
        beat(training=TRAINING, training_price="2")
    assert Price.objects.count() == 1
    changed_at = Node.objects.get().changed_at
    beat(training=TRAINING, training_price="2")
    assert Node.objects.get().changed_at == changed_at


def test_a_heartbeat_that_makes_no_sense_is_refused(beat: Callable[..., httpx.Response]) -> None:
    assert beat(hosting={"most": "many"}).status_code == 400
    assert beat(training_price="much").status_code == 400


def test_a_new_revision_of_an_offer_is_noticed(beat: Callable[..., httpx.Response], node: Node) -> None:
    spec = {"name": "llama", "kinds": ["chat"], "concurrency": 3, "context_length": 100, "revision": "one"}
    beat(models=[spec])
    beat(models=[spec | {"revision": "two"}])
    assert node.offers.get().revision == "two"


def test_heartbeats_tell_of_errands(beat: Callable[..., httpx.Response], node: Node, server: Server) -> None:
    assert beat().json()["errands"] == 0
    nodes.send_for_errands(node.pk)
    server.until(lambda: beat().json()["errands"] == 1)


def test_a_connected_agent_is_told_at_once(node: Node, server: Server, background: Background) -> None:
    async def nothing(*_: Any) -> None:
        return

    agent = background.run(Agent(server.url, node.token, nothing).open())  # type: ignore[attr-defined]
    server.knows(node)
    began = time.monotonic()
    nodes.send_for_errands(node.pk)
    server.until(lambda: {"type": "errands"} in agent.said)
    assert time.monotonic() - began < 2
    background.run(agent.close())
