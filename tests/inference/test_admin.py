from typing import Any

import pytest
from django.db import connection
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext

from inference.models import Inference, Model, Status

# What the page sends along of the rows beneath a model.
EMPTY = {f"{rows}-{part}_FORMS": "0" for rows in ("revisions", "hostings") for part in ("TOTAL", "INITIAL")}
CHANGELIST = "/admin/inference/inference/"


@pytest.fixture
def browser(operator: Any) -> Browser:
    found = Browser()
    found.force_login(operator)
    return found


@pytest.fixture
def record(alice: Any) -> Inference:
    return Inference.objects.create(
        client=alice,
        face="/inference/",
        kind="chat",
        desired_model="toy",
        status=Status.FAILED,
        code="node_failed",
        reason="The node hung up.",
    )


@pytest.mark.parametrize("by", ["id", "request_id", "user", "email", "model"])
def test_a_request_is_found_with_its_reason(browser: Browser, record: Inference, by: str) -> None:
    terms = {
        "id": record.pk,
        "request_id": record.request_id,
        "user": "Alice",
        "email": "alice@example.com",
        "model": "toy",
    }

    assert "The node hung up." in browser.get(CHANGELIST, {"q": terms[by]}).content.decode()


@pytest.mark.parametrize("term", ["nothing", "9" * 18, "9" * 40, "%", "💥"])
def test_a_search_may_find_nothing(browser: Browser, record: Inference, term: str) -> None:
    page = browser.get(CHANGELIST, {"q": term})

    assert page.status_code == 200
    assert "The node hung up." not in page.content.decode()


@pytest.mark.parametrize(
    "query",
    [
        {"status__exact": "failed"},
        {"face": "/inference"},
        {"kind__exact": "chat"},
        {"created_at__gte": "2020-01-01 00:00:00+00:00"},
    ],
)
def test_filters_find_it(browser: Browser, record: Inference, query: dict[str, str]) -> None:
    assert "The node hung up." in browser.get(CHANGELIST, query).content.decode()


def test_filters_leave_out_the_rest(browser: Browser, record: Inference) -> None:
    for query in ({"status__exact": "completed"}, {"face": "/v1/embeddings"}, {"node__id__exact": "1"}):
        assert "The node hung up." not in browser.get(CHANGELIST, query).content.decode()


def test_the_list_counts_nothing(browser: Browser, record: Inference) -> None:
    with CaptureQueriesContext(connection) as queries:
        browser.get(CHANGELIST)

    assert not [
        query for query in queries if "COUNT" in query["sql"] and "inference_inference" in query["sql"]
    ]


def test_a_request_can_be_read_but_not_changed(browser: Browser, record: Inference) -> None:
    page = browser.get(f"{CHANGELIST}{record.pk}/change/")

    assert "node_failed" in page.content.decode()
    assert browser.post(f"{CHANGELIST}{record.pk}/change/", {"status": "completed"}).status_code == 403
    assert browser.post(f"{CHANGELIST}{record.pk}/delete/", {"post": "yes"}).status_code == 403


def test_a_model_is_hidden(browser: Browser) -> None:
    model = Model.objects.create(name="toy")
    assert "toy" in browser.get("/admin/inference/model/").content.decode()

    reply = browser.post(
        f"/admin/inference/model/{model.pk}/change/", {"name": "toy", "hidden": "on", **EMPTY}
    )

    assert reply.status_code == 302
    assert Model.objects.get().hidden
