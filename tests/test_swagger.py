"""Swagger, Redoc, and what Django says where there is nothing."""

import re
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.db import OperationalError, connection
from django.test import Client as Browser

from inference import catalogue

pytestmark = pytest.mark.django_db

# Path and method: what the API documents ask for, and where it is answered.
HOT = [
    ("/v1/chat/completions", "post"),
    ("/v1/completions", "post"),
    ("/v1/embeddings", "post"),
    ("/inference/", "post"),
    ("/inference/stream/", "post"),
    ("/ai/models/{model_id}/inference", "post"),
    ("/llm_models/heartbeat/", "post"),
]
DOCUMENTED = [
    ("/gpu/list/", "get", 200),
    ("/gpu/list/", "post", 201),
    ("/gpu/list/{id}/", "get", 200),
    ("/gpu/list/{id}/", "put", 200),
    ("/gpu/list/{id}/", "patch", 200),
    ("/gpu/list/{id}/", "delete", 204),
    ("/inference/", "get", 200),
    ("/inference/", "post", 201),
    ("/inference/stream/", "post", 201),
    ("/inference/{id}/", "get", 200),
    ("/inference/{id}/", "put", 200),
    ("/inference/{id}/", "patch", 200),
    ("/inference/{id}/", "delete", 204),
    ("/llm_models/all-models/", "get", 200),
    ("/llm_models/register/", "post", 201),
    ("/llm_models/deregister/", "delete", 204),
    ("/ai/models", "get", 200),
    ("/data/upload", "post", 201),
    ("/data/{dataset_id}/metadata", "get", 200),
    ("/v1/models", "get", 200),
    ("/v1/models/{model}", "get", 200),
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = Browser().get("/swagger.json").json()
    return found


def operations(document: dict[str, Any]) -> Any:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                yield path, method, operation


@pytest.mark.parametrize("url", ["/swagger/", "/redoc/", "/swagger.json", "/swagger.yaml", "/healthz"])
def test_everybody_may_read_it(url: str) -> None:
    assert Browser().get(url, HTTP_AUTHORIZATION="Token nonsense").status_code == 200


@pytest.mark.parametrize("url", ["/swagger/", "/redoc/"])
def test_nothing_is_fetched_from_elsewhere(url: str) -> None:
    page = Browser().get(url).content.decode()
    local = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)

    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert local
    assert all(finders.find(asset.removeprefix("/static/")) for asset in local)


@pytest.mark.parametrize(("path", "method", "status"), DOCUMENTED)
def test_the_documents_endpoints_answer_as_documented(
    document: dict[str, Any], path: str, method: str, status: int
) -> None:
    assert str(status) in document["paths"][path][method]["responses"]


@pytest.mark.parametrize(("path", "method"), HOT)
def test_the_hot_path_is_documented_whole(document: dict[str, Any], path: str, method: str) -> None:
    operation = document["paths"][path][method]

    assert {"400", "404", "413", "503"} <= operation["responses"].keys()
    assert [each["name"] for each in operation["parameters"] if each["in"] == "body"] == ["data"]


def test_each_operation_has_its_own_id(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(ids) == len(set(ids))


def test_every_error_has_the_shape_of_its_api(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400:
                continue
            shape = answer["schema"].get("properties", {})
            wanted = (
                "error"
                if path.startswith(("/v1", "/ai/", "/auth/", "/account/", "/compute/", "/data"))
                else "detail"
            )
            assert wanted in shape, (path, method, status)


def test_what_needs_a_credential_says_so(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        open_to_all = operation.get("security") == []
        assert ("401" in operation["responses"]) or open_to_all or "deregister" in path, (path, method)


def test_a_path_is_shown_by_one_spelling(document: dict[str, Any]) -> None:
    bare = [path.rstrip("/") for path in document["paths"]]

    assert len(bare) == len(set(bare))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/nothing", "detail"),
        ("/v1/nothing", "error"),
        ("/ai/nothing", "error"),
        ("/%00", "detail"),
        ("/%ff", "detail"),
    ],
)
def test_where_there_is_nothing_the_error_has_the_shape_of_the_api(path: str, key: str) -> None:
    reply = Browser().get(path)

    assert reply.status_code == 404
    assert next(iter(reply.json())) == key


def test_a_view_that_breaks_says_nothing_of_the_inside(alice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(catalogue, "load", breaks)
    browser = Browser(raise_request_exception=False)
    browser.force_login(alice)

    reply = browser.get("/v1/models")

    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert "inside" not in reply.content.decode()


def test_home_leads_to_the_documentation() -> None:
    assert Browser().get("/").headers["Location"] == "/swagger/"


def test_health_says_when_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise OperationalError

    monkeypatch.setattr(connection, "ensure_connection", away)

    assert Browser().get("/healthz").status_code == 503
