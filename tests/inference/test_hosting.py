"""Which nodes serve what the marketplace keeps: asked, heard, replaced."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from clients.models import Blob
from gpus.models import Node, NodeState, Offer
from inference import hosting, revisions
from inference.models import Family, Hosting, HostingState, Model, Revision, RevisionKind, Source
from tests.served import HARDWARE

pytestmark = pytest.mark.django_db
NOW = timezone.now()
TALENT = {
    "engine": "transformers",
    "families": ["causal"],
    "adapters": True,
    "full": True,
    "most": 2,
    "bases": [],
}


@pytest.fixture
def add(bob: Any) -> Callable[..., Node]:
    """`add("one")`: a node of bob's that is online and hosts two language models at most."""

    def node(name: str, *, owner: Any = None, **talent: Any) -> Node:
        return Node.objects.create(
            owner=owner or bob, machine_id=name, name=name, token_digest=name, state=NodeState.ONLINE,
            state_since=NOW - timedelta(hours=1), hosting=TALENT | talent, **HARDWARE,
        )  # fmt: skip

    return node


def revision(model: Model, content: str = "a", *, base: Revision | None = None) -> Revision:
    blob, _ = Blob.objects.get_or_create(
        pk=content * 64, defaults={"keccak256": content * 64, "size": 7, "name": f"blobs/{content}"}
    )
    return revisions.add(
        model, {"model.safetensors": blob}, kind=RevisionKind.ADAPTER if base else RevisionKind.FULL,
        family=Family.CAUSAL, source=Source.UPLOAD, base=base,
    )  # fmt: skip


@pytest.fixture
def model(alice: Any) -> Model:
    found = Model.objects.create(name="alice/tiny", owner=alice)
    revision(found)
    return found


def say(
    node: Node, model: Model, state: str, *, of: Revision | None = None, reason: str = "", now: datetime = NOW
) -> None:
    digest = (of or model.revision).digest  # type: ignore[union-attr]
    hosting.heard(
        node.pk, [{"model": model.name, "revision": digest, "state": state, "reason": reason}], now=now
    )


def hosts(model: Model) -> list[tuple[str, str]]:
    return [(each.node.name, each.state) for each in model.hostings.select_related("node")]


def test_a_node_is_asked_and_says_how_far_it_is(add: Callable[..., Node], model: Model) -> None:
    node = add("one")
    hosting.want(model, now=NOW)
    node.refresh_from_db()
    assert (hosts(model), node.errands) == ([("one", "wanted")], 1)
    (errand,) = hosting.errands(node, now=NOW)
    assert (errand["model"], errand["digest"], errand["base"]) == (model.name, model.revision.digest, None)
    assert errand["files"][0]["url"].startswith("/files/")
    say(node, model, "loading")
    say(node, model, "serving")
    assert hosting.serving_nodes(model) == [node.pk]


def test_wanting_it_again_asks_nobody_else(add: Callable[..., Node], model: Model) -> None:
    add("one"), add("two")
    hosting.want(model, now=NOW)
    hosting.want(model, now=NOW)
    assert len(hosts(model)) == 1


def test_the_owners_own_node_comes_first_then_one_with_the_base_then_the_emptiest(
    add: Callable[..., Node], model: Model, alice: Any
) -> None:
    base = Model.objects.create(name="base")
    tuned = Model.objects.create(name="alice/lora", owner=alice)
    revision(tuned, "b", base=revision(base, "c"))
    full, empty = add("full"), add("empty")
    Hosting.objects.create(node=full, model=model, revision=model.revision)
    assert hosting.choose(tuned, now=NOW) == empty
    warm = add("warm", bases=["base"])
    Hosting.objects.create(node=warm, model=model, revision=model.revision)
    assert hosting.choose(tuned, now=NOW) == warm
    own = add("own", owner=alice)
    assert hosting.choose(tuned, now=NOW) == own


