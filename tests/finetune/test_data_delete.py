"""Datasets listed, downloaded, found by their hash, deleted, and swept away."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from clients import files, quotas
from clients.models import Blob
from finetune import datasets
from finetune.models import Dataset, Job
from inference.models import Family, Model, Revision, RevisionKind, Source
from tests.finetune.test_data_upload import CHAT, upload

pytestmark = pytest.mark.django_db


@pytest.fixture
def job(alice: Any) -> Any:
    """`job(dataset)`: a pending job of alice's that uses it."""

    def make(dataset: Dataset, **fields: Any) -> Job:
        model, _ = Model.objects.get_or_create(name="base")
        base = Revision.objects.create(
            model=model, number=model.revisions.count() + 1, kind=RevisionKind.FULL, family=Family.CAUSAL,
            digest="1" * 64, model_hash="0x" + "1" * 64, size=1, source=Source.IMPORT,
        )  # fmt: skip
        values = {"dataset": dataset} | fields
        return Job.objects.create(
            owner=alice,
            face="tasks",
            method="causal",
            base=base,
            seed=1,
            tokens=1,
            epochs=1,
            price=0,
            **values,
        )

    return make


def test_datasets_are_listed_in_pages(api, alice, charlie):
    uids = [upload(api(alice), dataset_name=str(n)) for n in range(3)]
    upload(api(charlie))

    for path in ("/data", "/data/"):
        answer = api(alice).get(path)
        assert [each["dataset_id"] for each in answer.json()] == uids[::-1]
        assert answer["X-Total-Count"] == "3"
    assert [each["dataset_id"] for each in api(alice).get("/data?limit=1&offset=1").json()] == [uids[1]]
    assert len(api(alice).get("/data?status=available").json()) == 3
    assert api(alice).get("/data?status=invalid").json() == []
    assert api(alice).get("/data?status=odd").status_code == 400
    assert api().get("/data").status_code == 401


def test_a_file_is_downloaded_as_it_was(api, alice):
    uid = upload(api(alice), filename="../../etc/täglich.jsonl")
    answer = api(alice).get(f"/data/{uid}/download")

    assert b"".join(answer.streaming_content) == CHAT
    assert answer["Content-Disposition"] == "attachment; filename*=utf-8''t%C3%A4glich.jsonl"
    assert answer["Content-Length"] == str(len(CHAT))
    part = api(alice).get(f"/data/{uid}/download", HTTP_RANGE="bytes=5-9")
    assert (part.status_code, b"".join(part.streaming_content)) == (206, CHAT[5:10])


def test_a_stranger_finds_nothing(api, alice, charlie, operator):
    uid = upload(api(alice))

    for client, status in ((api(charlie), 404), (api(operator), 404), (api(), 401)):
        for answer in (
            client.get(f"/data/{uid}/metadata"), client.get(f"/data/{uid}/download"), client.delete(f"/data/{uid}"),
            client.get(f"/v1/files/{uid}"), client.get(f"/v1/files/{uid}/content"), client.delete(f"/v1/files/{uid}"),
        ):  # fmt: skip
            assert answer.status_code == status
    assert api(alice).get(f"/data/{uid}/metadata").status_code == 200


def test_a_deleted_dataset_is_gone_and_its_file_soon_too(api, alice):
    uid = upload(api(alice))
    blob = Dataset.objects.get().blob

    assert api(alice).delete(f"/data/{uid}").status_code == 204
    assert api(alice).delete(f"/data/{uid}").status_code == 404
    assert api(alice).get(f"/data/{uid}/metadata").status_code == 404
    assert api(alice).get("/data").json() == []
    assert quotas.used(alice.pk)["datasets"] == 0
    assert files.sweep(now=timezone.now()) == 0
    assert files.sweep(now=timezone.now() + files.GRACE + timedelta(minutes=1)) == 2
    assert not Blob.objects.exists()
    with pytest.raises(FileNotFoundError):
        files.opened(blob)


def test_a_file_that_is_used_is_not_swept_away(api, alice):
    upload(api(alice))
    soon = timezone.now() + files.GRACE + timedelta(minutes=1)

    assert files.sweep(now=soon) == 0
    assert files.sweep(now=soon + timedelta(hours=1)) == 0
    assert Blob.objects.count() == 2


@pytest.mark.parametrize("use", ["dataset", "validation"])
def test_a_dataset_is_not_deleted_under_a_job(api, alice, job, use):
    uid, other = upload(api(alice)), upload(api(alice))
    rows = {row.uid: row for row in Dataset.objects.all()}
    used = job(rows[uid]) if use == "dataset" else job(rows[other], validation=rows[uid])
    answer = api(alice).delete(f"/data/{uid}")

    assert answer.status_code == 409
    assert answer.json()["error"]["details"]["jobs"] == [str(used.uid)]
    Job.objects.update(status="succeeded")
    assert api(alice).delete(f"/data/{uid}").status_code == 204
    assert Dataset.objects.filter(uid=uid).exists()  # the job's record needs its name


def test_a_dataset_is_found_by_its_hash(api, alice, charlie):
    upload(api(alice))
    newest = upload(api(alice))
    row = Dataset.objects.get(uid=newest)

    for digest in (f"0x{row.keccak256}", row.keccak256.upper(), row.sha256, f"0X{row.sha256}"):
        assert datasets.by_hash(digest, owner=alice) == row
    for digest, owner in (
        (row.sha256, charlie),
        ("0x", alice),
        ("", alice),
        ("0" * 64, alice),
        ("\0", alice),
    ):
        with pytest.raises(datasets.DatasetNotFound):
            datasets.by_hash(digest, owner=owner)


def test_what_has_expired_is_deleted_unless_it_is_used(api, alice, job):
    now = timezone.now()
    uids = [upload(api(alice)) for _ in range(3)]
    Dataset.objects.filter(uid__in=uids[:2]).update(expires_at=now)
    job(Dataset.objects.get(uid=uids[1]))

    assert datasets.sweep(now=now + timedelta(seconds=1)) == 1
    assert set(datasets.visible_to(alice).values_list("uid", flat=True)) == set(uids[1:])
    assert datasets.sweep(now=now + timedelta(days=2)) == 1
    assert not Dataset.objects.filter(uid=uids[0]).exists()
