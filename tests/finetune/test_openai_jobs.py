"""/v1/fine_tuning/jobs"""

from typing import Any

import pytest
from django.utils import timezone

from clients import keys, ledger
from clients.models import Hold
from finetune import attempts, results
from finetune.models import Attempt, Checkpoint, Job
from inference.models import Family, Model, RevisionKind
from marketplace.money import TOKEN
from tests.finetune import asked, made

PATH = "/v1/fine_tuning/jobs"
METHOD = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
OF_A_JOB = (
    ("get", ""), ("get", "/events"), ("get", "/checkpoints"),
    ("post", "/cancel"), ("post", "/pause"), ("post", "/resume"),
)  # fmt: skip
OPENAI_KEYS = {
    "id", "object", "created_at", "error", "fine_tuned_model", "finished_at", "hyperparameters", "model",
    "organization_id", "result_files", "seed", "status", "trained_tokens", "training_file", "validation_file",
    "estimated_finish", "integrations", "metadata", "method", "user_provided_suffix",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _ready(alice: Any, charlie: Any, operator: Any) -> None:
    asked.ask(operator)
    asked.model("toy")
    made.fund(alice, 10)


@pytest.fixture
def file(alice: Any) -> str:
    return asked.upload(alice, asked.chats()).uid


@pytest.fixture
def create(api: Any, alice: Any, file: str) -> Any:
    def created(headers: Any = None, **said: Any) -> Any:
        body = {"model": "toy", "training_file": file} | said
        return api(alice).post(
            PATH, {name: value for name, value in body.items() if value != ...}, headers=headers
        )

    return created


def error(reply: Any) -> Any:
    return reply.json()["error"]


def test_a_job_begins_and_its_price_is_held(create, alice, file):
    reply = create()

    assert reply.status_code == 200, reply.json()
    said, job = reply.json(), Job.objects.get()
    assert said.keys() >= OPENAI_KEYS
    assert said["id"] == f"ftjob-{job.uid.hex}"
    assert (said["object"], said["status"]) == ("fine_tuning.job", "queued")
    assert (said["model"], said["training_file"], said["validation_file"]) == ("toy", file, None)
    assert (said["fine_tuned_model"], said["trained_tokens"], said["result_files"]) == (None, None, [])
    assert said["hyperparameters"] == {"batch_size": 2, "learning_rate_multiplier": 1, "n_epochs": 3}
    assert said["marketplace"]["currency"] == "OMNIT"
    assert job.price > 0
    assert Hold.objects.get().amount == job.price
    assert (job.face, job.where, job.owner) == ("openai", "any", alice)


def test_everything_that_openai_takes_is_taken(create, alice):
    other = asked.upload(alice, asked.chats())
    reply = create(
        validation_file=other.uid,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}},
        },
        suffix="my-model.1",
        seed=42,
        metadata={"purpose": "test"},
        integrations=None,
    )

    said, job = reply.json(), Job.objects.get()
    assert said["validation_file"] == other.uid
    assert said["hyperparameters"]["n_epochs"] == 2
    assert (said["user_provided_suffix"], said["seed"], said["metadata"]) == (
        "my-model.1",
        42,
        {"purpose": "test"},
    )
    assert job.asked == {"n_epochs": 2, "batch_size": "auto"}
    assert results.name_of(job).startswith("ft:toy:alice:my-model.1:")