def test_nodes_that_cannot_are_not_asked(add: Callable[..., Node], model: Model) -> None:
    add("embeds", families=["embedding"])
    add("adapters", full=False)
    add("nothing", most=0)
    Offer.objects.create(node=add("namesake"), model=model.name)
    Node.objects.filter(pk=add("away").pk).update(state=NodeState.SILENT)
    Node.objects.filter(pk=add("answers only").pk).update(hosting=None)
    assert hosting.want(model, now=NOW) is None
    model.refresh_from_db()
    assert model.is_hosted  # a sweep goes on looking
    add("at last")
    assert hosting.sweep(now=NOW) == 1
    assert hosts(model) == [("at last", "wanted")]


def test_a_servers_adapters_need_the_base_that_it_was_started_with(
    add: Callable[..., Node], alice: Any
) -> None:
    tuned = Model.objects.create(name="alice/lora", owner=alice)
    revision(tuned, "b", base=revision(Model.objects.create(name="base"), "c"))
    add("other", engine="vllm", full=False, bases=["llama"])
    assert hosting.want(tuned, now=NOW) is None
    add("right", engine="vllm", full=False, bases=["base"])
    hosting.want(tuned, now=NOW)
    assert hosts(tuned) == [("right", "wanted")]
    (errand,) = hosting.errands(Node.objects.get(name="right"), now=NOW)
    assert (errand["kind"], errand["base"]["model"]) == ("adapter", "base")


def test_a_reserved_node_is_not_asked_and_what_it_hosted_moves(
    add: Callable[..., Node], model: Model, alice: Any
) -> None:
    from gpus.models import Allocation, Lease

    node = add("one")
    hosting.want(model, now=NOW)
    allocation = Allocation.objects.create(
        client=alice, gpu_count=1, created_at=NOW, expires_at=NOW + timedelta(hours=1), task_type="inference"
    )
    Lease.objects.create(
        allocation=allocation, node=node, node_name="one", provider=node.owner, gpus=1, hour_price=0, fee_bps=0,
        started_at=NOW, paid_until=NOW, expires_at=NOW + timedelta(hours=1),
    )  # fmt: skip
    add("two")
    hosting.sweep(now=NOW)
    assert hosts(model) == [("two", "wanted")]


def test_a_node_that_is_gone_is_replaced(add: Callable[..., Node], model: Model) -> None:
    one = add("one")
    hosting.want(model, now=NOW)
    say(one, model, "serving")
    Node.objects.filter(pk=one.pk).update(state=NodeState.SILENT, state_since=NOW)
    add("two")
    assert hosting.sweep(now=NOW + timedelta(seconds=5)) == 0  # it may be back in a moment
    assert hosting.sweep(now=NOW + timedelta(seconds=30)) == 1
    assert hosts(model) == [("two", "wanted")]


def test_a_node_that_failed_is_not_asked_again_for_a_while(add: Callable[..., Node], model: Model) -> None:
    one = add("one")
    hosting.want(model, now=NOW)
    say(one, model, "failed", reason="It is out of memory.")
    assert hosting.errands(one, now=NOW) == []
    assert hosting.sweep(now=NOW) == 0
    assert hosts(model) == [("one", "failed")]
    add("two")
    assert hosting.sweep(now=NOW) == 1
    assert hosts(model) == [("one", "failed"), ("two", "wanted")]
    hosting.drop(model)
    Node.objects.filter(name="two").delete()
    model.is_hosted = True
    model.save()
    assert hosting.sweep(now=NOW + hosting.NOT_AGAIN_FOR * 2) == 1


def test_a_node_that_does_not_get_on_with_it_is_given_up(add: Callable[..., Node], model: Model) -> None:
    add("one")
    hosting.want(model, now=NOW)
    add("two")
    assert hosting.sweep(now=NOW + hosting.BEGINS_WITHIN * 2) == 1
    assert hosts(model) == [("one", "failed"), ("two", "wanted")]


def test_the_old_revision_is_served_until_the_new_one_is(add: Callable[..., Node], model: Model) -> None:
    node = add("one")
    hosting.want(model, now=NOW)
    old = model.revision
    say(node, model, "serving", of=old)
    new = revision(model, "d")
    hosting.want(model, now=NOW)
    (errand,) = hosting.errands(node, now=NOW)
    assert (errand["digest"], errand["state"]) == (new.digest, "wanted")
    say(node, model, "loading", of=new)
    assert Hosting.objects.get().revision == old
    assert Hosting.objects.get().state == HostingState.SERVING
    assert hosting.serving_nodes(model) == []
    say(node, model, "serving", of=new)
    assert Hosting.objects.get().revision == new
    assert hosting.serving_nodes(model) == [node.pk]


