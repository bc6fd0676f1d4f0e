"""POST /data/upload, and what the other paths of /data then say."""

import base64
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from clients.models import Blob
from finetune import datasets, tasks
from finetune.models import Dataset

UPLOAD = "/data/upload"
CHAT = b"".join(
    b'{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a%d"}]}\n' % (n, n)
    for n in range(5)
)
BROKEN = (
    CHAT
    + b'{"messages": [{"role": "robot", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    + b'{"messages": [{"role": "user", "content": "q"}]\n'
)

pytestmark = pytest.mark.django_db


def as_json(content: bytes = CHAT, **more: Any) -> dict[str, Any]:
    return {
        "dataset_name": "talk",
        "description": "Small talk.",
        "file": base64.b64encode(content).decode(),
        **more,
    }


def as_form(content: bytes = CHAT, name: str = "talk.jsonl", **more: Any) -> dict[str, Any]:
    return {"file": SimpleUploadedFile(name, content), **more}


def upload(client: Any, content: bytes = CHAT, **more: Any) -> str:
    answer = client.post(UPLOAD, as_json(content, **more))
    assert answer.status_code == 201, answer.data
    return str(answer.json()["dataset_id"])


def test_a_dataset_is_uploaded_as_json(api, alice):
    answer = api(alice).post(UPLOAD, as_json(metadata={"from": "us"}))

    assert answer.status_code == 201
    body = answer.json()
    assert body == {"dataset_id": body["dataset_id"], "status": "Dataset successfully uploaded"}
    told = api(alice).get(f"/data/{body['dataset_id']}/metadata").json()
    assert (told["dataset_name"], told["description"], told["format"]) == ("talk", "Small talk.", "chat")
    assert (told["status"], told["size_bytes"], told["metadata"]) == ("available", len(CHAT), {"from": "us"})
    assert told["summary"] == {
        "rows": 5, "tokens": 5, "duplicates": 0, "longest": {"line": 1, "chars": 4}, "bytes": told["summary"]["bytes"],
    }  # fmt: skip
    assert told["errors"] == []


def test_a_dataset_is_uploaded_as_a_form(api, alice):
    answer = api(alice).post(UPLOAD, as_form(dataset_name="talk", format="chat"), format="multipart")

    assert answer.status_code == 201, answer.data
    row = Dataset.objects.get(uid=answer.json()["dataset_id"])
    assert (row.name, row.filename, row.format, row.status) == ("talk", "talk.jsonl", "chat", "ready")
    assert b"".join(datasets.files.chunks(row.blob)) == CHAT
    assert b"".join(datasets.files.chunks(row.rows)).count(b"\n") == 5


def test_what_is_wrong_is_said_line_by_line_and_nothing_is_kept(api, alice):
    answer = api(alice).post(UPLOAD, as_json(BROKEN))

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "INVALID_DATASET"
    assert [each["line"] for each in error["details"]["errors"]] == [6, 7]
    first = error["details"]["errors"][0]
    assert first["field"] == "messages[0].role"
    assert "'robot'" in first["message"]
    assert "assistant" in first["fix"]
    assert error["details"]["error_count"] == 2
    assert "line 6" in error["message"]
    assert not Dataset.objects.exists()
    assert not Blob.objects.exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"file": "%%%"}, "file"),
        ({"file": None}, "file"),
        ({"format": "poem"}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"metadata": [1]}, "metadata"),
        ({"dataset_name": "x" * 256}, "dataset_name"),
        ({"split": "mine"}, "split"),
    ],
)
def test_fields_that_are_wrong_are_named(api, alice, change, field):
    answer = api(alice).post(UPLOAD, as_json() | change)

    assert answer.status_code == 400
    assert field in answer.json()["error"]["details"]["fields"]


def test_a_form_without_a_file_is_told_so(api, alice):
    answer = api(alice).post(UPLOAD, {"dataset_name": "x"}, format="multipart")

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "FILE_MISSING"


def test_nobody_uploads_without_a_credential(api):
    for body, kind in ((as_json(), "json"), (as_form(), "multipart")):
        answer = api().post(UPLOAD, body, format=kind)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "UNAUTHORIZED"


