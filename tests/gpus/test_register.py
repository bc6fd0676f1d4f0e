"""`/llm_models/register/`."""

from typing import Any

import pytest

from clients.credentials import digest
from gpus.models import Node, Offer

URL = "/llm_models/register/"


@pytest.fixture
def said(bob: Any, hardware: dict[str, str]) -> dict[str, Any]:
    """The body of the documents' client: numbers as numbers."""
    numbers = {"cpu_core": 16, "cpu_frequency": 3400, "total_memory": 64, "total_swap": 8, "ram": 64}
    return {"user": bob.pk, "model_name": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", **hardware, **numbers}


def test_the_documents_client_gets_its_token(bob: Any, api: Any, said: dict[str, Any], settings: Any) -> None:
    settings.PUBLIC_URL = "https://market.example.com"

    reply = api(bob).post(URL, said)

    assert reply.status_code == 201
    body = reply.json()
    node = Node.objects.get(pk=body["node_id"])
    assert node.token_digest == digest(body["node_token"])
    assert len(body["node_token"]) >= 40
    assert body["node_token"].isascii()
    assert (node.owner, node.cpu_core) == (bob, "16")
    assert body["connect_url"] == "ws://testserver/llm_models/connect/"
    assert body["heartbeat_interval_s"] == settings.HEARTBEAT_INTERVAL_S
    assert body["minimum_agent_version"] == settings.MINIMUM_AGENT_VERSION
    assert (body["delivery"], body["state"]) == ("pull", "unreachable")
    assert body["reason"]
    assert body["fix"]
    assert body["messages"] == []
    assert body["push_secret"] is None
    offer = Offer.objects.get(node=node)
    assert (offer.model, offer.kinds, offer.concurrency) == (said["model_name"], ["chat", "completion"], 1)


def test_strings_are_taken_too(bob: Any, api: Any, said: dict[str, Any]) -> None:
    strings = {key: str(value) for key, value in said.items()}

    assert api(bob).post(URL, strings).status_code == 201


def test_an_agent_says_more(bob: Any, api: Any, said: dict[str, Any]) -> None:
    del said["model_name"], said["user"]
    models = [{"name": "mini", "kinds": ["embedding"], "context_length": 512, "concurrency": 8}, "toy"]
    more = {
        "machine_id": "m1",
        "name": "attic",
        "region": "eu",
        "agent_version": "0.1.0",
        "engine": "local",
        "gpu_info": "",
    }

    node = Node.objects.get(pk=api(bob).post(URL, {**said, **more, "models": models}).json()["node_id"])

    assert (node.machine_id, node.name, node.region, node.agent_version) == ("m1", "attic", "eu", "0.1.0")
    assert {offer.model: offer.concurrency for offer in Offer.objects.all()} == {"mini": 8, "toy": 1}


def test_the_same_machine_gets_a_new_token(bob: Any, api: Any, said: dict[str, Any]) -> None:
    first, second = (api(bob).post(URL, said).json() for _ in range(2))

    assert first["node_id"] == second["node_id"]
    assert first["node_token"] != second["node_token"]


def test_a_push_url_makes_a_push_node_with_a_secret(
    bob: Any, api: Any, said: dict[str, Any], settings: Any
) -> None:
    settings.ALLOW_PRIVATE_NODE_URLS = True

    body = api(bob).post(URL, {**said, "push_url": "http://127.0.0.1:9000"}).json()

    assert body["delivery"] == "push"
    assert body["push_secret"].startswith("mp-")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "http://169.254.169.254/latest", "ftp://x", "http://localhost:6379"]
)
def test_a_push_url_that_leads_inside_is_refused(bob: Any, api: Any, said: dict[str, Any], url: str) -> None:
    reply = api(bob).post(URL, {**said, "push_url": url})

    assert reply.status_code == 400
    assert list(reply.json()) == ["push_url"]
    assert not Node.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ram", None),
        ("ram", ""),
        ("model_name", None),
        ("models", {}),
        ("models", [{"name": ""}]),
        ("delivery", "pigeon"),
        ("machine_id", "x" * 129),
        ("user", "x"),
        ("name", "a\0b"),
    ],
)
def test_a_wrong_field_is_named(bob: Any, api: Any, said: dict[str, Any], field: str, value: Any) -> None:
    reply = api(bob).post(URL, {**said, field: value})

    assert reply.status_code == 400
    assert list(reply.json()) == [field]


def test_a_field_that_is_missing_is_named(bob: Any, api: Any, said: dict[str, Any]) -> None:
    del said["model_name"], said["ram"]

    assert api(bob).post(URL, said).json().keys() == {"ram"}
    assert api(bob).post(URL, {**said, "ram": 1}).json().keys() == {"model_name"}
    assert api(bob).post(URL, {**said, "ram": 1, "delivery": "push", "model_name": "x"}).json().keys() == {
        "push_url"
    }


def test_a_stranger_waits_for_approval(charlie: Any, api: Any, said: dict[str, Any]) -> None:
    body = api(charlie).post(URL, {**said, "user": charlie.pk}).json()

    assert body["state"] == "pending"
    assert "approve" in body["reason"]
    charlie.refresh_from_db()
    assert charlie.role == "gpu_provider"
    assert not charlie.is_gpu_provider_approved


def test_nobody_registers_for_somebody_else(charlie: Any, api: Any, said: dict[str, Any]) -> None:
    assert api(charlie).post(URL, said).status_code == 403


def test_an_operator_registers_for_a_provider(
    operator: Any, bob: Any, api: Any, said: dict[str, Any]
) -> None:
    assert api(operator).post(URL, said).status_code == 201
    assert Node.objects.get().owner == bob


def test_nobody_is_let_in_without_a_credential(api: Any, said: dict[str, Any]) -> None:
    assert api().post(URL, said).status_code == 401


def test_registering_takes_few_queries(
    bob: Any, api: Any, said: dict[str, Any], django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(30):
        api(bob).post(URL, {**said, "models": [f"m{index}" for index in range(50)]})
