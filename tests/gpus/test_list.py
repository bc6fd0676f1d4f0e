"""`/gpu/list/`."""

from typing import Any

import pytest

from gpus.models import Gpu

URL = "/gpu/list/"


@pytest.fixture
def record(bob: Any, hardware: dict[str, str]) -> Gpu:
    return Gpu.objects.create(user=bob, **hardware)


def test_the_documents_client_makes_a_record_and_reads_it(
    bob: Any, api: Any, hardware: dict[str, str]
) -> None:
    made = api(bob).post(URL, {**hardware, "user": bob.pk})

    assert made.status_code == 201
    assert made.json() == {**hardware, "id": made.json()["id"], "user": bob.pk}
    assert api(bob).get(f"{URL}{made.json()['id']}/").json() == made.json()
    assert api(bob).get(URL).json() == [made.json()]


def test_numbers_are_taken_as_texts_and_the_user_as_digits(
    bob: Any, api: Any, hardware: dict[str, str]
) -> None:
    sent = {**hardware, "cpu_core": 16, "ram": 64.5, "user": str(bob.pk)}

    made = api(bob).post(URL, sent).json()

    assert (made["cpu_core"], made["ram"], made["user"]) == ("16", "64.5", bob.pk)


@pytest.mark.parametrize("field", ["gpu_info", "cpu_core", "ram", "os_version", "user"])
@pytest.mark.parametrize("value", ["", None, [], {}, "\0", True, "missing"])
def test_a_wrong_field_is_named(bob: Any, api: Any, hardware: dict[str, str], field: str, value: Any) -> None:
    sent: dict[str, Any] = {**hardware, "user": bob.pk, field: value}
    if value == "missing":
        del sent[field]

    reply = api(bob).post(URL, sent)

    assert reply.status_code == 400
    assert list(reply.json()) == [field]


def test_a_record_is_replaced_patched_and_deleted(
    bob: Any, api: Any, record: Gpu, hardware: dict[str, str]
) -> None:
    url = f"{URL}{record.pk}/"

    assert api(bob).put(url, {**hardware, "os_name": "BSD", "user": bob.pk}).json()["os_name"] == "BSD"
    assert api(bob).patch(url, {"ram": 128}).json()["ram"] == "128"
    assert Gpu.objects.get().ram == "128"
    assert api(bob).delete(url).status_code == 204
    assert api(bob).get(url).status_code == 404


def test_a_record_for_somebody_else_is_refused(
    bob: Any, alice: Any, api: Any, hardware: dict[str, str]
) -> None:
    assert api(bob).post(URL, {**hardware, "user": alice.pk}).status_code == 403


def test_a_record_cannot_be_given_away(bob: Any, alice: Any, api: Any, record: Gpu) -> None:
    assert api(bob).patch(f"{URL}{record.pk}/", {"user": alice.pk}).status_code == 403
    assert Gpu.objects.get().user == bob


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_a_stranger_does_not_find_it(charlie: Any, api: Any, record: Gpu, method: str) -> None:
    assert getattr(api(charlie), method)(f"{URL}{record.pk}/").status_code == 404
    assert api(charlie).get(URL).json() == []


def test_an_operator_sees_all_and_acts_for_anybody(
    operator: Any, alice: Any, api: Any, record: Gpu, hardware: dict[str, str]
) -> None:
    assert [each["id"] for each in api(operator).get(URL).json()] == [record.pk]
    assert api(operator).post(URL, {**hardware, "user": alice.pk}).json()["user"] == alice.pk
    assert api(operator).post(URL, {**hardware, "user": 10**12}).status_code == 400


@pytest.mark.parametrize("method", ["get", "post"])
def test_nobody_is_let_in_without_a_credential(db: None, api: Any, method: str) -> None:
    reply = getattr(api(), method)(URL)

    assert reply.status_code == 401
    assert not reply["WWW-Authenticate"].lower().startswith("basic")


@pytest.mark.parametrize("id_", ["99999", "9999999999999999999", "9" * 40, "0", "abc", "-1", "1.5", "%00"])
def test_what_is_no_record_is_not_found(bob: Any, api: Any, id_: str) -> None:
    assert api(bob).get(f"{URL}{id_}/").status_code == 404


def test_pages_are_bare_arrays_with_the_total_in_a_header(
    bob: Any, api: Any, hardware: dict[str, str]
) -> None:
    for _ in range(3):
        Gpu.objects.create(user=bob, **hardware)

    reply = api(bob).get(URL, {"limit": 1, "offset": 1})

    assert len(reply.json()) == 1
    assert reply["X-Total-Count"] == "3"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=1001", "limit=", "offset=-1", "offset=1e9", "limit=%00"]
)
def test_a_page_that_cannot_be_is_refused(bob: Any, api: Any, query: str) -> None:
    assert api(bob).get(f"{URL}?{query}").status_code == 400


@pytest.mark.parametrize(
    "body", [b"[]", b"1", b"null", b'"x"', b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'"\\ud800"']
)
def test_a_body_that_is_no_object_is_refused(bob: Any, api: Any, body: bytes) -> None:
    assert api(bob).post(URL, body, content_type="application/json").status_code == 400


def test_only_json_is_taken_and_only_known_methods(bob: Any, api: Any) -> None:
    assert api(bob).post(URL, "x", content_type="text/plain").status_code == 415
    refused = api(bob).delete(URL)
    assert refused.status_code == 405
    assert "GET" in refused["Allow"]


def test_the_slash_at_the_end_may_be_left_out(bob: Any, api: Any, record: Gpu) -> None:
    assert api(bob).get("/gpu/list").status_code == 200
    assert api(bob).patch(f"/gpu/list/{record.pk}", {"ram": "1"}).status_code == 200


def test_it_is_json_whatever_the_client_says_it_accepts(bob: Any, api: Any) -> None:
    assert api(bob).get(URL, HTTP_ACCEPT="text/html").status_code == 200
