"""`/v1/models`, `/ai/models`, `/llm_models/all-models/`."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from inference.models import Model

LISTS = ["/v1/models", "/ai/models", "/llm_models/all-models/"]


@pytest.fixture(autouse=True)
def _catalogue(alice: Any) -> None:
    Model.objects.create(name="org/toy", title="Toy", framework="transformers", version="1")
    Model.objects.create(name="alices", owner=alice)
    Model.objects.create(name="hidden", hidden=True)


def test_openais_list(alice: Any, api: Any) -> None:
    body = api(alice).get("/v1/models").json()

    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["org/toy", "alices"]
    assert body["data"][1] == {
        "id": "alices",
        "object": "model",
        "created": body["data"][1]["created"],
        "owned_by": "alice",
        "kinds": [],
        "context_length": None,
        "available": False,
        "pricing": None,
    }
    assert isinstance(body["data"][0]["created"], int)


@pytest.mark.parametrize("path", ["org/toy", "org%2Ftoy", "org/toy/"])
def test_a_model_whose_id_holds_a_slash_is_read(alice: Any, api: Any, path: str) -> None:
    assert api(alice).get(f"/v1/models/{path}").json()["id"] == "org/toy"


@pytest.mark.parametrize("name", ["org/toyy", "hidden", "%00", "x" * 5000, "%F0%9F%92%A5"])
def test_an_unknown_model_is_openais_error(alice: Any, api: Any, name: str) -> None:
    reply = api(alice).get(f"/v1/models/{name}")

    assert reply.status_code == 404
    error = reply.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )


def test_a_similar_name_is_suggested(alice: Any, api: Any) -> None:
    assert "'org/toy'" in api(alice).get("/v1/models/org/toyy").json()["error"]["message"]


def test_somebody_elses_model_does_not_exist(charlie: Any, api: Any) -> None:
    assert api(charlie).get("/v1/models/alices").status_code == 404
    for url in LISTS:
        assert "alices" not in api(charlie).get(url).content.decode()


def test_omnitensors_list_is_a_bare_array_in_pages(alice: Any, api: Any) -> None:
    reply = api(alice).get("/ai/models", {"limit": 1})

    assert reply["X-Total-Count"] == "2"
    [model] = reply.json()
    assert (model["model_id"], model["model_name"]) == ("org/toy", "Toy")
    assert (model["framework"], model["version"]) == ("transformers", "1")
    assert model["created_at"]
    assert api(alice).get("/ai/models", {"offset": 1}).json()[0]["model_id"] == "alices"


@pytest.mark.parametrize("query", ["limit=101", "limit=x", "offset=-1"])
def test_a_page_that_cannot_be_is_omnitensors_error(alice: Any, api: Any, query: str) -> None:
    reply = api(alice).get(f"/ai/models?{query}")

    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "INVALID_REQUEST"


def test_the_documents_list_of_models(charlie: Any, api: Any) -> None:
    assert api(charlie).get("/llm_models/all-models/").json() == [
        {
            "model_id": "org/toy",
            "name": "Toy",
            "description": "",
            "min_gpu_memory": None,
            "is_available": False,
            "pricing": None,
        }
    ]


@pytest.mark.parametrize("url", [*LISTS, "/v1/models/org/toy"])
def test_nobody_is_let_in_without_a_credential(url: str) -> None:
    reply = APIClient().get(url)

    assert reply.status_code == 401
    assert reply["WWW-Authenticate"] == "Token"


@pytest.mark.parametrize("url", LISTS)
def test_the_slash_at_the_end_may_be_there_or_not(alice: Any, api: Any, url: str) -> None:
    other = url.removesuffix("/") if url.endswith("/") else f"{url}/"

    assert api(alice).get(other).status_code == 200
    assert api(alice).post(url).status_code == 405


def test_an_api_key_sees_only_the_models_that_it_may_use(alice: Any) -> None:
    from clients.credentials import digest
    from clients.models import ApiKey

    ApiKey.objects.create(
        client=alice,
        name="k",
        prefix="sk-x",
        digest=digest("sk-x"),
        secret_digest="x",
        allowed_models=["alices"],
    )
    client = APIClient(HTTP_AUTHORIZATION="Bearer sk-x")

    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["alices"]
    assert client.get("/v1/models/org/toy").status_code == 404
