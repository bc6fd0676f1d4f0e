"""/fine-tuning/task"""

import threading
import uuid
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from clients import keys
from clients.models import Hold
from finetune import attempts, jobs, results
from finetune.models import Job
from inference.models import Family, Model, RevisionKind
from tests.finetune import asked, made

PATH = "/fine-tuning/task"
OF_A_TASK = (
    ("get", ""), ("put", "/restart"), ("put", "/cancel"), ("get", "/artifact"), ("get", "/artifact/files"),
)  # fmt: skip
WORDS = ("pending", "processing", "completed", "failed", "canceled", "refused")


@pytest.fixture(autouse=True)
def _ready(alice: Any, charlie: Any, operator: Any) -> None:
    asked.ask(operator)
    asked.model("embed-123", Family.EMBEDDING)
    made.fund(alice, 1000)


@pytest.fixture
def batch(alice: Any) -> str:
    return asked.upload(alice, asked.clicks()).uid


@pytest.fixture
def create(api: Any, alice: Any, batch: str) -> Any:
    def created(person: Any = None, **said: Any) -> Any:
        body = {"embedding_model_id": "embed-123", "batch_id": batch} | said
        return api(person or alice).post(PATH, {name: value for name, value in body.items() if value != ...})

    return created


def finish(job: Job, *, is_better: bool = True) -> Job:
    """The job has succeeded."""
    attempt = made.begin(job)
    result = results.Made(
        files={"model.safetensors": made.blob(), "1_Pooling/config.json": made.blob()},
        kind=RevisionKind.FULL, metrics={"main": "ndcg"}, is_better=is_better,
    )  # fmt: skip
    assert attempts.succeed(attempt.token, result, now=timezone.now())
    job.refresh_from_db()
    return job


def put_all(batch: str) -> dict[str, Any]:
    """The document's request; only the ids are those of what is there."""
    return {
        "embedding_model_id": "embed-123",
        "batch_id": batch,
        "metadata": {"initiated_by": "admin"},
        "idempotency_key": "unique-key-abc",
        "deploy_as_blue": True,
        "wait_on_conflict": False,
    }


# --- The document's examples -------------------------------------------------------------------------------


def test_the_documents_request_gets_the_documents_answer(api, alice, batch):
    reply = api(alice).post(PATH, put_all(batch))

    assert reply.status_code == 200, reply.json()
    said, job = reply.json(), Job.objects.get()
    documented = {
        "id": job.uid.hex,
        "batch_id": batch,
        "metadata": {"initiated_by": "admin"},
        "idempotency_key": "unique-key-abc",
        "deploy_as_blue": True,
        "wait_on_conflict": False,
        "status": "pending",
    }
    assert said.items() >= documented.items()
    # A task that is pending has no best model yet, whatever the document's example shows.
    assert said.keys() - documented.keys() == {"created_at", "updated_at", "embedding_model_id", "price"}
    assert (job.face, job.deploy, job.wait_on_conflict, job.method) == ("tasks", True, False, "embedding")
    assert Hold.objects.get().amount == job.price > 0


def test_the_documents_list(api, alice, batch):
    job_id = api(alice).post(PATH, put_all(batch)).json()["id"]
    job = finish(Job.objects.get())
    reply = api(alice).get(PATH, {"offset": 0, "limit": 100, "status": "completed"})

    assert reply.headers["X-Total-Count"] == "1"
    assert (
        reply.json()[0].items()
        >= {
            "id": job_id,
            "batch_id": batch,
            "best_model_url": f"{settings.PUBLIC_URL}/fine-tuning/task/{job_id}/artifact",
            "best_model_id": results.name_of(job),
            "metadata": {"initiated_by": "admin"},
            "status": "completed",
        }.items()
    )


def test_the_documents_restart(api, alice, batch):
    id = api(alice).post(PATH, put_all(batch)).json()["id"]
    finish(Job.objects.get())
    reply = api(alice).put(f"{PATH}/{id}/restart")

    assert reply.status_code == 200
    assert reply.json().items() >= {"id": id, "batch_id": batch, "status": "pending"}.items()


def test_the_documents_cancel(api, alice, batch):
    id = api(alice).post(PATH, put_all(batch)).json()["id"]
    reply = api(alice).put(f"{PATH}/{id}/cancel")

    assert reply.status_code == 200
    assert reply.json().items() >= {"id": id, "batch_id": batch, "status": "canceled"}.items()


