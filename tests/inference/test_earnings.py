"""`/llm_models/earnings/`: what nodes brought in, exactly, whether it is sealed or not."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from clients import ledger
from clients.models import Transfer
from gpus.models import Allocation, Lease, Node, NodeEvent, Offer
from inference import batches, earnings
from inference.earnings import Scope
from inference.models import Earning, Inference
from marketplace import money
from tests.inference.conftest import NOON
from tests.served import HARDWARE

Pay = Callable[..., Inference]
URL = "/llm_models/earnings/"
DAY = {"since": "2026-11-20", "until": "2026-11-21"}


def make_node(owner: Any, name: str = "n1", *, gpu_info: str = "A100", concurrency: int = 4) -> Node:
    """Online from 12:00 to 14:00."""
    node = Node.objects.create(
        owner=owner, machine_id=name, name=name, token_digest=name, **(HARDWARE | {"gpu_info": gpu_info})
    )
    Offer.objects.create(node=node, model="llama", kinds=["chat"], concurrency=concurrency)
    for hours, state in ((-0.5, "online"), (1.5, "silent")):
        NodeEvent.objects.create(node=node, at=NOON + timedelta(hours=hours), state=state, reason="")
    return node


@pytest.fixture
def node(bob: Any) -> Node:
    return make_node(bob)


def test_sealed_or_not_it_shows_the_same_sums(pay: Pay, node: Node, bob: Any, api: Any) -> None:
    for _ in range(3):
        pay(node_id=node.pk)
    before = api(bob).get(URL, DAY).json()
    batches.seal(now=NOON)
    after = api(bob).get(URL, DAY).json()

    assert after == before
    assert Earning.objects.get().requests == 3
    assert after["group"] == "node"
    assert (after["since"], after["until"]) == ("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z")
    (line,) = after["lines"]
    assert (line["key"], line["name"], line["requests"]) == (str(node.pk), "n1", 3)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (300, 60)
    assert (line["charged"], line["fee"], line["net"]) == ("1.92", "0.192", "1.728")
    assert line["busy_s"] == 6.0
    assert {**line, "key": None, "name": ""} == after["total"]


def test_utilisation_and_the_price_of_a_gpu_hour_follow_from_when_it_was_online(
    pay: Pay, bob: Any, api: Any
) -> None:
    node = make_node(bob, gpu_info="A100; A100", concurrency=4)
    pay(node_id=node.pk, latency_ms=7_300_000, queued_ms=100_000)  # two hours in one of four slots

    line = api(bob).get(URL, DAY).json()["total"]

    assert line["utilisation"] == 0.25  # of two hours online times four slots
    assert line["gpu_hours"] == 1.0  # a quarter of two GPUs for two hours
    assert line["price_per_gpu_hour"] == "0.576"


def test_leases_are_income_and_use_the_whole_node(node: Node, alice: Any, bob: Any, api: Any) -> None:
    allocation = Allocation.objects.create(
        client=alice,
        task_type="inference",
        gpu_count=1,
        created_at=NOON,
        expires_at=NOON + timedelta(hours=1),
    )
    Lease.objects.create(
        allocation=allocation, node=node, node_name="n1", provider=bob, gpus=1, hour_price=8 * money.TOKEN,
        fee_bps=1000, started_at=NOON - timedelta(minutes=30), paid_until=NOON + timedelta(minutes=30),
        expires_at=NOON + timedelta(minutes=30), charged=8 * money.TOKEN, fee=8 * money.TOKEN // 10,
    )  # fmt: skip

    whole = api(bob).get(URL, DAY).json()["total"]
    half = api(bob).get(URL, {"since": "2026-11-20T12:00:00Z", "until": "2026-11-20T13:00:00Z"}).json()
    by_day = api(bob).get(URL, DAY | {"group": "day"}).json()["lines"]

    assert (whole["lease_income"], whole["net"], whole["leased_s"]) == ("7.2", "7.2", 3600.0)
    assert (whole["utilisation"], whole["gpu_hours"], whole["price_per_gpu_hour"]) == (0.5, 1.0, "7.2")
    assert half["total"]["lease_income"] == "7.2"
    assert [(line["key"], line["net"]) for line in by_day] == [("2026-11-20", "7.2")]


def test_lines_are_by_model_or_by_day(pay: Pay, node: Node, bob: Any, api: Any) -> None:
    pay(node_id=node.pk)
    pay(node_id=node.pk, desired_model="mini", finished_at=NOON - timedelta(days=1))
    two_days = {"since": "2026-11-19", "until": "2026-11-21"}

    models = api(bob).get(URL, two_days | {"group": "model"}).json()
    days = api(bob).get(URL, two_days | {"group": "day"}).json()

    assert {(line["key"], line["requests"]) for line in models["lines"]} == {("llama", 1), ("mini", 1)}
    assert [(line["key"], line["requests"]) for line in days["lines"]] == [
        ("2026-11-19", 1),
        ("2026-11-20", 1),
    ]
    assert models["total"] == days["total"]
    assert days["lines"][0]["utilisation"] is None  # it was not online then
    assert api(bob).get(URL, DAY).json()["total"]["requests"] == 1


def test_what_an_operator_gave_back_is_not_income(
    pay: Pay, node: Node, bob: Any, operator: Any, api: Any
) -> None:
    record = pay(node_id=node.pk)
    batches.seal(now=NOON)
    ledger.reverse(
        Transfer.objects.get(reference=f"inference:{record.pk}"), reason="It was wrong.", by_id=operator.pk
    )

    line = api(bob).get(URL).json()["total"]  # given back now
    assert line["refunded"] == "0.576"
    assert money.parse(line["charged"]) - money.parse(line["fee"]) - money.parse(line["refunded"]) <= 0


def test_earnings_outlive_their_node(pay: Pay, node: Node, bob: Any, api: Any) -> None:
    pay(node_id=node.pk)
    batches.seal(now=NOON)
    pk = node.pk
    node.delete()

    line = api(bob).get(URL, DAY | {"node": pk}).json()["lines"][0]

    assert (line["name"], line["net"], line["utilisation"]) == ("n1", "0.576", None)


def test_only_ones_own(pay: Pay, node: Node, bob: Any, charlie: Any, api: Any) -> None:
    pay(node_id=node.pk)
    pay(provider=charlie, node_id=make_node(charlie, "c1").pk)

    assert api(bob).get(URL, DAY).json()["total"]["requests"] == 1
    assert api(bob).get(URL, DAY | {"node": node.pk}).json()["total"]["requests"] == 1
    assert api(charlie).get(URL, DAY | {"node": node.pk}).status_code == 404
    assert api(charlie).get(URL, DAY | {"provider": bob.pk}).json()["code"] == "operators_only"
    assert api(bob).get(URL, DAY | {"group": "provider"}).status_code == 403
    assert api().get(URL).status_code == 401


def test_operators_see_each_providers(
    pay: Pay, node: Node, bob: Any, charlie: Any, operator: Any, api: Any
) -> None:
    pay(node_id=node.pk)
    pay(node_id=node.pk)
    pay(provider=charlie, node_id=make_node(charlie, "c1").pk)
    batches.seal(now=NOON)
    pay(provider=charlie, node_id=99)

    everybody = api(operator).get(URL, DAY | {"group": "provider"}).json()
    of_bob = api(operator).get(URL, DAY | {"provider": bob.pk, "node": node.pk}).json()

    assert {(line["key"], line["requests"]) for line in everybody["lines"]} == {
        (str(bob.pk), 2),
        (str(charlie.pk), 2),
    }
    assert everybody["total"]["requests"] == 4
    assert of_bob["total"]["requests"] == 2
    assert api(operator).get(URL, DAY).json()["total"]["requests"] == 0  # nodes of their own


@pytest.mark.parametrize(
    "query",
    [
        {"since": "yesterday"},
        {"since": "2026-11-21", "until": "2026-11-20"},
        {"since": "2020-01-01", "until": "2026-11-20"},
        {"group": "colour"},
        {"node": "0"},
        {"provider": str(2**70)},
    ],
)
def test_a_bad_question_is_a_400(bob: Any, api: Any, query: dict[str, str]) -> None:
    assert api(bob).get(URL, query).status_code == 400


def test_a_period_is_made_of_whole_hours(bob: Any) -> None:
    scope = Scope.of(provider_id=bob.pk, since=NOON, until=NOON + timedelta(hours=1))

    assert (scope.since.hour, scope.until.hour) == (12, 14)
    assert earnings.report(scope, group="node", now=NOON).lines == []
