"""The verbs of gpus.nodes that have no endpoint of their own."""

from datetime import timedelta
from typing import Any

from gpus import nodes
from gpus.models import Node, NodeEvent, Offer
from gpus.offers import ModelSpec


def active(node: Node) -> set[str]:
    return set(Offer.objects.filter(node=node, active=True).values_list("model", flat=True))


def test_registering_again_keeps_the_node_and_voids_the_old_token(
    bob: Any, join: Any, announced: Any
) -> None:
    first = join(bob, machine_id="m1")
    with announced() as said:
        second = join(bob, "other", machine_id="m1", name="renamed")

    assert second.node.pk == first.node.pk
    assert second.token != first.token
    assert Node.objects.get().name == "renamed"
    assert active(second.node) == {"other"}
    assert ("credentials", f"node:{first.node.pk}") in said
    assert ("nodes", str(first.node.pk)) in said


def test_two_owners_may_name_their_machines_alike(bob: Any, operator: Any, join: Any) -> None:
    assert join(bob, machine_id="m1").node.pk != join(operator, machine_id="m1").node.pk


def test_a_machine_without_an_id_is_recognised_by_its_hardware(bob: Any, join: Any) -> None:
    assert join(bob, "toy").node.pk == join(bob, "toy").node.pk
    assert join(bob, "toy").node.pk != join(bob, "other").node.pk


def test_a_stranger_who_registers_asks_to_be_a_provider(charlie: Any, join: Any) -> None:
    joined = join(charlie)

    charlie.refresh_from_db()
    assert charlie.provider_status == "pending"
    assert joined.found.state == joined.node.state == "pending"
    assert not joined.found.takes_work


def test_where_registration_is_open_a_stranger_is_a_provider_at_once(
    charlie: Any, join: Any, settings: Any
) -> None:
    settings.OPEN_PROVIDER_REGISTRATION = True

    assert join(charlie).found.state == "unreachable"  # only the agent's connection is missing


def test_a_refused_provider_does_not_ask_again_by_registering(charlie: Any, join: Any) -> None:
    charlie.provider_status, charlie.provider_reason = "refused", "no invoice"
    charlie.save()

    joined = join(charlie)

    charlie.refresh_from_db()
    assert charlie.provider_status == "refused"
    assert "no invoice" in joined.found.reason


def test_an_operators_suspension_outlives_a_new_registration(
    bob: Any, operator: Any, join: Any, now: Any
) -> None:
    node = join(bob, machine_id="m1").node
    nodes.suspend(node_id=node.pk, reason="mining", by=operator, now=now)

    assert join(bob, machine_id="m1").found.state == "suspended"


def test_the_push_secret_changes_with_the_token(bob: Any, join: Any, settings: Any) -> None:
    settings.ALLOW_PRIVATE_NODE_URLS = True
    first = join(bob, machine_id="m1", push_url="http://127.0.0.1:9000/")
    second = join(bob, machine_id="m1", push_url="http://127.0.0.1:9000/")

    assert first.node.delivery == "push"
    assert first.node.push_url == "http://127.0.0.1:9000"
    assert nodes.push_secret(first.node).startswith("mp-")
    assert nodes.push_secret(first.node) != nodes.push_secret(second.node)


def test_set_models_makes_the_offers_exactly_these(bob: Any, join: Any, now: Any) -> None:
    node = join(bob, "old").node

    assert nodes.set_models(node_id=node.pk, models=[ModelSpec("new", concurrency=3), "plain"], now=now)

    assert active(node) == {"new", "plain"}
    assert Offer.objects.get(node=node, model="new").concurrency == 3
    assert not Offer.objects.get(node=node, model="old").active


def test_a_bare_name_keeps_what_is_known_of_the_offer(bob: Any, join: Any, now: Any) -> None:
    node = join(bob).node
    nodes.set_models(node_id=node.pk, models=[ModelSpec("toy", concurrency=7, context_length=512)], now=now)
    nodes.set_models(node_id=node.pk, models=[], now=now)

    nodes.set_models(node_id=node.pk, models=["toy"], now=now)

    offer = Offer.objects.get(node=node, model="toy")
    assert (offer.active, offer.concurrency, offer.context_length) == (True, 7, 512)


def test_the_same_models_again_change_and_announce_nothing(
    bob: Any, join: Any, now: Any, announced: Any
) -> None:
    node = join(bob, "toy").node

    with announced() as said:
        assert not nodes.set_models(node_id=node.pk, models=[ModelSpec("toy")], now=now)

    assert said == []


def test_models_of_a_node_that_is_gone_are_ignored(bob: Any, join: Any, now: Any) -> None:
    assert not nodes.set_models(node_id=12345, models=["toy"], now=now)


def test_suspending_leaves_an_event_with_the_reason_and_who(
    bob: Any, operator: Any, join: Any, connect: Any, now: Any, announced: Any
) -> None:
    node = join(bob).node
    connect(node)
    with announced() as said:
        assert nodes.suspend(node_id=node.pk, reason="mining", by=operator, now=now)

    event = NodeEvent.objects.filter(node=node).latest("id")
    assert (event.state, event.by) == ("suspended", operator)
    assert "mining" in event.reason
    assert Node.objects.get(pk=node.pk).state == "suspended"
    assert ("nodes", str(node.pk)) in said


def test_resuming_ends_the_suspension_only_once(
    bob: Any, operator: Any, join: Any, connect: Any, now: Any
) -> None:
    node = join(bob).node
    connect(node)
    nodes.suspend(node_id=node.pk, reason="mining", by=operator, now=now)

    assert not nodes.suspend(node_id=node.pk, reason="again", by=operator, now=now)
    assert nodes.resume(node_id=node.pk, by=operator, now=now)
    assert not nodes.resume(node_id=node.pk, by=operator, now=now)
    assert Node.objects.get(pk=node.pk).state == "online"


def test_a_drain_is_asked_for_and_cancelled(bob: Any, join: Any, connect: Any, now: Any) -> None:
    node = join(bob).node
    connect(node)

    assert nodes.request_drain(node_id=node.pk, by=bob, now=now)
    assert Node.objects.get(pk=node.pk).state == "draining"
    assert nodes.cancel_drain(node_id=node.pk, by=bob, now=now + timedelta(seconds=1))
    assert Node.objects.get(pk=node.pk).state == "online"


def test_a_change_moves_the_mark_that_other_processes_follow(bob: Any, join: Any, now: Any) -> None:
    node = join(bob).node
    later = now + timedelta(days=400)

    nodes.request_drain(node_id=node.pk, by=bob, now=later)

    assert Node.objects.get(pk=node.pk).changed_at == later
