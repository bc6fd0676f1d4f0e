"""Results that nodes hand in: looked at before anybody is paid for them."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from clients import terms
from clients.models import Blob, Hold, Transfer
from finetune import deliveries, jobs
from finetune.models import Attempt, AttemptOutcome, JobStatus
from gpus.models import Node
from inference.models import Model
from tests.clients import ledger_books
from tests.finetune import made
from tests.finetune.nodes import CHECKPOINT, Caller, adapter, safetensors, sha256, with_token

pytestmark = pytest.mark.django_db


@pytest.fixture
def node(bob: Any, operator: Any) -> Node:
    terms.change(by=operator, reason="A share.", fee_bps=1000)
    return made.node(bob)


@pytest.fixture
def job(alice: Any, node: Node) -> Any:
    return made.job(alice)


@pytest.fixture
def caller(job: Any, node: Node) -> Caller:
    return Caller(made.begin(job, node), with_token(node))


def refused(caller: Caller, job: Any, reply: Any) -> str:
    """Nothing was paid, and the job goes on elsewhere; what was said."""
    assert reply.status_code == 400, reply.content
    job.refresh_from_db()
    caller.attempt.refresh_from_db()
    assert (caller.attempt.outcome, caller.attempt.code) == (AttemptOutcome.FAILED, "bad_result")
    assert (job.status, job.code, job.charged, job.result) == (JobStatus.PENDING, "bad_result", 0, None)
    assert not Transfer.objects.filter(kind="training").exists()
    return str(reply.json())


def test_a_good_result_is_published_and_paid_for_once(caller: Caller, job: Any, bob: Any) -> None:
    assert caller.finish(adapter()).status_code == 200
    job.refresh_from_db()
    assert (job.status, job.charged, job.fee) == (JobStatus.SUCCEEDED, job.price, job.price // 10)
    assert (job.provider_id, job.is_better) == (bob.pk, True)
    assert job.metrics["after"] == {"eval_loss": 1.0}
    assert job.result.base_id == job.base_id
    assert set(job.result.files.values_list("path", flat=True)) == set(adapter())
    transfer = Transfer.objects.get(kind="training")
    assert (transfer.amount, transfer.fee, transfer.destination.client_id) == (job.price, job.fee, bob.pk)
    assert not Hold.objects.filter(ended_at=None).exists()
    # The answer was lost, and it says so again.
    listed = [{"path": path, "sha256": sha256(content)} for path, content in adapter().items()]
    assert caller.post("finish", {"files": listed, "said": {"kind": "adapter"}}).status_code == 200
    assert Transfer.objects.filter(kind="training").count() == 1
    assert ledger_books.wrong() == []
    assert caller.attempt.files.count() == 0


def test_a_result_is_its_owners_though_somebody_has_its_name(caller: Caller, job: Any, alice: Any) -> None:
    """A node that trains knows what the result will be called."""
    taken = Model.objects.create(name=caller.get().json()["spec"]["title"])
    assert caller.finish(adapter()).status_code == 200
    job.refresh_from_db()
    assert job.status == JobStatus.SUCCEEDED
    assert (job.result.model.owner, job.result.model.name) == (alice, taken.name + job.uid.hex[8:])
    assert not taken.revisions.exists()


def test_a_result_of_a_job_that_was_cancelled_meanwhile_is_not_taken(caller: Caller, job: Any) -> None:
    jobs.cancel(job, now=timezone.now())
    assert caller.finish(adapter()).status_code == 409
    job.refresh_from_db()
    assert (job.status, job.charged) == (JobStatus.CANCELLED, 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"adapter_model.safetensors": b"\x80\x04pickle"}, "no safetensors file"),
        ({"adapter_model.safetensors": safetensors()[:-1]}, "not complete"),
        ({"adapter_model.safetensors": None}, "missing"),
        ({"adapter_config.json": None}, "missing"),
        ({"adapter_config.json": b"{"}, "not valid JSON"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "model-2-of-2.safetensors"}}'},
            "not there",
        ),
    ],
)
def test_a_bad_result_pays_nobody(caller: Caller, job: Any, change: dict[str, Any], sentence: str) -> None:
    files = {path: content for path, content in (adapter() | change).items() if content is not None}
    assert sentence in refused(caller, job, caller.finish(files))


def test_a_result_of_another_kind_is_bad(caller: Caller, job: Any) -> None:
    full = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": safetensors()}
    refused(caller, job, caller.finish(full, kind="adapter"))


@pytest.mark.parametrize("said", [{"kind": "other"}, {"kind": None}, {"kind": ["full"]}])
def test_the_word_must_fit_the_files(caller: Caller, job: Any, said: dict[str, Any]) -> None:
    refused(caller, job, caller.finish(adapter(), **said))


def test_metrics_are_numbers_whatever_was_said(caller: Caller, job: Any) -> None:
    said = {
        "before": "much",
        "after": {"eval_loss": "\0", "x": 2},
        "tokens": "many",
        "is_better": "yes",
        "main": 7,
    }
    assert caller.finish(adapter(), **said).status_code == 200
    job.refresh_from_db()
    assert job.metrics["after"] == {"x": 2}
    assert job.metrics["before"] == {}
    assert job.is_better is False


@pytest.mark.parametrize(
    "path",
    [
        "../up.json",
        "/abs.json",
        "weights.bin",
        "code.py",
        ".hidden.json",
        "a/../b.json",
        "x" * 256 + ".json",
        "archive.tar",
    ],
)
def test_a_file_that_no_model_may_have_is_not_taken(caller: Caller, path: str) -> None:
    assert caller.announce(path, b"x").status_code == 400


def test_only_what_was_announced_is_taken(caller: Caller) -> None:
    link = caller.announce("README.md", b"as announced").json()["url"]
    for content in (b"as announceD", b"as announced, and more", b""):
        assert caller.put(link, content).status_code in (400, 413)
    assert caller.attempt.files.count() == 0
    assert caller.put(link, b"as announced").json()["size"] == 12
    assert caller.announce("README.md", b"as announced").json() == {"url": None}


def test_a_node_cannot_have_what_it_has_not_sent(caller: Caller, alice: Any) -> None:
    """Whoever knows a content's hash does not get at the content by it."""
    secret = made.blob()
    caller.send("adapter_config.json", b"{}")
    reply = caller.announce("adapter_model.safetensors", b"", sha256=secret.sha256, size=secret.size)
    assert reply.json()["url"] is not None
    listed = [{"path": "adapter_model.safetensors", "sha256": secret.sha256}]
    reply = caller.post("finish", {"files": listed, "said": {"kind": "adapter"}})
    assert (reply.status_code, reply.json()["code"]) == (400, "file_not_sent")
    caller.attempt.refresh_from_db()
    assert caller.attempt.ended_at is None


