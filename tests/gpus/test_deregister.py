"""`/llm_models/deregister/`."""

from typing import Any

import pytest

from gpus.models import Node

URL = "/llm_models/deregister/"
MISSING = {"error": "node_token is required for de-registration."}


@pytest.fixture
def token(bob: Any, join: Any) -> str:
    return str(join(bob).token)


def test_the_documents_client_takes_its_node_away(api: Any, token: str, announced: Any) -> None:
    with announced() as said:
        reply = api().delete(URL, {"node_token": token})

    assert reply.status_code == 204
    assert not Node.objects.exists()
    assert {topic for topic, _ in said} == {"credentials", "nodes"}


def test_the_token_may_come_in_the_query(api: Any, token: str) -> None:
    assert api().delete(f"{URL}?node_token={token}").status_code == 204


@pytest.mark.parametrize("scheme", ["Token", "Bearer"])
def test_the_token_may_come_in_the_header(api: Any, token: str, scheme: str) -> None:
    assert api().delete(URL, HTTP_AUTHORIZATION=f"{scheme} {token}").status_code == 204


def test_the_body_counts_where_the_account_is_in_the_header(api: Any, token: str) -> None:
    assert (
        api().delete(URL, {"node_token": token}, HTTP_AUTHORIZATION="Token of-an-account").status_code == 204
    )


@pytest.mark.parametrize(
    "body", [None, {}, {"node_token": ""}, {"node_token": None}, {"node_token": 7}, [], {"node_token": []}]
)
def test_a_missing_token_is_answered_with_the_exact_sentence(db: None, api: Any, body: Any) -> None:
    reply = api().delete(URL, body)

    assert (reply.status_code, reply.json()) == (400, MISSING)


def test_an_unknown_token_is_not_found(api: Any, token: str) -> None:
    assert api().delete(URL, {"node_token": "x" * 43}).status_code == 404
    assert api().delete(URL, {"node_token": "\0"}).status_code == 404
    assert Node.objects.count() == 1


def test_a_token_works_once(api: Any, token: str) -> None:
    api().delete(URL, {"node_token": token})

    assert api().delete(URL, {"node_token": token}).status_code == 404


def test_what_the_node_answered_stays_on_record(alice: Any, api: Any, operator: Any, token: str) -> None:
    from inference.models import Inference

    node = Node.objects.get()
    record = Inference.objects.create(client=alice, kind="chat", desired_model="toy", node=node)

    api().delete(URL, {"node_token": token})

    found = Inference.objects.select_related("node").get(pk=record.pk)
    assert (found.node_id, found.node) == (node.pk, None)
    assert Inference.objects.filter(node__name="x").count() == 0
    assert api(alice).get(f"/inference/{record.pk}/").status_code == 200
    assert api(alice).get("/inference/").status_code == 200


@pytest.mark.parametrize("page", ["", "{pk}/change/", "?node__id__exact={node}", "?q=toy"])
def test_the_admin_shows_what_a_node_answered_that_is_gone(
    alice: Any, client: Any, operator: Any, api: Any, token: str, page: str
) -> None:
    from inference.models import Inference

    node = Node.objects.get()
    record = Inference.objects.create(client=alice, kind="chat", desired_model="toy", node=node)
    api().delete(URL, {"node_token": token})
    client.force_login(operator)

    address = page.format(pk=record.pk, node=node.pk)
    assert client.get(f"/admin/inference/inference/{address}", follow=True).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"\xff"])
def test_a_body_that_cannot_be_read_is_refused(db: None, api: Any, body: bytes) -> None:
    assert api().delete(URL, body, content_type="application/json").status_code == 400
