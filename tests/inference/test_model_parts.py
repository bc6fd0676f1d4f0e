"""/ai/models/upload/parts/…: a large model in parts."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from inference.models import Model
from tests import models

URL = "/ai/models/upload/parts"
pytestmark = pytest.mark.django_db


@pytest.fixture
def send(api: Callable[..., Any], alice: Any) -> Callable[..., str]:
    """Begins an upload and sends its content in parts of 100 bytes; its id."""

    def sent(name: str, content: bytes, *, skip: int = -1) -> str:
        client = api(alice)
        sha256 = hashlib.sha256(content).hexdigest()
        begun = client.post(URL, {"name": name, "size": len(content), "sha256": sha256}, format="json")
        assert begun.status_code == 201, begun.content
        upload_id: str = begun.json()["upload_id"]
        for number, at in enumerate(range(0, len(content), 100)):
            if number != skip:
                part = content[at : at + 100]
                reply = client.put(
                    f"{URL}/{upload_id}/{number}", part, content_type="application/octet-stream"
                )
                assert reply.status_code == 200, reply.content
        return upload_id

    return sent


def test_a_zip_in_parts_becomes_a_model(
    api: Callable[..., Any], alice: Any, send: Callable[..., str]
) -> None:
    upload_id = send("model.zip", models.zipped(models.full()))
    reply = api(alice).post(f"{URL}/{upload_id}/complete", {"model_name": "large"}, format="json")
    assert reply.status_code == 201, reply.content
    assert reply.json()["model_id"] == "alice/large"
    again = api(alice).post(f"{URL}/{upload_id}/complete", {"model_name": "large"}, format="json")
    assert (again.status_code, again.json()) == (201, reply.json())
    assert api(alice).get(f"{URL}/{upload_id}").json()["result"] == "alice/large"


def test_a_lost_part_is_named_and_can_be_sent_again(
    api: Callable[..., Any], alice: Any, send: Callable[..., str]
) -> None:
    content = models.zipped(models.full())
    upload_id = send("model.zip", content, skip=1)
    client = api(alice)
    there = client.get(f"{URL}/{upload_id}").json()
    assert there["received_bytes"] == len(content) - 100
    assert 1 not in [part["part_number"] for part in there["parts"]]
    assert (
        client.post(f"{URL}/{upload_id}/complete", {"model_name": "large"}, format="json").status_code == 400
    )
    client.put(f"{URL}/{upload_id}/1", content[100:200], content_type="application/octet-stream")
    assert (
        client.post(f"{URL}/{upload_id}/complete", {"model_name": "large"}, format="json").status_code == 201
    )


def test_files_that_came_by_themselves_are_put_together(
    api: Callable[..., Any], alice: Any, send: Callable[..., str]
) -> None:
    first, *others = [send(name, content) for name, content in models.embedding().items()]
    body = {"model_name": "vectors", "uploads": others}
    reply = api(alice).post(f"{URL}/{first}/complete", body, format="json")
    assert reply.status_code == 201, reply.content
    paths = Model.objects.get().revision.files.values_list("path", flat=True)
    assert sorted(paths) == sorted(models.embedding())


def test_what_may_not_be_in_a_model_is_refused_before_it_is_sent(api: Callable[..., Any], alice: Any) -> None:
    reply = api(alice).post(URL, {"name": "pytorch_model.bin", "size": 10**9}, format="json")
    assert reply.status_code == 400
    assert "can run code" in reply.json()["error"]["message"]


def test_an_upload_can_be_called_off(api: Callable[..., Any], alice: Any, send: Callable[..., str]) -> None:
    upload_id = send("model.zip", b"x" * 50)
    assert api(alice).delete(f"{URL}/{upload_id}").status_code == 204
    assert (
        api(alice).post(f"{URL}/{upload_id}/complete", {"model_name": "x"}, format="json").status_code == 409
    )


def test_it_is_the_senders_alone(
    api: Callable[..., Any], charlie: Any, bob: Any, send: Callable[..., str]
) -> None:
    upload_id = send("model.zip", b"x" * 50)
    client = api(charlie)
    assert client.get(f"{URL}/{upload_id}").status_code == 404
    assert client.delete(f"{URL}/{upload_id}").status_code == 404
    assert (
        client.put(f"{URL}/{upload_id}/0", b"y", content_type="application/octet-stream").status_code == 404
    )
    assert client.post(f"{URL}/{upload_id}/complete", {"model_name": "x"}, format="json").status_code == 404
    assert api().post(URL, {"name": "model.zip", "size": 1}, format="json").status_code == 401