def test_the_old_place_of_hyperparameters_is_understood(create):
    assert create(hyperparameters={"n_epochs": 1}).json()["hyperparameters"]["n_epochs"] == 1


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"model": ...}, "model"),
        ({"training_file": ...}, "training_file"),
        ({"model": ["toy"]}, "model"),
        ({"hyperparameters": {"n_epochs": 1}, "method": METHOD}, "hyperparameters"),
        ({"method": {"type": "dpo", "dpo": {}}}, "method"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": []}}}, "method"),
        ({"method": {"type": "supervised", "supervised": 5}}, "method"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters"),
        ({"hyperparameters": {"learning_speed": 1}}, "hyperparameters"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"suffix": "a:b"}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "My shop"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"metadata": {"x": 1}}, "metadata"),
        ({"metadata": {"x": "a\0b"}}, "metadata"),
        ({"metadata": {"x" * 65: "a"}}, "metadata"),
        ({"metadata": {str(each): "" for each in range(17)}}, "metadata"),
        ({"where": "moon"}, "where"),
        ({"where": "allocation"}, "allocation_id"),
        ({"allocation_id": "x"}, "allocation_id"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_begun(create, said, param):
    reply = create(**said)

    assert reply.status_code == 400, reply.json()
    assert error(reply)["type"] == "invalid_request_error"
    assert error(reply)["param"] == param
    assert not Job.objects.exists()
    assert not Hold.objects.exists()


def test_a_wrong_hyperparameter_is_told_with_what_it_may_be(create):
    message = error(create(hyperparameters={"n_epochs": 0}))["message"]
    assert "n_epochs" in message
    assert "from 0.01 to 50" in message


def test_a_model_that_is_not_there_is_a_404_with_names_like_it(create):
    reply = create(model="toi")
    assert reply.status_code == 404
    assert "'toy'" in error(reply)["message"]


def test_a_model_that_only_nodes_have_cannot_be_trained(create):
    Model.objects.create(name="llama")
    reply = create(model="llama")
    assert (reply.status_code, error(reply)["code"]) == (400, "model_not_trainable")


def test_somebody_elses_file_is_a_404(create, charlie):
    theirs = asked.upload(charlie, asked.chats()).uid
    for field in ("training_file", "validation_file"):
        reply = create(**{field: theirs})
        assert (reply.status_code, error(reply)["code"], error(reply)["param"]) == (
            404,
            "dataset_not_found",
            field,
        )


def test_a_field_that_is_not_known_is_told_those_that_are(create):
    said = error(create(dataset="file-1"))
    assert said["param"] == "dataset"
    assert "training_file" in said["message"]


def test_somebody_elses_model_is_a_404(create, charlie):
    asked.model("secret", owner=charlie)
    reply = create(model="secret")
    assert (reply.status_code, error(reply)["code"]) == (404, "model_not_found")


def test_a_published_model_of_somebody_else_can_be_trained(create, charlie):
    asked.model("shared", owner=charlie, published_at=timezone.now())
    assert create(model="shared").status_code == 200


def test_a_file_that_does_not_fit_the_model_is_refused(create, alice):
    reply = create(training_file=asked.upload(alice, asked.clicks()).uid)
    assert (reply.status_code, error(reply)["code"]) == (400, "dataset_unusable")


def test_a_file_that_is_still_looked_at_can_be_tried_again(create, alice):
    waiting = made.dataset(alice, status="validating")
    reply = create(training_file=waiting.uid)
    assert (reply.status_code, error(reply)["code"]) == (409, "dataset_not_ready")
    assert reply.headers["Retry-After"]


def test_who_cannot_pay_begins_nothing(create, alice, operator):
    asked.ask(operator, 10**6 * asked.PRICE)
    reply = create()
    assert (reply.status_code, error(reply)["type"]) == (402, "insufficient_quota")
    assert not Job.objects.exists()


def test_where_nobody_trains_it_is_said(create, settings):
    settings.TRAINING_SLOTS = 0
    reply = create()
    assert (reply.status_code, error(reply)["code"]) == (503, "no_place")


def test_a_dry_run_only_answers_the_quote(create, api, alice):
    for reply in (create(dry_run=True), create(headers={"X-Dry-Run": "true"})):
        said = reply.json()
        assert (reply.status_code, said["object"]) == (200, "fine_tuning.quote")
        assert float(said["price"]) > 0
        assert said["rows"] == 12
    assert not Job.objects.exists()
    assert create().json()["marketplace"]["price"] == said["price"]


def test_it_can_be_said_where_it_may_run(create):
    create(where="here")
    create(headers={"X-Where": "here"})
    assert list(Job.objects.values_list("where", flat=True)) == ["here", "here"]


def test_trusted_nodes_only(create):
    reply = create(headers={"X-Trusted-Only": "true"})
    assert (reply.status_code, error(reply)["code"]) == (503, "no_place")


def test_an_allocation_must_be_ones_own(create):
    reply = create(headers={"X-Allocation": "11111111-2222-3333-4444-555555555555"})
    assert reply.status_code == 404


def test_a_repeat_with_the_same_key_is_the_same_job(create):
    first, again = (create(headers={"Idempotency-Key": "one"}) for _ in range(2))

    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert Job.objects.count() == 1
    assert create(headers={"Idempotency-Key": "one"}, seed=3).status_code == 409


def test_a_key_of_one_model_trains_only_that(api, alice, file):
    asked.model("other")
    secret = keys.create(alice, name="test", allowed_models=["other"]).key
    for name, status in (("toy", 404), ("other", 200)):
        reply = api().post(
            PATH, {"model": name, "training_file": file}, headers={"Authorization": f"Bearer {secret}"}
        )
        assert reply.status_code == status
    assert Job.objects.get().api_key is not None


def test_a_job_is_read(create, api, alice):
    said = create().json()
    assert api(alice).get(f"{PATH}/{said['id']}").json() == said


@pytest.mark.parametrize("id", ["ftjob-x", "ftjob-" + "0" * 32, "x", "1", "%00"])
def test_what_is_not_there_is_a_404(api, alice, id):
    for method, end in OF_A_JOB:
        reply = getattr(api(alice), method)(f"{PATH}/{id}{end}")
        assert (reply.status_code, error(reply)["type"]) == (404, "invalid_request_error")


def test_somebody_elses_job_is_a_404(create, api, charlie):
    id = create().json()["id"]
    for method, end in OF_A_JOB:
        assert getattr(api(charlie), method)(f"{PATH}/{id}{end}").status_code == 404
    assert api(charlie).get(PATH).json()["data"] == []


def test_nobody_gets_anything_without_a_credential(create, api):
    id = create().json()["id"]
    assert api().post(PATH).status_code == api().get(PATH).status_code == 401
    for method, end in OF_A_JOB:
        assert getattr(api(), method)(f"{PATH}/{id}{end}").status_code == 401


def test_jobs_are_listed_in_pages_the_newest_first(create, api, alice):
    ids = [create().json()["id"] for _ in range(3)]
    first = api(alice).get(PATH, {"limit": 2}).json()
    rest = api(alice).get(PATH, {"limit": 2, "after": first["data"][-1]["id"]}).json()

    assert first["object"] == "list"
    assert [job["id"] for job in first["data"] + rest["data"]] == ids[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_jobs_are_found_by_their_metadata(create, api, alice):
    create(metadata={"team": "red", "n": "1"})
    create(metadata={"team": "blue"})
    create()

    def found(**query: str) -> Any:
        return [job["metadata"] for job in api(alice).get(PATH, query).json()["data"]]

    assert found(**{"metadata[team]": "red"}) == [{"team": "red", "n": "1"}]
    assert found(**{"metadata[team]": "red", "metadata[n]": "2"}) == []
    assert found(metadata="null") == [{}]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"limit": "-1"},
        {"after": "nothing"}, {"after": "ftjob-" + "0" * 32},
        {"metadata": "x"}, {"metadata": "null", "metadata[a]": "b"}, {"metadata[a]": "a\0b"},
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_is_refused(api, alice, query):
    assert api(alice).get(PATH, query).status_code == 400


def test_cancelling_gives_the_money_back(create, api, alice):
    id = create().json()["id"]
    reply = api(alice).post(f"{PATH}/{id}/cancel")

    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert reply.json()["finished_at"]
    assert not Hold.objects.filter(ended_at=None).exists()
    assert api(alice).post(f"{PATH}/{id}/cancel").status_code == 200


def test_pausing_and_resuming(create, api, alice):
    id = create().json()["id"]
    assert api(alice).post(f"{PATH}/{id}/pause").json()["status"] == "paused"
    assert api(alice).post(f"{PATH}/{id}/resume").json()["status"] == "queued"


def test_what_does_not_go_with_the_state_is_a_409_that_is_not_tried_again(create, api, alice):
    id = create().json()["id"]
    api(alice).post(f"{PATH}/{id}/cancel")
    for end in ("pause", "resume"):
        reply = api(alice).post(f"{PATH}/{id}/{end}")
        assert (reply.status_code, error(reply)["code"]) == (409, "wrong_state")
        assert reply.headers["X-Should-Retry"] == "false"


def test_a_failed_job_says_why(create, api, alice):
    id = create().json()["id"]
    job = Job.objects.get()
    attempt = made.begin(job)
    attempts.fail(
        attempt.token, code="out_of_memory", reason="The memory is full.", retry=False, now=timezone.now()
    )

    said = api(alice).get(f"{PATH}/{id}").json()
    assert said["status"] == "failed"
    assert said["error"] == {"code": "out_of_memory", "message": "The memory is full.", "param": None}


@pytest.fixture
def done(create) -> Job:
    """A job that has succeeded, with everything that a trainer says."""
    create()
    job = Job.objects.get()
    attempt, now = made.begin(job), timezone.now()
    hear(attempt)
    Checkpoint.objects.create(
        job=job, attempt=attempt, run=1, step=4, blob=made.blob(), metrics={"loss": 0.7, "eval_loss": 0.8}
    )
    result = results.Made(
        files={"adapter_model.safetensors": made.blob()},
        kind=RevisionKind.ADAPTER,
        metrics={"main": "eval_loss", "before": {"eval_loss": 2.0}, "after": {"eval_loss": 0.5}},
        is_better=True,
    )
    assert attempts.succeed(attempt.token, result, now=now)
    job.refresh_from_db()
    return job


def hear(attempt: Attempt) -> None:
    said = [
        {"event": "data", "rows": 10, "held_out": 2, "tokens": 300, "longest": 30, "cut": 0},
        {"event": "evaluated", "when": "before", "step": 0, "metrics": {"eval_loss": 2.0}},
        {"event": "progress", "step": 4, "steps": 8, "epoch": 1.5, "loss": 0.7, "learning_rate": 1e-4,
         "tokens": 100, "tokens_per_s": 50.0, "left_s": 2.0},
        {"event": "evaluated", "when": "after", "step": 8, "metrics": {"eval_loss": 0.5}},
    ]  # fmt: skip
    attempts.hear(attempt.token, said, first_number=1, now=timezone.now())


def test_a_running_job_says_when_it_may_be_done(create, api, alice):
    id = create().json()["id"]
    hear(made.begin(Job.objects.get()))
    said = api(alice).get(f"{PATH}/{id}").json()
    assert said["status"] == "running"
    assert said["estimated_finish"] >= said["created_at"]
    assert said["marketplace"]["progress"]["step"] == 4


def test_a_job_that_has_succeeded_names_its_model_and_what_it_cost(done, api, alice):
    said = api(alice).get(f"{PATH}/ftjob-{done.uid.hex}").json()

    assert (said["status"], said["fine_tuned_model"]) == ("succeeded", results.name_of(done))
    assert said["trained_tokens"] == int(done.tokens * done.epochs)
    assert said["marketplace"]["charged"] == said["marketplace"]["price"]
    assert said["result_files"] == [f"file-result-{done.uid.hex}"]
    assert ledger.account(alice.pk, "spendable").balance == 10 * TOKEN - done.price


def test_events_are_listed_the_newest_first(done, api, alice):
    path = f"{PATH}/ftjob-{done.uid.hex}/events"
    events = api(alice).get(path).json()["data"]
    page = api(alice).get(path, {"limit": 2, "after": events[0]["id"]}).json()

    assert [event["id"] for event in page["data"]] == [event["id"] for event in events[1:3]]
    assert page["has_more"]
    assert events[-1]["message"].startswith("Created")
    assert {event["object"] for event in events} == {"fine_tuning.job.event"}
    metrics = [event["data"] for event in events if event["type"] == "metrics"]
    assert metrics[0]["valid_loss"] == 0.5
    assert (metrics[1]["step"], metrics[1]["total_steps"], metrics[1]["train_loss"]) == (4, 8, 0.7)
    assert api(alice).get(path, {"after": "ftevent-x"}).status_code == 400


def test_checkpoints_are_listed(done, api, alice):
    said = api(alice).get(f"{PATH}/ftjob-{done.uid.hex}/checkpoints").json()
    checkpoint = said["data"][0]

    assert (checkpoint["object"], checkpoint["step_number"]) == ("fine_tuning.job.checkpoint", 4)
    assert checkpoint["fine_tuning_job_id"] == f"ftjob-{done.uid.hex}"
    assert checkpoint["metrics"]["train_loss"] == 0.7
    assert checkpoint["metrics"]["full_valid_loss"] == 0.8
    assert said["first_id"] == said["last_id"] == checkpoint["id"]


def test_the_result_file_is_a_table_of_the_steps(done, api, alice, charlie):
    path = f"/v1/files/file-result-{done.uid.hex}"
    table = api(alice).get(f"{path}/content").content.decode().splitlines()

    assert table[0] == "step,train_loss,learning_rate,epoch,tokens,tokens_per_s,valid_loss"
    assert table[1:] == ["0,,,,,,2.0", "4,0.7,0.0001,1.5,100,50.0,", "8,,,,,,0.5"]
    assert api(alice).get(path).json()["purpose"] == "fine-tune-results"
    assert api(charlie).get(path).status_code == api(charlie).get(f"{path}/content").status_code == 404


def test_a_job_without_a_result_has_no_result_file(create, api, alice):
    create()
    assert api(alice).get(f"/v1/files/file-result-{Job.objects.get().uid.hex}").status_code == 404


@pytest.mark.parametrize("spelling", ["name", "number", "digest", "hash", "job"])
def test_a_result_can_be_trained_further(done, create, spelling):
    revision = done.result
    name = {
        "name": revision.model.name,
        "number": f"{revision.model.name}@1",
        "digest": f"{revision.model.name}@{revision.label}",
        "hash": revision.model_hash,
        "job": f"ftjob-{done.uid.hex}",
    }[spelling]
    assert create(model=name).json()["model"] == revision.model.name


def test_an_alias_stands_for_its_model(create):
    Model.objects.create(name="live", is_alias=True, target=Model.objects.get(name="toy"))
    Model.objects.create(name="dead", is_alias=True)
    assert create(model="live").json()["model"] == "toy"
    assert create(model="dead").status_code == 400


def test_an_embedding_model_is_taught_with_clicks(create, alice):
    asked.model("encoder", Family.EMBEDDING)
    reply = create(model="encoder", training_file=asked.upload(alice, asked.clicks()).uid)
    assert reply.json()["marketplace"]["method"] == "embedding"
