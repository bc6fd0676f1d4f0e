"""/v1/user/{address}/task: reading and cancelling what a wallet has signed, and what lies beside it."""

import re
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from clients.models import Hold
from finetune import attempts, jobs, signatures
from finetune.models import Job
from inference.models import Family
from tests.finetune import asked, made
from tests.finetune.test_tasks import finish
from tests.finetune.wallets import ADDRESS, KEY, OTHER, OTHER_KEY, error, sign
from tests.finetune.wallets import TASKS as PATH

pytestmark = pytest.mark.usefixtures("wallet")
# The document's fields, in its code's order.
FIELDS = [
    "id", "createdAt", "updatedAt", "userAddress", "preTrainedModelHash", "datasetHash", "trainingParams", "fee",
    "nonce", "signature", "progress", "deliverIndex",
]  # fmt: skip


# --- Reading -----------------------------------------------------------------------------------------------


def test_a_task_has_the_documents_fields_in_order(post, task, api, model_hash):
    body = task()
    id = post(body).json()["id"]
    said = api().get(f"{PATH}/{id}").json()

    assert list(said)[: len(FIELDS)] == FIELDS
    assert said["id"] == id == str(UUID(id))
    for name in ("createdAt", "updatedAt"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said[name])
    assert said.items() >= body.items()
    assert (said["progress"], said["deliverIndex"], said["preTrainedModelHash"]) == (
        "InProgress",
        0,
        model_hash,
    )


def test_progress_is_in_the_documents_words(post, task, api):
    id = post(task()).json()["id"]
    job = Job.objects.get()

    def progress() -> Any:
        return api().get(f"{PATH}/{id}").json()["progress"]

    attempt = made.begin(job)
    assert progress() == "InProgress"
    jobs.pause(job, now=timezone.now())
    assert progress() == "InProgress"
    jobs.cancel(job, now=timezone.now())
    assert progress() == "Failed"
    attempts.stopped(attempt.token, now=timezone.now())
    jobs.restart(job, quote=made.quote(0), now=timezone.now())
    finish(job)
    assert progress() == "Finished"


def test_tasks_are_listed(post, task, api):
    assert api().get(PATH).json() == []
    assert api().get(PATH, {"latest": "true"}).json() == []
    ids = [post(task()).json()["id"] for _ in range(3)]

    def listed(**query: str) -> list[str]:
        return [each["id"] for each in api().get(PATH, query).json()]

    assert listed() == listed(order="desc") == listed(latest="1") == ids[::-1]
    assert listed(order="asc") == ids
    assert listed(latest="true") == ids[-1:]
    assert api().get(PATH.lower()).json()[0]["id"] == ids[-1]
    assert api().get(PATH, {"order": "up"}).status_code == 400


def test_jobs_of_other_apis_are_no_tasks_of_a_wallet(api, alice, task, dataset_hash):
    asked.model("toy")
    made.job(alice)
    assert api().get(PATH).json() == []


def test_an_id_that_is_none_is_told_from_one_that_is_not_there(api, post, task):
    id = post(task()).json()["id"]
    for end in ("", "/log"):
        assert "invalid UUID" in error(api().get(f"{PATH}/x{end}"))
        reply = api().get(f"{PATH}/71c84e9f-fa0e-4ef5-8d7e-8ffc1f281442{end}")
        assert (reply.status_code, error(reply)[:14]) == (404, "task not found")
        assert api().get(f"/v1/user/{OTHER}/task/{id}{end}").status_code == 404


def test_the_log_tells_all_that_happened(post, task, api):
    id = post(task()).json()["id"]
    job = Job.objects.get()
    attempt = made.begin(job)
    said = [
        {
            "event": "progress",
            "step": 1,
            "steps": 2,
            "loss": 0.5,
            "learning_rate": 0.1,
            "epoch": 0.5,
            "tokens": 5,
        }
    ]
    attempts.hear(attempt.token, said, first_number=1, now=timezone.now())
    attempts.fail(attempt.token, code="x", reason="The memory is full.", retry=False, now=timezone.now())
    reply = api().get(f"{PATH}/{id}/log")
    log = reply.content.decode()

    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert int(reply.headers["Content-Length"]) == len(reply.content)
    assert log.startswith("creating task....\n")
    assert "\nStep: 1, Logs: {" in log
    assert "'loss': 0.5" in log
    assert log.endswith("\nError executing task: The memory is full.\n")


def test_the_log_of_a_success_ends_with_the_brokers_words(post, task, api):
    id = post(task()).json()["id"]
    finish(Job.objects.get())
    assert (
        api()
        .get(f"{PATH}/{id}/log")
        .content.decode()
        .endswith(f"Training model for task {id} completed successfully\n")
    )


