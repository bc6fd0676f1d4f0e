"""/fine-tuning/quote, /fine-tuning/parameters, /fine-tuning/jobs, and the files of a result."""

import io
import tarfile
from typing import Any

import pytest
from django.utils import timezone

from clients import files
from clients.models import Hold
from finetune import attempts, results
from finetune.models import Job
from inference.models import RevisionKind
from marketplace import money
from tests.finetune import asked, made

QUOTE = "/fine-tuning/quote"


@pytest.fixture(autouse=True)
def _ready(alice: Any, charlie: Any, operator: Any) -> None:
    asked.ask(operator)
    asked.model("toy")
    made.fund(alice, 1000)


@pytest.fixture
def dataset(alice: Any) -> str:
    return asked.upload(alice, asked.chats()).uid


def test_a_quote_says_what_it_costs_before_anything_does(api, alice, dataset):
    reply = api(alice).post(QUOTE, {"model": "toy", "dataset": dataset, "hyperparameters": {"n_epochs": 2}})

    assert reply.status_code == 200, reply.json()
    said = reply.json()
    assert (said["model"], said["dataset"], said["method"], said["rows"]) == ("toy", dataset, "causal", 12)
    assert said["trained_tokens"] == 2 * said["tokens"]
    assert money.parse(said["price"]) == money.per_million(said["trained_tokens"], asked.PRICE)
    assert said["estimated_minutes"] > 0
    assert not said["estimate_is_measured"]
    assert said["hyperparameters"]["batch_size"] == 2
    assert not Job.objects.exists()
    assert not Hold.objects.exists()


@pytest.mark.parametrize(
    ("said", "epochs"),
    [
        ({"n_epochs": 1, "max_steps": 10_000}, 1),
        ({"n_epochs": 3, "max_steps": 2, "batch_size": 4}, 2 / 3),
        ({"n_epochs": 0.01, "batch_size": 4, "gradient_accumulation": 3}, 1),
        ({"n_epochs": 0.5, "batch_size": 4}, 2 / 3),
        ({"n_epochs": 3, "batch_size": 5}, 3),
    ],
)
def test_what_is_trained_is_what_is_paid_for(api, alice, dataset, said, epochs):
    """A training is made of whole steps: of 12 rows, and no more of them than there are epochs for."""
    quoted = api(alice).post(QUOTE, {"model": "toy", "dataset": dataset, "hyperparameters": said}).json()
    assert quoted["epochs"] == pytest.approx(epochs)
    assert quoted["trained_tokens"] == pytest.approx(quoted["tokens"] * epochs, abs=1)


def test_a_job_costs_what_its_quote_said(api, alice, dataset):
    said = {"model": "toy", "hyperparameters": {"n_epochs": 2, "max_steps": 3}}
    quoted = api(alice).post(QUOTE, said | {"dataset": dataset}).json()["price"]
    api(alice).post("/v1/fine_tuning/jobs", said | {"training_file": dataset})
    assert money.render(Job.objects.get().price) == quoted


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"model": "nothing"}, 404), ({"dataset": "file-nothing"}, 404), ({"validation": "file-nothing"}, 404),
        ({"hyperparameters": {"x": 1}}, 400), ({"hyperparameters": 5}, 400), ({"where": "moon"}, 400),
        ({"what": 1}, 400),
        ({"where": "nodes"}, 503),
    ],
)  # fmt: skip
def test_what_cannot_be_quoted_is_refused(api, alice, dataset, said, status):
    reply = api(alice).post(QUOTE, {"model": "toy", "dataset": dataset} | said)
    assert reply.status_code == status
    assert list(reply.json()) == ["detail"]


def test_a_quote_is_for_who_is_known_and_of_what_is_theirs(api, charlie, dataset):
    body = {"model": "toy", "dataset": dataset}
    assert api().post(QUOTE, body).status_code == 401
    assert api(charlie).post(QUOTE, body).status_code == 404


