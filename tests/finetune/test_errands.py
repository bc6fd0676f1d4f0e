"""/llm_models/errands/: what a node is to do besides answering."""

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from clients import credentials
from gpus.models import Node, NodeState
from inference import hosting
from inference.models import Hosting, Model
from tests.inference.test_hosting import TALENT, revision
from tests.served import HARDWARE

URL = "/llm_models/errands/"
pytestmark = pytest.mark.django_db


@pytest.fixture
def node(bob: Any) -> Node:
    return Node.objects.create(
        owner=bob, machine_id="m", name="one", token_digest=credentials.digest("secret"), state=NodeState.ONLINE,
        hosting=TALENT, **HARDWARE,
    )  # fmt: skip


@pytest.fixture
def model(node: Node, alice: Any) -> Model:
    found = Model.objects.create(name="alice/tiny", owner=alice)
    revision(found)
    hosting.want(found, now=timezone.now())
    return found


def test_a_node_asks_with_its_token(api: Callable[..., Any], model: Model) -> None:
    found = api().get(URL, headers={"authorization": "Bearer secret"}).json()
    assert [each["model"] for each in found["host"]] == ["alice/tiny"]
    assert found["train"] == []


def test_it_says_how_far_it_is(api: Callable[..., Any], model: Model) -> None:
    said = {
        "model": model.name,
        "revision": model.revision.digest,
        "state": "failed",
        "reason": "Out of memory.",
    }
    reply = api().post(URL, {"host": [said]}, format="json", headers={"authorization": "Token secret"})
    assert reply.status_code == 204
    found = Hosting.objects.get()
    assert (found.state, found.reason) == ("failed", "Out of memory.")


@pytest.mark.parametrize(
    "change",
    [{"state": "wanted"}, {"revision": "abc"}, {"model": ""}, {"reason": "x" * 501}, {"reason": "\0"}],
)
def test_nonsense_is_refused(api: Callable[..., Any], model: Model, change: dict[str, str]) -> None:
    said = {"model": model.name, "revision": model.revision.digest, "state": "serving", "reason": ""} | change
    reply = api().post(URL, {"host": [said]}, format="json", headers={"authorization": "Token secret"})
    assert reply.status_code == 400


def test_nobody_else_is_told(api: Callable[..., Any], model: Model, bob: Any) -> None:
    for person in (None, bob):
        assert api(person).get(URL).status_code == 401
    assert api().get(URL, headers={"authorization": "Bearer other"}).status_code == 401
    assert api().post(URL, {}, format="json").status_code == 401