def test_a_part_of_the_log_can_be_read(post, task, api):
    path = f"{PATH}/{post(task()).json()['id']}/log"
    whole = api().get(path).content

    def part(said: str) -> Any:
        return api().get(path, headers={"Range": said})

    assert (part("bytes=5-").status_code, part("bytes=5-").content) == (206, whole[5:])
    assert (part("bytes=0-7").content, part("bytes=0-7").headers["Content-Range"]) == (
        whole[:8],
        f"bytes 0-7/{len(whole)}",
    )
    assert part(f"bytes={len(whole)}-").status_code == 416
    assert part("bytes=x-").content == part("lines=1-2").content == whole


def test_where_reading_is_closed_one_must_be_the_owner(post, task, api, alice, charlie, operator, settings):
    id = post(task()).json()["id"]
    settings.BROKER_OPEN_READS = False
    for path in (PATH, f"{PATH}/{id}", f"{PATH}/{id}/log"):
        assert api().get(path).status_code == api(charlie).get(path).status_code == 401
        assert api(alice).get(path).status_code == api(operator).get(path).status_code == 200
        assert api().get(path, headers=reading(KEY)).status_code == 200
        assert api().get(path, headers=reading(OTHER_KEY)).status_code == 401
        assert api().get(path, headers=reading(KEY, age=301)).status_code == 401
        assert api().get(path, headers={"X-Wallet-Signature": "0x"}).status_code == 400
    assert post(task()).status_code == 201


def reading(key: str, age: int = 0) -> dict[str, str]:
    at = int(timezone.now().timestamp()) - age
    inner = signatures.reading_hash(ADDRESS, at)
    return {"X-Wallet-Signature": sign(inner, key), "X-Wallet-Timestamp": str(at)}


def test_a_bad_credential_is_refused_even_where_none_is_needed(api):
    assert api().get(PATH, headers={"Authorization": "Bearer nonsense"}).status_code == 401


# --- Cancelling --------------------------------------------------------------------------------------------


def test_a_wallet_cancels_its_task(post, task):
    id = post(task()).json()["id"]
    reply = post({"signature": sign(signatures.cancel_hash(UUID(id)))}, path=f"{PATH}/{id}/cancel")

    assert (reply.status_code, reply.content.decode()) == (200, f"task {id} cancelled")
    assert Job.objects.get().status == "cancelled"
    assert not Hold.objects.filter(ended_at=None).exists()


def test_nobody_else_cancels_it(post, task):
    id = post(task()).json()["id"]
    inner = signatures.cancel_hash(UUID(id))
    path = f"{PATH}/{id}/cancel"
    assert post({"signature": sign(inner, OTHER_KEY)}, path=path).status_code == 401
    assert post({"signature": sign(b"\1" * 32)}, path=path).status_code == 401
    assert post({}, path=path).status_code == post({"signature": 5}, path=path).status_code == 400
    other = f"/v1/user/{OTHER}/task/{id}/cancel"
    assert post({"signature": sign(inner, OTHER_KEY)}, path=other).status_code == 404
    assert Job.objects.get().status == "pending"


def test_only_the_named_task_is_cancelled(post, task):
    ids = [post(task()).json()["id"] for _ in range(2)]
    post({"signature": sign(signatures.cancel_hash(UUID(ids[0])))}, path=f"{PATH}/{ids[0]}/cancel")
    assert Job.objects.get(uid=ids[1]).status == "pending"


def test_what_has_ended_cannot_be_cancelled(post, task):
    id = post(task()).json()["id"]
    finish(Job.objects.get())
    reply = post({"signature": sign(signatures.cancel_hash(UUID(id)))}, path=f"{PATH}/{id}/cancel")
    assert reply.status_code == 409


# --- Neighbours --------------------------------------------------------------------------------------------


def test_how_many_tasks_wait_or_run(api, post, task):
    reply = api().get("/v1/task/pending")
    assert (reply.status_code, reply.content) == (200, b"0")
    assert reply.headers["Content-Type"].startswith("text/plain")
    post(task())
    post(task())
    assert api().get("/v1/task/pending").content == b"2"


def test_models_that_everybody_may_train_are_listed(api, model_hash, charlie):
    asked.model("secret", owner=charlie)
    asked.model("shared", Family.EMBEDDING, owner=charlie, published_at=timezone.now())
    asked.model("hidden", hidden=True)
    asked.model("other", Family.OTHER)
    listed = api().get("/v1/model").json()

    assert [model["name"] for model in listed] == ["toy", "shared"]
    assert list(listed[0]) == [
        "name",
        "hash",
        "image",
        "dataType",
        "trainingScript",
        "description",
        "tokenizer",
    ]
    assert listed[0]["hash"] == model_hash
    for name in ("toy", model_hash):
        assert api().get(f"/v1/model/{name}").json() == listed[0]
        assert api().get(f"/v1/model/desc/{name}").content.startswith(b"PK")
    for name in ("secret", "hidden", "nothing", "a/b"):
        reply = api().get(f"/v1/model/{name}")
        assert reply.status_code == 404
        assert error(reply)