def test_files_of_another_attempt_do_not_count(caller: Caller, alice: Any, bob: Any) -> None:
    other_node = made.node(bob, "other")
    other = Caller(made.begin(made.job(alice), other_node), with_token(other_node))
    listed = [{"path": path, "sha256": other.send(path, content)} for path, content in adapter().items()]
    reply = caller.post("finish", {"files": listed, "said": {"kind": "adapter"}})
    assert (reply.status_code, reply.json()["code"]) == (400, "file_not_sent")


def test_a_file_is_bounded_by_the_base(caller: Caller) -> None:
    slack = 256 * 1024 * 1024
    assert caller.announce("adapter_model.safetensors", b"", size=slack // 2).status_code == 200
    assert caller.announce("adapter_model.safetensors", b"", size=slack + 1000).status_code == 413
    assert caller.announce(CHECKPOINT, b"", size=slack + 1000).status_code == 413
    assert caller.announce("adapter_model.safetensors", b"", size=-1).status_code == 400
    assert caller.announce("adapter_model.safetensors", b"", size=2**70).status_code == 400


def test_an_attempt_cannot_send_without_end(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_SLACK", 10)
    monkeypatch.setattr(deliveries, "_MORE_CHECKPOINTS", 0)
    codes = []
    for number in range(400):
        content = b"%03d" % number
        reply = caller.announce(CHECKPOINT, content)
        codes.append(reply.status_code)
        if reply.status_code == 200:
            caller.put(reply.json()["url"], content)
    assert 400 in codes


def test_a_result_has_not_too_many_files(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.weights.MOST_FILES", 3)
    codes = [caller.announce(f"{n}.json", b"{}").status_code for n in range(3)]
    for number in range(5):
        reply = caller.announce(f"{number}.json", b"{}")
        if reply.status_code == 200:
            caller.put(reply.json()["url"], b"{}")
        codes.append(reply.status_code)
    assert codes[-1] == 400


@pytest.mark.parametrize(
    "body",
    [
        {"files": [], "said": {}},
        {"files": [{"path": "a.json", "sha256": "xyz"}], "said": {}},
        {"files": [{"path": "a.json", "sha256": "0" * 64}]},
        {"files": [{"path": "a.json", "sha256": "0" * 64}] * 501, "said": {}},
        {"files": "all", "said": []},
        {},
    ],
)
def test_an_end_in_another_form_is_refused(caller: Caller, body: dict[str, Any]) -> None:
    assert caller.post("finish", body).status_code == 400


def test_what_is_sent_by_many_is_kept_once(caller: Caller) -> None:
    caller.send("README.md", b"the same")
    caller.send("MORE.md", b"the same")
    assert Blob.objects.filter(pk=sha256(b"the same")).count() == 1
    assert settings.MAX_FILE_BYTES
    assert Attempt.objects.get(pk=caller.attempt.pk).facts["received_bytes"] == 16
