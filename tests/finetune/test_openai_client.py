"""The official OpenAI client, unchanged, against the marketplace as it is served; one job is really trained."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from clients import keys
from clients.models import Hold
from finetune import tasks
from finetune.models import Job
from marketplace import money
from tests.finetune import asked, made
from tests.served import Server


@pytest.fixture
def client(server: Server, alice: Any, key: str, operator: Any, tmp_path: Path) -> Iterator[OpenAI]:
    asked.ask(operator)
    made.fund(alice, 1000)
    asked.tiny(tmp_path / "tiny")
    with OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as found:
        yield found


@pytest.fixture
def file(client: OpenAI) -> str:
    return client.files.create(file=("rows.jsonl", asked.chats(16)), purpose="fine-tune").id


def test_a_job_from_its_beginning_to_its_end(client, file, alice):
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file,
        suffix="colours",
        seed=7,
        metadata={"team": "red"},
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": "auto"}
            },
        },
        extra_body={"where": "here"},
    )
    assert (job.status, job.object, job.seed) == ("queued", "fine_tuning.job", 7)

    assert tasks.run_jobs() == 1
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded", done
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith("ft:tiny:alice:colours:")
    assert done.method is not None
    assert done.method.supervised is not None
    assert done.hyperparameters.n_epochs == 2
    assert done.finished_at >= done.created_at
    row = Job.objects.get()
    assert done.trained_tokens == row.tokens * 2
    assert done.marketplace["charged"] == money.render(row.price)

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))
    assert len(events) == row.events.count()
    assert events[0].created_at >= events[-1].created_at
    assert {event.type for event in events} == {"message", "metrics"}
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert checkpoints[0].fine_tuning_job_id == job.id
    assert checkpoints[0].step_number > 0
    assert checkpoints[0].metrics.full_valid_loss

    content = client.files.content(done.result_files[0]).text
    table = list(csv.DictReader(io.StringIO(content)))
    assert any(line["train_loss"] for line in table)
    assert any(line["valid_loss"] for line in table)
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"


def test_pausing_resuming_and_cancelling(client, file):
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="only a job that"):
        client.fine_tuning.jobs.resume(job.id)
    assert not Hold.objects.filter(ended_at=None).exists()


def test_lists_go_on_by_themselves(client, file):
    ids = [
        client.fine_tuning.jobs.create(model="tiny", training_file=file, metadata={"n": str(n % 2)}).id
        for n in range(5)
    ]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == ids[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"n": "1"})] == [ids[3], ids[1]]


def test_its_errors_are_the_clients(client, file, server, charlie):
    with pytest.raises(openai.NotFoundError, match="Did you mean 'tiny'"):
        client.fine_tuning.jobs.create(model="tinny", training_file=file)
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(model="tiny", training_file=file, hyperparameters={"n_epochs": 99})
    assert (refused.value.param, refused.value.code) == ("hyperparameters", "invalid_hyperparameters")
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve("ftjob-nothing")
    stranger = OpenAI(base_url=f"{server.url}/v1", api_key=keys.create(charlie, name="x").key, max_retries=0)
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file)
    with stranger, pytest.raises(openai.NotFoundError):
        stranger.fine_tuning.jobs.cancel(job.id)