def test_everybody_may_read_which_hyperparameters_there_are(api):
    said = api().get("/fine-tuning/parameters").json()
    assert said.keys() == {"causal", "embedding"}
    assert said["causal"]["schema"]["properties"]["n_epochs"]["oneOf"][0]["maximum"] == 50
    assert "clicks" in said["embedding"]["formats"]
    assert "scored_pairs" in said["embedding"]["losses"]
    assert said["causal"]["losses"] == {}


@pytest.fixture
def done(api: Any, alice: Any, dataset: str) -> Job:
    api(alice).post("/v1/fine_tuning/jobs", {"model": "toy", "training_file": dataset})
    job = Job.objects.get()
    attempt = made.begin(job)
    said = [{"event": "progress", "step": 1, "steps": 1, "loss": 0.5, "epoch": 1.0, "learning_rate": 0.1}]
    attempts.hear(attempt.token, said, first_number=1, now=timezone.now())
    found = {
        name: files.keep_all([content], limit=10**8)
        for name, content in {"model.safetensors": b"w" * 3000, "1_Pooling/config.json": b"{}"}.items()
    }
    result = results.Made(files=found, kind=RevisionKind.FULL, metrics={}, is_better=True)
    assert attempts.succeed(attempt.token, result, now=timezone.now())
    job.refresh_from_db()
    return job


def test_a_result_is_downloaded_as_one(done, api, alice):
    reply = api(alice).get(f"/fine-tuning/task/{done.uid.hex}/artifact")
    content = b"".join(reply.streaming_content)

    assert int(reply.headers["Content-Length"]) == len(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        folder = results.name_of(done).replace(":", "-")
        assert archive.getnames() == [f"{folder}/1_Pooling/config.json", f"{folder}/model.safetensors"]
        member = archive.extractfile(f"{folder}/model.safetensors")
        assert member is not None
        assert member.read() == b"w" * 3000


def test_a_results_files_are_listed_and_downloaded(done, api, alice):
    path = f"/fine-tuning/task/{done.uid.hex}/artifact/files"
    listed = api(alice).get(path).json()

    assert [(each["path"], each["size"]) for each in listed] == [
        ("1_Pooling/config.json", 2),
        ("model.safetensors", 3000),
    ]
    assert listed[0]["url"].endswith(f"{path}/1_Pooling/config.json")
    reply = api(alice).get(f"{path}/model.safetensors", headers={"Range": "bytes=0-9"})
    assert (reply.status_code, b"".join(reply.streaming_content)) == (206, b"w" * 10)
    assert b"".join(api(alice).get(f"{path}/1_Pooling/config.json").streaming_content) == b"{}"
    for other in ("nothing", "../model.safetensors", "1_Pooling", "model.safetensors/"):
        assert api(alice).get(f"{path}/{other}").status_code in (200 if other.endswith("s/") else 404, 404)


def test_a_result_is_its_owners(done, api, charlie):
    for end in ("", "/files", "/files/model.safetensors"):
        assert api(charlie).get(f"/fine-tuning/task/{done.uid.hex}/artifact{end}").status_code == 404
        assert api().get(f"/fine-tuning/task/{done.uid.hex}/artifact{end}").status_code == 401


def test_without_a_result_there_is_nothing_to_download(api, alice, dataset):
    api(alice).post("/v1/fine_tuning/jobs", {"model": "toy", "training_file": dataset})
    reply = api(alice).get(f"/fine-tuning/task/{Job.objects.get().uid.hex}/artifact")
    assert reply.status_code == 409


def test_all_that_is_known_of_a_job(done, api, alice, charlie):
    path = f"/fine-tuning/jobs/{done.uid.hex}"
    said = api(alice).get(path).json()

    assert (said["api"], said["model"], said["status"], said["result"]) == (
        "openai",
        "toy",
        "succeeded",
        results.name_of(done),
    )
    assert api(alice).get("/fine-tuning/jobs").json() == [said]
    assert api(alice).get(f"{path}/steps").json()[0]["train_loss"] == 0.5
    log = api(alice).get(f"{path}/log")
    assert b"completed successfully" in log.content
    for end in ("", "/steps", "/log"):
        assert api(charlie).get(f"{path}{end}").status_code == 404
        assert api().get(f"{path}{end}").status_code == 401
    assert api(charlie).get("/fine-tuning/jobs").json() == []