# --- Creating ----------------------------------------------------------------------------------------------


def test_only_the_model_and_the_batch_are_needed(create):
    said = create().json()
    assert {"metadata", "idempotency_key", "deploy_as_blue", "wait_on_conflict", "best_model_id"}.isdisjoint(
        said
    )


def test_null_is_as_good_as_nothing(create):
    nothing = dict.fromkeys(
        ("metadata", "idempotency_key", "deploy_as_blue", "wait_on_conflict", "hyperparameters")
    )
    assert create(**nothing).json().keys() == create().json().keys()


def test_an_id_of_the_callers_choice_is_ignored(create):
    assert create(id="mine", task_id="mine").json()["id"] == Job.objects.get().uid.hex


def test_without_a_batch_it_says_what_to_do(create):
    reply = create(batch_id=...)
    assert reply.status_code == 400
    assert "/data/upload" in reply.json()["detail"]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"embedding_model_id": ...}, "embedding_model_id"),
        ({"embedding_model_id": ""}, "embedding_model_id"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"x": "\0"}}, "metadata"),
        ({"metadata": {"x": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}, "metadata"),
        ({"idempotency_key": "x" * 256}, "idempotency_key"),
        ({"deploy_as_blue": "yes"}, "deploy_as_blue"),
        ({"wait_on_conflict": 1}, "wait_on_conflict"),
        ({"hyperparameters": {"n_epochs": 1000}}, "hyperparameters"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_what_is_wrong_is_named(create, said, field):
    reply = create(**said)
    assert reply.status_code == 400, reply.json()
    assert field in reply.json()["detail"]
    assert not Job.objects.exists()


def test_an_unknown_model_or_batch_is_a_404(create, charlie):
    assert create(embedding_model_id="nothing").status_code == 404
    assert create(batch_id="file-nothing").status_code == 404
    assert create(batch_id=asked.upload(charlie, asked.clicks()).uid).status_code == 404
    assert not Job.objects.exists()


def test_a_language_model_is_no_embedding_model(create, alice):
    asked.model("toy")
    reply = create(embedding_model_id="toy", batch_id=asked.upload(alice, asked.chats()).uid)
    assert reply.status_code == 400
    assert "embedding model" in reply.json()["detail"]


def test_a_best_model_is_where_the_next_task_can_start(create):
    first = finish(Job.objects.get(uid=create().json()["id"]))
    for name in (results.name_of(first), first.uid.hex):
        said = create(embedding_model_id=name).json()
        assert said["embedding_model_id"] == name
        assert Job.objects.get(uid=said["id"]).base == first.result


def test_hyperparameters_and_place_can_be_said(create):
    create(hyperparameters={"n_epochs": 1, "search_trials": 2}, where="here", seed=5)
    job = Job.objects.get()
    assert (job.parameters["n_epochs"], job.parameters["search_trials"], job.where, job.seed) == (
        1,
        2,
        "here",
        5,
    )


def test_who_cannot_pay_creates_nothing(create, operator):
    asked.ask(operator, 10**6 * asked.PRICE)
    assert create().status_code == 402
    assert not Job.objects.exists()


# --- The idempotency key -----------------------------------------------------------------------------------


def test_the_same_key_and_body_is_the_same_task(create):
    first, again = create(idempotency_key="one"), create(idempotency_key="one")

    assert again.json() == first.json()
    assert again.status_code == 200
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (Job.objects.count(), Hold.objects.count()) == (1, 1)


@pytest.mark.parametrize(
    "change", [{"metadata": {"a": 1}}, {"deploy_as_blue": True}, {"embedding_model_id": "unknown"}]
)
def test_the_same_key_with_another_body_is_a_409(create, change):
    create(idempotency_key="one")
    reply = create(idempotency_key="one", **change)
    assert reply.status_code == 409
    assert "idempotency_key" in reply.json()["detail"]


def test_a_key_is_looked_at_before_the_model(create):
    first = create(idempotency_key="one").json()
    Model.objects.filter(name="embed-123").update(hidden=True)
    assert create(idempotency_key="one").json() == first


def test_an_empty_key_is_none(create):
    assert create(idempotency_key="").json()["id"] != create(idempotency_key="").json()["id"]


def test_keys_of_different_people_have_nothing_to_do_with_each_other(create, charlie):
    made.fund(charlie, 10)
    mine = create(idempotency_key="one").json()
    theirs = create(charlie, batch_id=asked.upload(charlie, asked.clicks()).uid, idempotency_key="one").json()
    assert mine["id"] != theirs["id"]


def test_a_key_still_stands_for_a_task_that_has_ended(create, api, alice):
    id = create(idempotency_key="one").json()["id"]
    api(alice).put(f"{PATH}/{id}/cancel")
    assert create(idempotency_key="one").json()["status"] == "canceled"


def test_the_header_works_as_everywhere(api, alice, batch):
    body = {"embedding_model_id": "embed-123", "batch_id": batch}
    first, again = (api(alice).post(PATH, body, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert again.json() == first.json()
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_16_at_the_same_moment_one_creates_the_task(alice, batch):
    begin, replies = threading.Barrier(16), []

    def post() -> None:
        client = APIClient()
        client.force_authenticate(alice)
        begin.wait()
        reply = client.post(PATH, put_all(batch))
        replies.append((reply.status_code, reply.json()["id"]))
        connection.close()

    threads = [threading.Thread(target=post) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    job = Job.objects.get()
    assert replies == [(200, job.uid.hex)] * 16
    assert Hold.objects.get().amount == job.price


# --- Reading -----------------------------------------------------------------------------------------------


def test_a_task_is_read(create, api, alice):
    said = create().json()
    assert api(alice).get(f"{PATH}/{said['id']}").json() == said
    assert api(alice).get(f"{PATH}/{uuid.UUID(said['id'])}").json() == said


@pytest.mark.parametrize("id", ["task-001", "0" * 32, "0" * 24, "x", "%00"])
@pytest.mark.parametrize(("method", "end"), OF_A_TASK)
def test_what_is_not_there_is_a_404(api, alice, id, method, end):
    reply = getattr(api(alice), method)(f"{PATH}/{id}{end}")
    assert reply.status_code == 404
    assert reply.json()["detail"].startswith("Task with ID `")


def test_a_stranger_sees_and_changes_nothing(create, api, charlie):
    id = create().json()["id"]
    for method, end in OF_A_TASK:
        assert getattr(api(charlie), method)(f"{PATH}/{id}{end}").status_code == 404
        assert getattr(api(), method)(f"{PATH}/{id}{end}").status_code == 401
    assert api(charlie).get(PATH).json() == []
    assert api().get(PATH).status_code == api().post(PATH, {}).status_code == 401
    assert Job.objects.get().status == "pending"


def test_lists_go_by_pages_in_an_order_that_stays(create, api, alice):
    ids = [create().json()["id"] for _ in range(5)]
    pages = [api(alice).get(PATH, {"offset": at, "limit": 2}) for at in (0, 2, 4)]

    assert [task["id"] for page in pages for task in page.json()] == ids[::-1]
    assert {page.headers["X-Total-Count"] for page in pages} == {"5"}


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 1001}, {"offset": -1}, {"limit": "x"}, {"status": "nothing"}]
)
def test_a_list_that_cannot_be_is_refused(api, alice, query):
    reply = api(alice).get(PATH, query)
    assert reply.status_code == 400
    assert next(iter(query)) in reply.json()["detail"]


def test_states_are_in_this_apis_words(create, api, alice):
    made_jobs = {word: Job.objects.get(uid=create().json()["id"]) for word in WORDS}
    now = timezone.now()
    made.begin(made_jobs["processing"])
    finish(made_jobs["completed"])
    attempts.fail(made.begin(made_jobs["failed"]).token, code="x", reason="It broke.", retry=False, now=now)
    jobs.cancel(made_jobs["canceled"], now=now)
    jobs.end(made_jobs["refused"], "refused", code="x", reason="No batch.", now=now)

    def found(word: str) -> list[str]:
        return [task["id"] for task in api(alice).get(PATH, {"status": word}).json()]

    for word, job in made_jobs.items():
        assert found(word) == [job.uid.hex]
    assert (found("done"), found("cancelled")) == (found("completed"), found("canceled"))
    assert api(alice).get(f"{PATH}/{made_jobs['failed'].uid.hex}").json()["detail"] == "It broke."


def test_a_task_that_rests_is_pending(create, api, alice):
    create()
    jobs.pause(Job.objects.get(), now=timezone.now())
    assert api(alice).get(PATH, {"status": "pending"}).json()[0]["detail"] == "Paused by its owner."


def test_a_result_that_is_no_better_leaves_the_model_that_it_started_from_the_best(create, api, alice):
    id = create().json()["id"]
    finish(Job.objects.get(), is_better=False)
    said = api(alice).get(f"{PATH}/{id}").json()
    assert (said["status"], said["best_model_id"]) == ("completed", "embed-123")
    assert "best_model_url" not in said


def test_jobs_of_other_apis_are_tasks_too(api, alice, batch):
    body = {"model": "embed-123", "training_file": batch, "metadata": {"a": "b"}}
    api(alice).post("/v1/fine_tuning/jobs", body)
    said = api(alice).get(PATH).json()[0]
    assert (said["embedding_model_id"], said["batch_id"], said["metadata"]) == (
        "embed-123",
        batch,
        {"a": "b"},
    )


# --- Restarting and cancelling -----------------------------------------------------------------------------


def test_a_restart_costs_anew_and_clears_the_best_model(create, api, alice):
    id = create().json()["id"]
    finish(Job.objects.get())
    said = api(alice).put(f"{PATH}/{id}/restart").json()

    job = Job.objects.get()
    assert "best_model_id" not in said
    assert (job.run, job.status) == (2, "pending")
    assert Hold.objects.get(ended_at=None).reference == f"training:{job.pk}:2"


def test_a_restart_of_a_pending_task_changes_nothing(create, api, alice):
    said = create().json()
    assert api(alice).put(f"{PATH}/{said['id']}/restart").json() == said
    assert Hold.objects.count() == 1


def test_a_restart_of_a_task_that_is_processing_is_a_409(create, api, alice):
    id = create().json()["id"]
    made.begin(Job.objects.get())
    assert api(alice).put(f"{PATH}/{id}/restart").status_code == 409
    assert Job.objects.get().status == "running"


@pytest.mark.parametrize("state", ["failed", "canceled", "completed"])
def test_whatever_has_ended_can_be_restarted(create, api, alice, state):
    id = create().json()["id"]
    job, now = Job.objects.get(), timezone.now()
    if state == "failed":
        attempts.fail(made.begin(job).token, code="x", reason="It broke.", retry=False, now=now)
    elif state == "canceled":
        jobs.cancel(job, now=now)
    else:
        finish(job)
    reply = api(alice).put(f"{PATH}/{id}/restart")
    assert (reply.status_code, reply.json()["status"]) == (200, "pending")


def test_a_restart_counts_against_the_key_that_asks_for_it(create, api, alice):
    id = create().json()["id"]
    finish(Job.objects.get())
    for limits, expected in (({"budget_day": 1}, 429), ({"allowed_models": ["other"]}, 404)):
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {keys.create(alice, name='k', **limits).key}")
        assert client.put(f"{PATH}/{id}/restart").status_code == expected
    assert (Job.objects.get().run, Job.objects.get().status) == (1, "succeeded")


def test_a_restart_without_its_data_is_refused(create, api, alice, batch):
    id = create().json()["id"]
    api(alice).put(f"{PATH}/{id}/cancel")
    assert api(alice).delete(f"/data/{batch}").status_code in (200, 204)
    assert api(alice).put(f"{PATH}/{id}/restart").status_code == 400
    assert Job.objects.get().status == "cancelled"


def test_cancelling_twice_is_as_good_as_once(create, api, alice):
    id = create().json()["id"]
    first, again = (api(alice).put(f"{PATH}/{id}/cancel") for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert not Hold.objects.filter(ended_at=None).exists()


def test_what_is_completed_stays_so(create, api, alice):
    id = create().json()["id"]
    finish(Job.objects.get())
    reply = api(alice).put(f"{PATH}/{id}/cancel")
    assert reply.status_code == 409
    assert api(alice).get(f"{PATH}/{id}").json()["status"] == "completed"


def test_a_late_worker_cannot_undo_a_cancellation(create, api, alice):
    id = create().json()["id"]
    attempt = made.begin(Job.objects.get())
    api(alice).put(f"{PATH}/{id}/cancel")
    result = results.Made(files={}, kind=RevisionKind.FULL, metrics={}, is_better=True)

    assert not attempts.succeed(attempt.token, result, now=timezone.now())
    assert api(alice).get(f"{PATH}/{id}").json()["status"] == "canceled"


def test_the_time_of_the_last_change_goes_on(create, api, alice):
    said = create().json()
    assert api(alice).put(f"{PATH}/{said['id']}/cancel").json()["updated_at"] > said["updated_at"]
