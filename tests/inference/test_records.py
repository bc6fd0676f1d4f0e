"""`/inference/` and `/inference/{id}/`, but for asking."""

import itertools
from typing import Any

import pytest

from inference.api.inferences import InferenceRequestSerializer
from inference.models import Inference, Status

URL = "/inference/"


@pytest.fixture
def record(alice: Any) -> Inference:
    return Inference.objects.create(
        client=alice,
        face="/inference/",
        kind="chat",
        desired_model="toy",
        question_text="Why?",
        answer_text="Because.",
        status=Status.COMPLETED,
        prompt_tokens=3,
        completion_tokens=2,
    )


def sent(record: Inference, **other: Any) -> dict[str, Any]:
    return {"client": record.client_id, "question_text": "Why not?", "desired_model": "toy", **other}


def test_the_documents_fields_and_what_became_of_it_are_read(alice: Any, api: Any, record: Inference) -> None:
    found = api(alice).get(f"{URL}{record.pk}/").json()

    assert found["id"] == record.pk
    assert (found["client"], found["client_username"]) == (alice.pk, "alice")
    assert (found["question_text"], found["answer_text"], found["desired_model"]) == (
        "Why?",
        "Because.",
        "toy",
    )
    assert (found["status"], found["node"], found["prompt_tokens"]) == ("completed", None, 3)
    assert found["request_id"] == str(record.request_id)
    assert api(alice).get(URL).json() == [found]


def test_the_list_is_filtered_and_paged_newest_first(alice: Any, api: Any, record: Inference) -> None:
    failed = Inference.objects.create(client=alice, kind="chat", desired_model="mini", status=Status.FAILED)

    def ids(**query: Any) -> list[int]:
        return [each["id"] for each in api(alice).get(URL, query).json()]

    assert ids() == [failed.pk, record.pk]
    assert ids(status="failed") == [failed.pk]
    assert ids(model="toy") == [record.pk]
    assert ids(face="/inference/") == [record.pk]
    assert ids(limit=1, offset=1) == [record.pk]
    assert api(alice).get(URL, {"limit": 1})["X-Total-Count"] == "2"


@pytest.mark.parametrize("query", ["status=done", "model=%00", "model=" + "x" * 256, "limit=0", "face=%00"])
def test_a_filter_that_cannot_be_is_refused(alice: Any, api: Any, query: str) -> None:
    assert api(alice).get(f"{URL}?{query}").status_code == 400


def test_the_text_is_changed_but_nothing_it_is_metered_by(alice: Any, api: Any, record: Inference) -> None:
    url = f"{URL}{record.pk}/"

    replaced = api(alice).put(url, sent(record, client=str(alice.pk)))
    assert (replaced.status_code, replaced.json()["question_text"]) == (200, "Why not?")
    assert api(alice).patch(url, {"question_text": "Who?", "prompt_tokens": 0}).json()["prompt_tokens"] == 3
    record.refresh_from_db()
    assert (record.question_text, record.prompt_tokens) == ("Who?", 3)


def test_another_model_is_a_conflict(alice: Any, api: Any, record: Inference) -> None:
    reply = api(alice).put(f"{URL}{record.pk}/", sent(record, desired_model="other"))

    assert (reply.status_code, reply.json()["code"]) == (409, "model_is_fixed")


def test_a_record_cannot_be_given_away(alice: Any, charlie: Any, api: Any, record: Inference) -> None:
    assert api(alice).patch(f"{URL}{record.pk}/", {"client": charlie.pk}).status_code == 403


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(
            ["client", "question_text", "desired_model"], ["", " ", None, [], {}, "a\0b", True, "missing"]
        ),
        *itertools.product(["client"], [-1, 0, 10**30, "1e3", "x"]),
        ("desired_model", "x" * 256),
    ],
)
def test_a_wrong_field_is_named(alice: Any, api: Any, record: Inference, field: str, value: Any) -> None:
    body = sent(record, **{field: value})
    if value == "missing":
        del body[field]

    reply = api(alice).put(f"{URL}{record.pk}/", body)

    assert reply.status_code == 400
    assert list(reply.json()) == [field]


def test_deleting_takes_the_texts_and_keeps_what_is_metered(alice: Any, api: Any, record: Inference) -> None:
    assert api(alice).delete(f"{URL}{record.pk}/").status_code == 204

    assert api(alice).get(f"{URL}{record.pk}/").status_code == 404
    assert api(alice).get(URL).json() == []
    record.refresh_from_db()
    assert (record.question_text, record.answer_text, record.prompt_tokens) == ("", "", 3)
    assert record.deleted_at is not None


def test_what_runs_cannot_be_deleted(alice: Any, api: Any, record: Inference) -> None:
    Inference.objects.update(status=Status.RUNNING)

    assert api(alice).delete(f"{URL}{record.pk}/").status_code == 409


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_a_stranger_does_not_find_it(charlie: Any, api: Any, record: Inference, method: str) -> None:
    assert getattr(api(charlie), method)(f"{URL}{record.pk}/").status_code == 404
    assert api(charlie).get(URL).json() == []


def test_an_operator_sees_everybodys(operator: Any, api: Any, record: Inference) -> None:
    assert len(api(operator).get(URL).json()) == 1


def test_nobody_is_let_in_without_a_credential(api: Any, record: Inference) -> None:
    assert api().get(URL).status_code == 401
    assert api().delete(f"{URL}{record.pk}/").status_code == 401


@pytest.mark.parametrize("id_", ["99999999", "9" * 19, "9" * 30, "abc", "-1", "%00"])
def test_what_is_no_record_is_not_found(alice: Any, api: Any, id_: str) -> None:
    assert api(alice).get(f"{URL}{id_}/").status_code == 404


def test_a_list_takes_few_queries_however_long(
    alice: Any, api: Any, django_assert_max_num_queries: Any
) -> None:
    Inference.objects.bulk_create(
        Inference(client=alice, kind="chat", desired_model="toy") for _ in range(30)
    )

    with django_assert_max_num_queries(3):
        assert len(api(alice).get(URL).json()) == 30


def test_a_question_is_checked_without_a_database() -> None:
    asked = InferenceRequestSerializer(
        data={"client": "12", "question_text": " Why? \n", "desired_model": "org/toy"}
    )

    assert asked.is_valid()
    assert asked.validated_data == {"client": 12, "question_text": " Why? \n", "desired_model": "org/toy"}
