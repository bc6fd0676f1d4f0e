"""What consumers asked for, and `/llm_models/missed/`: what a provider's nodes did not get of it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from gpus.models import Node, Offer, Price
from gpus.placement import ANY, Policy
from gpus.prices import Ceiling
from inference import demand
from inference.demand import MOST_KEYS, SERVED, DemandCounter
from inference.models import Demand, Model
from inference.tasks import sweep_demand
from marketplace import money
from marketplace.money import MOST
from tests.served import HARDWARE

URL = "/llm_models/missed/"
NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)


def flush(*counters: DemandCounter) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(counter.flush() for counter in counters))
        await asyncio.get_running_loop().run_in_executor(None, connections.close_all)

    asyncio.run(all_at_once())


@pytest.mark.django_db(transaction=True)
def test_processes_add_to_the_same_rows() -> None:
    counters = [DemandCounter() for _ in range(3)]
    cheap = Policy("chat", "eu", True, Ceiling(5, None, 0))
    for counter in counters:
        for _ in range(4):
            counter.count("llama", "chat", ANY, SERVED, now=NOW)
        counter.count("llama", "chat", cheap, "policy_not_met", now=NOW)

    flush(*counters)
    flush(*counters)  # nothing is added twice

    assert Demand.objects.get(outcome=SERVED).requests == 12
    row = Demand.objects.get(outcome="policy_not_met")
    assert (row.requests, row.region, row.trusted_only, row.hour) == (3, "eu", True, NOW.replace(minute=0))
    assert (row.max_input_price, row.max_output_price, row.max_request_price) == (5, MOST, 0)


@pytest.mark.django_db(transaction=True)
def test_names_that_somebody_makes_up_do_not_fill_the_memory() -> None:
    counter = DemandCounter()
    for number in range(MOST_KEYS + 50):
        counter.count(f"made-up-{number}", "chat", Policy(region=str(number)), "model_not_found", now=NOW)

    flush(counter)

    assert Demand.objects.count() == MOST_KEYS + 1
    assert Demand.objects.get(model="").requests == 50


@pytest.mark.django_db(transaction=True)
def test_it_writes_now_and_then_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "FLUSH_S", 0.01)

    async def live() -> None:
        counter = DemandCounter()
        counter.start()
        counter.count("llama", "chat", ANY, SERVED, now=NOW)
        await asyncio.sleep(0.3)
        assert not counter._counts
        monkeypatch.setattr(demand, "FLUSH_S", 100)
        counter.count("llama", "chat", ANY, SERVED, now=NOW)
        await counter.stop()

    asyncio.run(live())

    assert Demand.objects.get().requests == 2


def test_old_counts_are_deleted(db: None) -> None:
    asked("llama", SERVED, 5, hour=timezone.now() - timedelta(days=40))
    asked("llama", SERVED, 5)

    assert sweep_demand() == 1
    assert Demand.objects.count() == 1


# --- What a provider missed ---------------------------------------------------------------------------------


def asked(model: str, outcome: str, requests: int, **fields: Any) -> None:
    values: dict[str, Any] = {
        "hour": timezone.now().replace(minute=0, second=0, microsecond=0), "kind": "chat",
        "max_input_price": MOST, "max_output_price": MOST, "max_request_price": MOST,
    }  # fmt: skip
    Demand.objects.create(model=model, outcome=outcome, requests=requests, **(values | fields))


def make_node(owner: Any, name: str, *models: str, output_price: int = 0, **fields: Any) -> Node:
    node = Node.objects.create(
        owner=owner, machine_id=name, name=name, token_digest=name, **HARDWARE, **fields
    )
    for model in models:
        price = Price.objects.create(node=node, owner=owner, model=model, output_price=output_price)
        Offer.objects.create(node=node, model=model, kinds=["chat"], concurrency=1, price=price)
    return node


def test_each_reason_is_counted_with_its_share_and_what_to_do(bob: Any, api: Any) -> None:
    node = make_node(bob, "n1", "llama", output_price=3 * money.TOKEN, region="us")
    asked("llama", SERVED, 100)  # another node was chosen: nothing was missed
    asked("llama", "no_capacity", 3)
    asked("llama", "queue_timeout", 1)
    asked("llama", SERVED, 60, max_output_price=2 * money.TOKEN)
    asked("llama", "policy_not_met", 1, max_output_price=1)
    asked("llama", SERVED, 2, region="eu")
    asked("llama", SERVED, 2, trusted_only=True)
    asked("llama", SERVED, 1, kind="embedding")
    asked("mistral", SERVED, 20)
    asked("mistral", "no_capacity", 5)
    asked("phantom", "model_not_found", 5)

    found = api(bob).get(URL).json()

    (own,) = found["nodes"]
    assert (own["node"], own["name"], own["requests"]) == (node.pk, "n1", 100)
    assert {each["reason"]: each["requests"] for each in own["reasons"]} == {
        "price": 61, "model_missing": 30, "full_or_offline": 4, "region": 2, "not_trusted": 2, "kind": 1,
    }  # fmt: skip
    assert own["summary"] == found["summary"]
    assert found["summary"].startswith(
        "100 requests missed: price 61 %, model missing 30 %, full or offline 4 %"
    )
    assert own["reasons"][0]["share"] == 0.61
    assert all(each["fix"] for each in own["reasons"])
    assert own["models"] == [
        {"model": "mistral", "requests": 25, "served": 20},
        {"model": "phantom", "requests": 5, "served": 0},
    ]


def test_together_only_what_none_of_the_nodes_would_have_done_is_missed(bob: Any, api: Any) -> None:
    make_node(bob, "dear", "llama", output_price=9)
    make_node(bob, "cheap", "llama", output_price=1)
    make_node(bob, "other", "mistral")
    asked("llama", SERVED, 10, max_output_price=5)
    asked("llama", "no_capacity", 7, max_output_price=5)
    asked("phantom", "model_not_found", 3)

    found = api(bob).get(URL).json()

    assert found["summary"] == "10 requests missed: full or offline 70 %, model missing 30 %."
    assert [each["requests"] for each in found["nodes"]] == [20, 10, 20]
    assert found["nodes"][0]["reasons"][0]["reason"] == "price"


def test_models_of_others_are_not_told_of(alice: Any, bob: Any, api: Any) -> None:
    Model.objects.create(name="alices-own", owner=alice)
    Model.objects.create(name="hidden", hidden=True)
    Model.objects.create(name="bobs-own", owner=bob)
    for model in ("alices-own", "hidden", "bobs-own", "ft:toy:alice::1234"):
        asked(model, "no_capacity", 2)

    found = api(bob).get(URL).json()["together"]

    assert [each["model"] for each in found["models"]] == ["bobs-own"]
    assert found["requests"] == 2


def test_it_looks_back_as_far_as_is_wanted(bob: Any, api: Any) -> None:
    make_node(bob, "n1", "llama")
    asked("phantom", "model_not_found", 3)
    asked("phantom", "model_not_found", 5, hour=timezone.now() - timedelta(hours=48))

    assert api(bob).get(URL).json()["together"]["requests"] == 3
    assert api(bob).get(URL, {"hours": 72}).json()["together"]["requests"] == 8
    assert api(bob).get(URL, {"hours": 0}).status_code == 400


def test_only_ones_own_nodes(bob: Any, charlie: Any, api: Any) -> None:
    node = make_node(bob, "n1", "llama")
    asked("llama", "no_capacity", 1)

    assert api(bob).get(URL, {"node": node.pk}).json()["nodes"][0]["requests"] == 1
    assert api(charlie).get(URL, {"node": node.pk}).status_code == 404
    assert api(charlie).get(URL).json()["nodes"] == []
    assert api(charlie).get(URL).json()["summary"] == "1 request missed: model missing 100 %."
    assert api().get(URL).status_code == 401
