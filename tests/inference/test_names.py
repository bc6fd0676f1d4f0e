"""Who answers to a name: for private models only nodes that were asked to host them; for aliases their targets."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest
from django.utils import timezone

from clients import keys
from clients.models import Client
from gpus.models import Node, Offer
from inference import hosting
from inference.models import Hosting, Model
from marketplace import bus
from tests.engine import Engine
from tests.inference.test_hosting import revision
from tests.served import Server, last_record

URL = "/v1/chat/completions"
AddNode = Callable[..., Node]
TUNED, ALIAS = "ft:llama:alice::1", "ft:llama:alice:live"


def ask(http: httpx.Client, model: str, **more: Any) -> httpx.Response:
    return http.post(URL, json={"model": model, "messages": [{"role": "user", "content": "count"}], **more})


def until(true: Callable[[], bool], timeout: float = 6.0) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def stranger(server: Server, charlie: Client) -> Any:
    key = keys.create(charlie, name="tests").key
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
        yield client


@pytest.fixture
def host(server: Server, engine: Engine, add_node: AddNode) -> Node:
    """A node that offers alice's tuned model, which it was asked to host; by its own word it serves it."""
    node = add_node("host", model=TUNED, url=engine.url, state="online")
    Offer.objects.filter(node=node).update(revision="0123456789ab")
    server.knows(node)
    return node


@pytest.fixture
def tuned(host: Node, alice: Client, stranger: httpx.Client) -> Model:
    model = Model.objects.create(name=TUNED, owner=alice, is_hosted=True)
    revision(model)
    Hosting.objects.create(node=host, model=model, revision=model.revision, state="serving")
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(stranger, TUNED).status_code == 404)
    return model


def test_its_owner_is_answered_and_strangers_do_not_find_it(
    http: httpx.Client, stranger: httpx.Client, tuned: Model
) -> None:
    until(lambda: ask(http, TUNED).status_code == 200)
    reply = ask(stranger, TUNED)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_what_is_published_answers_everybody(stranger: httpx.Client, tuned: Model) -> None:
    Model.objects.update(published_at=timezone.now())
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(stranger, TUNED).status_code == 200)


def test_a_node_that_only_claims_the_name_gets_no_request(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode, tuned: Model, host: Node
) -> None:
    thief = add_node("thief", model=TUNED, url=engine.url, concurrency=1000)
    server.knows(thief)
    until(lambda: ask(http, TUNED).status_code == 200)
    assert {ask(http, TUNED).headers["x-node"] for _ in range(20)} == {"host"}
    Hosting.objects.all().delete()
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(http, TUNED).status_code == 503)
    reply = ask(http, TUNED)
    assert reply.json()["error"]["code"] == "model_loading"
    assert reply.headers["retry-after"]
    assert "x-node" not in reply.headers
    assert [each["available"] for each in http.get("/v1/models").json()["data"] if each["id"] == TUNED] == [
        False
    ]


def test_a_request_waits_a_moment_for_a_node_that_is_about_to_serve(
    http: httpx.Client, server: Server, tuned: Model, host: Node
) -> None:
    until(lambda: ask(http, TUNED).status_code == 200)

    def offers(active: bool) -> None:
        Offer.objects.filter(node=host).update(active=active)
        bus.announce("nodes", str(host.pk))

    offers(active=False)
    until(lambda: TUNED not in server.hot.gateway.directory.pools)
    with ThreadPoolExecutor(1) as waiting:
        reply = waiting.submit(ask, http, TUNED)
        time.sleep(0.3)
        assert not reply.done()
        offers(active=True)
        assert reply.result().status_code == 200


def test_a_node_is_let_in_as_soon_as_it_serves(
    http: httpx.Client, server: Server, tuned: Model, host: Node
) -> None:
    Hosting.objects.update(state="loading")
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(http, TUNED).status_code == 503)
    said = {"model": TUNED, "revision": tuned.revision.digest, "state": "serving", "reason": ""}
    began = time.monotonic()
    hosting.heard(host.pk, [said], now=timezone.now())
    until(lambda: ask(http, TUNED).status_code == 200)
    assert time.monotonic() - began < 2


def test_an_alias_leads_to_its_target_and_the_record_names_both(
    http: httpx.Client, stranger: httpx.Client, engine: Engine, tuned: Model, alice: Client
) -> None:
    Model.objects.create(name=ALIAS, owner=alice, is_alias=True, target=tuned)
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(http, ALIAS).status_code == 200)
    assert engine.asked[-1]["model"] == TUNED
    record = last_record("completed")
    assert (record.desired_model, record.revision) == (ALIAS, f"{TUNED}@0123456789ab")
    assert ask(http, ALIAS, stream=True).text.endswith("data: [DONE]\n\n")
    assert ask(stranger, ALIAS).status_code == 404
    reply = http.post(f"/ai/models/{ALIAS}/inference", json={"input": "count"})
    assert (reply.status_code, reply.json()["model_id"]) == (200, ALIAS)
    listed = {each["id"]: each["available"] for each in http.get("/v1/models").json()["data"]}
    assert (listed[ALIAS], listed[TUNED]) == (True, True)


def test_an_alias_without_a_target_says_so(http: httpx.Client, tuned: Model, alice: Client) -> None:
    Model.objects.create(name=ALIAS, owner=alice, is_alias=True)
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(http, ALIAS).json()["error"]["code"] == "alias_without_target")
    assert ask(http, ALIAS).status_code == 404


def test_a_switch_is_seen_at_once(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode, tuned: Model, alice: Client
) -> None:
    server.knows(add_node("two", url=engine.url))
    alias = Model.objects.create(name=ALIAS, owner=alice, is_alias=True, target=tuned)
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(http, ALIAS).status_code == 200)
    llama, _ = Model.objects.get_or_create(name="llama")
    alias.target = llama
    alias.save()
    bus.announce(hosting.TOPIC, "test")
    began = time.monotonic()
    until(lambda: ask(http, ALIAS).headers.get("x-node") == "two")
    assert time.monotonic() - began < 1.5


def test_nobody_can_lead_to_a_model_that_is_anothers(
    stranger: httpx.Client, tuned: Model, charlie: Client
) -> None:
    Model.objects.create(name="charlie:live", owner=charlie, is_alias=True, target=tuned)
    bus.announce(hosting.TOPIC, "test")
    until(lambda: ask(stranger, "charlie:live").json()["error"]["code"] == "alias_without_target")


def test_nodes_cannot_take_the_name_of_an_alias(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode, tuned: Model, alice: Client
) -> None:
    Model.objects.create(name=ALIAS, owner=alice, is_alias=True)
    bus.announce(hosting.TOPIC, "test")
    server.knows(add_node("thief", model=ALIAS, url=engine.url))
    until(lambda: ask(http, ALIAS).json()["error"].get("code") == "alias_without_target")