def test_what_it_was_not_asked_for_is_not_heard(add: Callable[..., Node], model: Model) -> None:
    one, two = add("one"), add("two")
    hosting.want(model, now=NOW)
    say(two, model, "serving")
    assert hosts(model) == [("one", "wanted")]
    hosting.heard(
        one.pk, [{"model": model.name, "revision": "0" * 64, "state": "serving", "reason": ""}], now=NOW
    )
    assert hosts(model) == [("one", "wanted")]


def test_a_node_that_is_suspended_is_told_of_no_files(add: Callable[..., Node], model: Model) -> None:
    node = add("one")
    hosting.want(model, now=NOW)
    Node.objects.filter(pk=node.pk).update(suspended_at=NOW)
    assert hosting.errands(Node.objects.get(pk=node.pk), now=NOW) == []


def test_dropped_it_is_wanted_no_longer(add: Callable[..., Node], model: Model) -> None:
    node = add("one")
    hosting.want(model, now=NOW)
    assert hosting.drop(model) == 1
    model.refresh_from_db()
    node.refresh_from_db()
    assert (model.is_hosted, node.errands, hosting.errands(node, now=NOW)) == (False, 2, [])
    assert hosting.sweep(now=NOW) == 0


def test_one_that_nobody_asks_makes_room_and_the_next_request_brings_it_back(
    add: Callable[..., Node], model: Model, alice: Any
) -> None:
    node = add("one", most=1)
    hosting.want(model, now=NOW - timedelta(hours=1))
    say(node, model, "serving", now=NOW - timedelta(hours=1))
    other = Model.objects.create(name="alice/other", owner=alice)
    revision(other, "b")

    assert hosting.want(other, now=NOW) is not None
    model.refresh_from_db()
    assert (model.rests_since, model.is_hosted) == (NOW, True)
    assert list(Hosting.objects.values_list("model__name", flat=True)) == ["alice/other"]

    # It is asked for: the other one, of which nothing was heard since, has to go.
    later = NOW + hosting.IDLE_AFTER * 2
    hosting.used(["alice/tiny"], now=later)
    assert list(Hosting.objects.values_list("model__name", flat=True)) == ["alice/tiny"]
    model.refresh_from_db()
    assert (model.rests_since, model.used_at) == (None, later)


@pytest.mark.parametrize(
    ("kind", "unused", "gone"),
    [
        ("full", timedelta(minutes=5), False),
        ("full", None, True),
        ("adapter", timedelta(minutes=5), True),
        ("adapter", timedelta(seconds=20), False),
        ("adapter", None, True),
    ],
)
def test_what_is_brought_back_quickly_goes_sooner_and_what_nobody_ever_asked_at_once(
    add: Callable[..., Node], model: Model, alice: Any, kind: str, unused: timedelta | None, gone: bool
) -> None:
    node = add("one", most=1)
    asked = NOW - timedelta(seconds=15) if unused is None else NOW - timedelta(hours=1)
    hosting.want(model, now=asked)
    say(node, model, "serving", now=asked)
    if unused is not None:
        hosting.used([model.name], now=NOW - unused)
    Revision.objects.filter(model=model).update(kind=kind)
    other = Model.objects.create(name="alice/other", owner=alice)
    revision(other, "b")
    assert (hosting.want(other, now=NOW) is not None) is gone


def test_one_that_is_asked_keeps_its_room(add: Callable[..., Node], model: Model, alice: Any) -> None:
    add("one", most=1)
    hosting.want(model, now=NOW - timedelta(hours=1))
    hosting.used([model.name], now=NOW - timedelta(minutes=1))
    other = Model.objects.create(name="alice/other", owner=alice)
    revision(other, "b")
    assert hosting.want(other, now=NOW) is None
    assert list(Hosting.objects.values_list("model__name", flat=True)) == ["alice/tiny"]
