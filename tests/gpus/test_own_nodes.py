"""`/llm_models/nodes/`."""

from typing import Any

import pytest
from django.utils import timezone

from gpus.models import Node

URL = "/llm_models/nodes/"


@pytest.fixture
def node(bob: Any, join: Any, connect: Any) -> Node:
    found: Node = join(bob, "toy", now=timezone.now()).node
    connect(found, timezone.now())
    return found


def test_a_provider_sees_the_state_the_reason_and_the_fix(bob: Any, api: Any, node: Node) -> None:
    found = api(bob).get(f"{URL}{node.pk}/").json()

    assert (found["state"], found["takes_work"], found["fix"]) == ("online", True, "")
    assert found["reason"]
    assert found["heartbeat"]["active_requests"] == 0
    assert [model["name"] for model in found["models"]] == ["toy"]
    assert "token_digest" not in found


def test_the_state_is_that_of_the_moment_not_of_the_row(bob: Any, api: Any, node: Node) -> None:
    Node.objects.filter(pk=node.pk).update(maintenance=True, state="online")

    assert api(bob).get(URL).json()[0]["state"] == "maintenance"


def test_a_provider_drains_and_resumes(bob: Any, api: Any, node: Node) -> None:
    drained = api(bob).post(f"{URL}{node.pk}/drain/")
    assert (drained.status_code, drained.json()["state"]) == (200, "draining")
    assert api(bob).post(f"{URL}{node.pk}/drain/").json()["state"] == "draining"
    assert api(bob).post(f"{URL}{node.pk}/resume/").json()["state"] == "online"


def test_a_provider_removes_a_node_whose_token_is_lost(bob: Any, api: Any, node: Node) -> None:
    assert api(bob).delete(f"{URL}{node.pk}/").status_code == 204
    assert not Node.objects.exists()


@pytest.mark.parametrize(
    ("method", "path"), [("get", ""), ("delete", ""), ("post", "drain/"), ("post", "resume/")]
)
def test_a_stranger_does_not_find_it(charlie: Any, api: Any, node: Node, method: str, path: str) -> None:
    assert getattr(api(charlie), method)(f"{URL}{node.pk}/{path}").status_code == 404
    assert api(charlie).get(URL).json() == []
    assert Node.objects.get().drain_requested_at is None


def test_an_operator_sees_all(operator: Any, api: Any, node: Node) -> None:
    assert len(api(operator).get(URL).json()) == 1


def test_nobody_is_let_in_without_a_credential(api: Any, node: Node) -> None:
    assert api().get(URL).status_code == 401
    assert api().post(f"{URL}{node.pk}/drain/").status_code == 401


def test_a_list_takes_few_queries_however_long(
    bob: Any, api: Any, join: Any, django_assert_max_num_queries: Any
) -> None:
    for index in range(20):
        join(bob, "a", "b", machine_id=f"m{index}")

    with django_assert_max_num_queries(6):
        assert len(api(bob).get(URL).json()) == 20
