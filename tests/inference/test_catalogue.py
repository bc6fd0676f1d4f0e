"""`inference.catalogue`: what there is, and for whom."""

from datetime import UTC, datetime
from typing import Any

import pytest

from clients import terms
from gpus import nodes, states
from gpus.models import Allocation, Lease, Node
from gpus.offers import ModelSpec
from gpus.prices import Wish
from inference import catalogue, tasks
from inference.catalogue import Catalogue, Entry, ModelNotFound, similar
from inference.models import Model

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HARDWARE = dict.fromkeys(
    (
        "gpu_info",
        "cpu_name",
        "cpu_core",
        "cpu_frequency",
        "total_memory",
        "total_swap",
        "ram",
        "os_name",
        "os_version",
    ),
    "1",
)


def join(owner: Any, *models: ModelSpec, machine_id: str = "m1") -> Any:
    joining = nodes.Joining(hardware=HARDWARE, models=models, machine_id=machine_id)
    return nodes.register(owner=owner, joining=joining, now=NOW).node


def entry(name: str, **more: Any) -> Entry:
    return Entry(name, NOW, **more)


def shelf(*entries: Entry) -> Catalogue:
    return Catalogue({each.name: each for each in entries})


def test_a_model_of_ones_own_is_for_its_owner_and_operators() -> None:
    found = shelf(entry("public"), entry("alices", owner_id=1))

    assert [each.name for each in found.visible_to(1)] == ["alices", "public"]
    assert [each.name for each in found.visible_to(2)] == ["public"]
    assert [each.name for each in found.visible_to(3, is_staff=True)] == ["alices", "public"]


def test_a_hidden_model_is_for_nobody() -> None:
    assert shelf(entry("public", hidden=True)).visible_to(1, is_staff=True) == []


def test_a_name_that_stands_for_nothing_is_not_listed() -> None:
    found = shelf(entry("bare", is_alias=True), entry("live", is_alias=True, target="tuned"))

    assert [each.name for each in found.visible_to(1)] == ["live"]


def test_a_keys_limits_hold() -> None:
    found = shelf(entry("a"), entry("b"))

    assert [each.name for each in found.visible_to(1, allowed=("b",))] == ["b"]
    with pytest.raises(ModelNotFound):
        found.resolve("a", client_id=1, allowed=("b",))


def test_an_unknown_model_is_answered_with_similar_names() -> None:
    found = shelf(
        entry("TinyLlama/TinyLlama-1.1B-Chat-v1.0"), entry("mini"), entry("tinyllama-secret", owner_id=9)
    )

    with pytest.raises(ModelNotFound) as refused:
        found.resolve("tinyllama", client_id=1)

    assert refused.value.details == {
        "model": "tinyllama",
        "suggestions": ["TinyLlama/TinyLlama-1.1B-Chat-v1.0"],
    }
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        404,
        "model_not_found",
        "model",
    )


@pytest.mark.parametrize("name", ["", "\0", "x" * 100_000, "💥", "zzzzzzzz"])
def test_odd_names_suggest_nothing(name: str) -> None:
    assert similar(name, ["gpt-4", "mini"]) == []


def test_rows_and_offers_of_admitted_nodes_are_joined(bob: Any, charlie: Any) -> None:
    Model.objects.create(name="toy", title="Toy", framework="transformers")
    join(
        bob, ModelSpec("toy", context_length=512), ModelSpec("mini", kinds=("embedding",), min_vram_mib=1024)
    )
    join(charlie, ModelSpec("waits"))

    found = catalogue.load().entries

    assert found.keys() == {"toy", "mini"}
    assert (found["toy"].title, found["toy"].context_length, found["toy"].nodes) == ("Toy", 512, 1)
    assert (found["mini"].kinds, found["mini"].min_vram_mib) == (("embedding",), 1024)
    assert not found["mini"].available


def test_a_model_is_available_while_a_node_that_serves_it_is_online(bob: Any) -> None:
    from gpus.models import Gateway, Node

    node = join(bob, ModelSpec("toy"))
    gateway = Gateway.objects.create(host="test", pid=1, started_at=NOW, seen_at=NOW)
    Node.objects.filter(pk=node.pk).update(gateway=gateway)
    states.sweep(now=NOW)
    assert catalogue.load().entries["toy"].available

    nodes.set_models(node_id=node.pk, models=[], now=NOW)
    assert "toy" not in catalogue.load().entries


def test_kinds_of_several_nodes_are_united(bob: Any) -> None:
    join(bob, ModelSpec("toy", kinds=("chat",)), machine_id="m1")
    join(bob, ModelSpec("toy", kinds=("completion", "chat")), machine_id="m2")

    assert catalogue.load().entries["toy"].kinds == ("chat", "completion")
    assert catalogue.load().entries["toy"].nodes == 2


def test_reading_takes_five_queries(bob: Any, django_assert_num_queries: Any) -> None:
    join(bob, *(ModelSpec(f"m{index}") for index in range(20)))

    with django_assert_num_queries(5):
        assert len(catalogue.load().entries) == 20


def test_the_sweep_catalogues_new_names_once(bob: Any, charlie: Any) -> None:
    join(bob, ModelSpec("toy", description="A toy.", revision="abc"))
    join(charlie, ModelSpec("waits"))

    assert tasks.sweep_catalogue() == 1
    assert tasks.sweep_catalogue() == 0
    row = Model.objects.get()
    assert (row.name, row.description, row.version, row.owner) == ("toy", "A toy.", "abc", None)


def test_a_node_cannot_claim_a_name_that_the_marketplace_gives(bob: Any) -> None:
    join(bob, ModelSpec("ft:toy:alice:live"))

    assert tasks.sweep_catalogue() == 0
    assert not Model.objects.exists()
    assert catalogue.load().entries == {}


def test_it_says_what_nodes_that_can_answer_now_ask(bob: Any, operator: Any, monkeypatch: Any) -> None:
    terms.change(by=operator, reason="t", default_input_price=5)
    for number, price in enumerate((Wish(3, 7), Wish(4, 12), None, Wish(0, 0))):
        spec = ModelSpec("toy") if price is None else ModelSpec("toy", price=price)
        node = join(bob, spec, machine_id=f"m{number}")
        Node.objects.filter(pk=node.pk).update(state="online" if number < 3 else "silent")
    terms.change(by=operator, reason="limits", max_output_price=9, min_request_price=2)

    pricing = catalogue.load().entries["toy"].pricing
    assert pricing is not None
    assert pricing.lowest == {"input_price": 3, "output_price": 0, "request_price": 0}
    assert pricing.highest == {"input_price": 5, "output_price": 9, "request_price": 2}


def test_a_reserved_node_is_not_counted_as_available(alice: Any, bob: Any) -> None:
    node = join(bob, ModelSpec("toy"))
    Node.objects.filter(pk=node.pk).update(state="online")
    assert catalogue.load().entries["toy"].available
    made = Allocation.objects.create(
        client=alice, task_type="inference", gpu_count=1, created_at=NOW, expires_at=NOW
    )
    Lease.objects.create(
        allocation=made, node=node, node_name="n", provider=bob, gpus=1, hour_price=0, fee_bps=0,
        started_at=NOW, paid_until=NOW, expires_at=NOW,
    )  # fmt: skip
    found = catalogue.load().entries["toy"]
    assert (found.available, found.pricing) == (False, None)
