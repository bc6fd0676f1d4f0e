"""/data/upload/parts: a large dataset in parts, taken up again after whatever has come in between."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from clients import uploads
from clients.models import Upload, UploadPart
from finetune import datasets
from finetune.models import Dataset
from tests.finetune.test_data_upload import CHAT

PARTS = "/data/upload/parts"
DIGEST = hashlib.sha256(CHAT).hexdigest()

pytestmark = pytest.mark.django_db


def begin(client: Any, **change: Any) -> str:
    answer = client.post(PARTS, {"name": "talk.jsonl", "size": len(CHAT), "sha256": DIGEST} | change)
    assert answer.status_code == 201, answer.data
    return f"{PARTS}/{answer.json()['upload_id']}"


def send(client: Any, path: str, number: int, content: bytes) -> Any:
    return client.put(f"{path}/{number}", content, content_type="application/octet-stream")


def test_parts_become_a_dataset_in_whatever_order_they_come(api, alice):
    client = api(alice)
    path = begin(client)

    assert send(client, path, 1, CHAT[200:]).status_code == 200
    there = client.get(path).json()
    assert [part["part_number"] for part in there["parts"]] == [1]
    assert (there["received_bytes"], there["size"], there["status"]) == (len(CHAT) - 200, len(CHAT), "open")
    answer = send(client, path, 0, CHAT[:200])
    assert answer.json() == {
        "part_number": 0, "size": 200, "sha256": hashlib.sha256(CHAT[:200]).hexdigest(),
    }  # fmt: skip
    done = client.post(
        f"{path}/complete", {"dataset_name": "talk", "description": "In parts.", "format": "chat"}
    )

    assert done.status_code == 201, done.data
    row = Dataset.objects.get(uid=done.json()["dataset_id"])
    assert (row.name, row.filename, row.sha256, row.status) == ("talk", "talk.jsonl", DIGEST, "validating")
    assert datasets.validate(row.pk)
    row.refresh_from_db()
    assert (row.status, row.summary["rows"]) == ("ready", 5)
    assert client.post(f"{path}/complete", {}).json() == done.json()
    assert Dataset.objects.count() == 1
    assert not UploadPart.objects.exists()
    assert client.get(path).json()["result"] == row.uid
    assert send(client, path, 0, b"x").status_code == 409


def test_a_part_that_is_sent_again_replaces_the_first(api, alice):
    client = api(alice)
    path = begin(client)
    send(client, path, 0, b"x" * len(CHAT))
    wrong = client.post(f"{path}/complete", {})
    send(client, path, 0, CHAT)

    assert wrong.status_code == 400
    assert wrong.json()["error"]["details"]["announced_sha256"] == DIGEST
    assert client.post(f"{path}/complete", {}).status_code == 201


def test_what_is_missing_is_named(api, alice):
    client = api(alice)
    path = begin(client)
    empty = client.post(f"{path}/complete", {})
    send(client, path, 1, CHAT[200:])
    gap = client.post(f"{path}/complete", {})

    assert empty.status_code == gap.status_code == 400
    assert gap.json()["error"]["details"]["missing_parts"] == [0]


def test_more_than_was_announced_is_not_taken(api, alice, settings):
    client = api(alice)
    path = begin(client)

    assert send(client, path, 0, CHAT + b"x").status_code == 413
    assert send(client, path, 10_000, b"x").status_code == 400
    settings.MAX_UPLOAD_BYTES = 1024
    assert send(client, path, 0, b"x" * 1025).status_code == 413
    settings.MAX_FILE_BYTES = 10
    assert client.post(PARTS, {"name": "a", "size": 11}).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "a"},
        {"name": "a", "size": 0},
        {"name": "a", "size": 1, "sha256": "x"},
        {"size": 1, "more": 1},
    ],
)
def test_what_is_announced_is_checked(api, alice, body):
    answer = api(alice).post(PARTS, body)

    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["fields"]


def test_parts_that_wait_count_as_stored(api, alice, settings):
    client = api(alice)
    settings.MAX_STORED_BYTES = len(CHAT)
    path = begin(client)
    assert client.post(PARTS, {"name": "a", "size": len(CHAT) + 1}).status_code == 409
    send(client, path, 0, CHAT)
    assert client.post(PARTS, {"name": "a", "size": 1}).status_code == 409

    assert client.post(f"{path}/complete", {}).status_code == 201
    assert client.post(PARTS, {"name": "a", "size": 1}).status_code == 409


def test_several_uploads_at_once_hold_no_more_than_one_may_store(api, alice, settings):
    client = api(alice)
    settings.MAX_STORED_BYTES = len(CHAT)
    first, second = begin(client), begin(client)
    send(client, first, 0, CHAT)
    assert send(client, second, 0, CHAT).status_code == 409
    assert send(client, first, 0, CHAT).status_code == 200, "in the place of what was there"
    assert client.post(f"{first}/complete", {}).status_code == 201


def test_an_upload_is_called_off(api, alice):
    client = api(alice)
    path = begin(client)
    send(client, path, 0, CHAT[:10])

    assert client.delete(path).status_code == 204
    assert client.get(path).json()["status"] == "cancelled"
    assert send(client, path, 0, CHAT).status_code == 409
    assert client.post(f"{path}/complete", {}).status_code == 409
    assert not UploadPart.objects.exists()


def test_an_upload_is_its_owners_alone(api, alice, charlie):
    path = begin(api(alice))

    for client, status in ((api(charlie), 404), (api(), 401)):
        answers = [
            client.get(path), client.delete(path), send(client, path, 0, CHAT), client.post(f"{path}/complete", {}),
        ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [status] * 4
    assert api().post(PARTS, {}).status_code == 401
    assert api(alice).get(path).json()["status"] == "open"


def test_an_upload_that_is_to_become_a_model_is_no_dataset(api, alice):
    model = uploads.begin(owner=alice, filename="a", purpose="model", size=1, now=timezone.now())

    assert api(alice).get(f"{PARTS}/{model.pk}").status_code == 404
    assert api(alice).post(f"/v1/uploads/upload_{model.pk.hex}/cancel", {}).status_code == 404


def test_an_upload_that_rests_is_forgotten(api, alice):
    begin(api(alice))
    assert uploads.sweep(now=timezone.now()) == 0
    uploads.sweep(now=timezone.now() + uploads.LIFE + timedelta(seconds=1))

    assert not Upload.objects.exists()