def test_a_file_in_a_form_leaves_nothing_on_the_disk(api, alice, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    api(alice).post(UPLOAD, as_form(), format="multipart")
    api(alice).post(UPLOAD, as_form(BROKEN), format="multipart")
    api(alice).post(UPLOAD, as_form(dataset_name="\0"), format="multipart")

    assert list((tmp_path / "spool").iterdir()) == []


def test_the_same_key_uploads_once(api, alice):
    headers = {"HTTP_IDEMPOTENCY_KEY": "k1"}
    first = api(alice).post(UPLOAD, as_json(), **headers)
    again = api(alice).post(UPLOAD, as_json(), **headers)
    other = api(alice).post(UPLOAD, as_json(CHAT + CHAT), **headers)

    assert first.json() == again.json()
    assert again["Idempotent-Replayed"] == "true"
    assert other.status_code == 409
    assert Dataset.objects.count() == 1


def test_a_client_has_no_more_than_its_share(api, alice, charlie, settings):
    settings.MAX_STORED_BYTES = len(CHAT) + 10
    upload(api(alice))
    answer = api(alice).post(UPLOAD, as_json())

    assert answer.status_code == 409
    details = answer.json()["error"]["details"]
    assert (details["stored_bytes"], details["wanted_bytes"]) == (len(CHAT), len(CHAT))
    upload(api(charlie))


def test_a_large_file_is_looked_at_afterwards(api, alice, monkeypatch, django_capture_on_commit_callbacks):
    monkeypatch.setattr(datasets, "QUICK_BYTES", 10)
    rung: list[int] = []
    monkeypatch.setattr(tasks, "ring", lambda task: rung.append(1))

    with django_capture_on_commit_callbacks(execute=True):
        good = upload(api(alice), filename="talk.jsonl")
        bad = upload(api(alice), BROKEN)
    assert rung == [1, 1]
    assert api(alice).get(f"/data/{good}/metadata").json()["status"] == "validating"
    assert tasks.validate_datasets() == 2
    assert tasks.validate_datasets() == 0

    told = api(alice).get(f"/data/{good}/metadata").json()
    assert (told["status"], told["format"], told["summary"]["rows"]) == ("available", "chat", 5)
    told = api(alice).get(f"/data/{bad}/metadata").json()
    assert (told["status"], told["error_count"], told["errors"][0]["line"]) == ("invalid", 2, 6)


def test_a_file_that_takes_long_is_looked_at_afterwards(api, alice, monkeypatch):
    monkeypatch.setattr(datasets, "QUICK_S", -1)
    uid = upload(api(alice))

    assert api(alice).get(f"/data/{uid}/metadata").json()["status"] == "validating"
    assert datasets.validate(Dataset.objects.get().pk)
    assert api(alice).get(f"/data/{uid}/metadata").json()["status"] == "available"


def test_a_file_that_ends_workers_is_given_up(alice, api, monkeypatch):
    monkeypatch.setattr(datasets, "QUICK_BYTES", 10)
    uid = upload(api(alice))
    row = Dataset.objects.get(uid=uid)

    def dies(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(datasets, "_found", dies)
    for _ in range(3):
        with pytest.raises(MemoryError):
            datasets.validate(row.pk)
    assert datasets.are_forgotten(now=timezone.now() + timedelta(minutes=1))
    datasets.validate(row.pk)

    row.refresh_from_db()
    assert (row.status, row.error_count) == ("invalid", 1)
    assert not datasets.are_forgotten(now=timezone.now() + timedelta(minutes=1))


def test_a_storage_that_is_away_is_not_the_files_fault(alice, api, monkeypatch):
    monkeypatch.setattr(datasets, "QUICK_BYTES", 10)
    upload(api(alice))
    row = Dataset.objects.get()
    inspect = datasets._inspect

    def away(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(datasets, "_inspect", away)
    for _ in range(9):
        with pytest.raises(OSError):
            datasets.validate(row.pk)
    monkeypatch.setattr(datasets, "_inspect", inspect)
    assert datasets.validate(row.pk)

    row.refresh_from_db()
    assert row.status == "ready"
