"""`/llm_models/training/{attempt}/…`: what a node gets and says while it trains."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from clients import credentials, keys
from finetune import attempts, deliveries, jobs, supervision
from finetune.models import Attempt, AttemptOutcome, Checkpoint, Event, JobStatus
from finetune.places import Place
from tests.finetune import made
from tests.finetune.nodes import CHECKPOINT, Caller, with_token

pytestmark = pytest.mark.django_db
PROGRESS = {"event": "progress", "step": 3, "steps": 10, "loss": 1.5, "tokens_per_s": 100.0}


@pytest.fixture
def node(bob: Any) -> Any:
    return made.node(bob)


@pytest.fixture
def job(alice: Any) -> Any:
    return made.job(alice)


@pytest.fixture
def attempt(job: Any, node: Any) -> Attempt:
    return made.begin(job, node)


@pytest.fixture
def caller(attempt: Attempt, node: Any) -> Caller:
    return Caller(attempt, with_token(node))


# --- Who may call -----------------------------------------------------------------------------------------

CALLS = ["", "events", "files", "checkpoints", "finish", "fail", "stopped"]


def call(who: Caller, name: str) -> Any:
    return who.post(name) if name else who.get()


@pytest.mark.parametrize("name", CALLS)
def test_another_node_finds_nothing(attempt: Attempt, name: str, charlie: Any) -> None:
    for owner in (attempt.node.owner, charlie):
        other = Caller(attempt, with_token(made.node(owner, "other")))
        assert call(other, name).status_code == 404


@pytest.mark.parametrize("name", CALLS)
def test_accounts_and_strangers_may_not(attempt: Attempt, name: str, alice: Any, bob: Any) -> None:
    tokens = ["", "nonsense", keys.create(alice, name="her").key, keys.create(bob, name="his").key]
    for token in tokens:
        assert call(Caller(attempt, token), name).status_code == 401


def test_a_node_that_was_registered_again_needs_its_new_token(caller: Caller, node: Any) -> None:
    assert caller.get().status_code == 200
    again = with_token(node)
    assert caller.get().status_code == 401
    assert Caller(caller.attempt, again).get().status_code == 200


def test_the_errands_name_what_is_to_be_trained(caller: Caller, node: Any, bob: Any) -> None:
    attempt = caller.attempt
    path = f"/llm_models/training/{attempt.token}/"
    assert supervision.errands(node.pk) == [{"attempt": str(attempt.token), "method": "causal", "path": path}]
    assert supervision.errands(made.node(bob, "other").pk) == []
    jobs.cancel(attempt.job, now=timezone.now())
    assert supervision.errands(node.pk) == []


# --- What it gets -----------------------------------------------------------------------------------------


def test_the_briefing_has_all_that_is_needed(caller: Caller, job: Any) -> None:
    said = caller.get().json()
    base = job.base.files.get().blob
    assert said["base"]["digest"] == job.base.digest
    (file,) = said["base"]["files"]
    assert (file["path"], file["sha256"], file["size"]) == ("model.safetensors", base.sha256, base.size)
    assert said["rows"]["sha256"] == job.dataset.rows.sha256
    assert (said["adapter"], said["validation"], said["checkpoint"], said["next_event"]) == (
        None,
        None,
        None,
        1,
    )
    assert said["spec"]["parameters"] == job.parameters
    assert said["rows"]["url"].startswith("/files/")


def test_after_its_end_nothing_is_given_or_taken(caller: Caller) -> None:
    attempts.lose(caller.attempt.token, code="node_lost", reason="Gone.", now=timezone.now())
    closed = [name for name in CALLS if name not in ("events", "finish")]
    assert [call(caller, name).status_code for name in closed] == [409] * len(closed)
    assert caller.say(PROGRESS).json()["order"] == "stop"
    assert Event.objects.filter(kind="progress").count() == 0


# --- Events -----------------------------------------------------------------------------------------------


def test_events_are_noted_once_however_often_they_come(caller: Caller, job: Any) -> None:
    first, second = PROGRESS, PROGRESS | {"step": 4}
    assert caller.say(first).json() == {"order": "go on", "why": ""}
    assert caller.say(first, second).status_code == 200
    assert caller.say(first, second).status_code == 200
    job.refresh_from_db()
    assert job.progress["step"] == 4
    assert [event.data["step"] for event in job.events.filter(kind="progress")] == [3, 4]
    assert caller.get().json()["next_event"] == 3


@pytest.mark.django_db(transaction=True)
def test_whoever_reports_and_whoever_ends_an_attempt_do_not_wait_for_each_other(
    caller: Caller, job: Any
) -> None:
    """Both lock the job first, and the attempt then."""

    def report() -> None:
        caller.say(PROGRESS)
        connection.close()

    reporting = threading.Thread(target=report)
    with transaction.atomic(), connection.cursor() as cursor:
        jobs.lock(job.pk)
        reporting.start()
        while not _is_waiting(cursor):
            reporting.join(0.01)
        cursor.execute("SET LOCAL lock_timeout = '500ms'")
        attempts.stopped(caller.attempt.token, now=timezone.now())
    reporting.join()
    job.refresh_from_db()
    assert (job.status, job.progress) == (JobStatus.PENDING, {})


def _is_waiting(cursor: Any) -> bool:
    """Whether somebody waits for this connection."""
    cursor.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
    )
    return bool(cursor.fetchone()[0])


def test_a_gap_in_the_numbers_is_no_trouble(caller: Caller, job: Any) -> None:
    caller.say(PROGRESS, first=1)
    caller.say(PROGRESS | {"step": 9}, first=5)
    caller.say(PROGRESS | {"step": 9}, first=5)
    assert job.events.filter(kind="progress").count() == 2


def test_an_empty_report_says_that_the_node_lives(caller: Caller) -> None:
    before = timezone.now()
    assert caller.say().json()["order"] == "go on"
    caller.attempt.refresh_from_db()
    assert caller.attempt.heard_at >= before


@pytest.mark.parametrize(
    ("change", "order"), [(jobs.pause, "pause"), (jobs.cancel, "stop")], ids=["pause", "cancel"]
)
def test_the_answer_says_what_the_owner_wants(caller: Caller, job: Any, change: Any, order: str) -> None:
    change(job, now=timezone.now())
    assert caller.say().json()["order"] == order


def test_a_job_that_is_resumed_quickly_still_gets_its_checkpoint(caller: Caller, job: Any) -> None:
    jobs.pause(job, now=timezone.now())
    jobs.resume(job, now=timezone.now())
    assert caller.say().json()["order"] == "pause"
    assert caller.post("stopped").status_code == 200
    job.refresh_from_db()
    assert job.status == JobStatus.PENDING


@pytest.mark.parametrize(
    "event",
    [
        {"event": "x" * 300},
        {"event": 7, "level": "fatal"},
        {"event": "progress", "step": "\0", "loss": {"a": [1] * 10_000}, "tokens_per_s": "fast"},
        {"event": "progress", "tokens_per_s": 1e300, "step": 10**18 + 1, "steps": None},
        {"event": "started", "hardware": "\0" * 5000, "versions": [[[[[[[[]]]]]]]]},
        {"event": "evaluated", "metrics": {str(n): "x" * 100 for n in range(1000)}},
        {"event": "failed", "text": ["no", "text"]},
        {"event": "message", "text": "y" * 200_000, "\0": "\0"},
        {"level": "error"},
    ],
)
def test_whatever_a_node_says_does_no_harm(caller: Caller, job: Any, event: dict[str, Any]) -> None:
    reply = caller.say(event)
    assert reply.status_code == 200, reply.content
    job.refresh_from_db()
    caller.attempt.refresh_from_db()
    assert all(isinstance(value, int | float) for value in job.progress.values())
    speed = caller.attempt.facts.get("tokens_per_s", 0)
    assert isinstance(speed, int | float)
    assert speed <= 1e18


@pytest.mark.parametrize(
    "body",
    [
        {"first": 0, "events": []},
        {"first": 1, "events": [{}] * 501},
        {"first": 1, "events": ["text"]},
        {"first": 1, "events": {}},
        {"first": 2**40, "events": []},
        {"first": 1},
        {"first": 1, "events": [], "more": 1},
        [],
    ],
)
def test_a_report_in_another_form_is_refused(caller: Caller, body: Any) -> None:
    assert caller.post("events", body).status_code == 400


def test_there_is_an_end_to_what_is_written_down(
    caller: Caller, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MOST_EVENTS", 3)
    for number in range(6):
        caller.say(PROGRESS, first=number + 1)
    assert job.events.filter(kind="progress").count() == 3


# --- Checkpoints ------------------------------------------------------------------------------------------


def keep(caller: Caller, step: int, content: bytes) -> Any:
    sha256 = caller.send(CHECKPOINT, content)
    return caller.post(
        "checkpoints", {"step": step, "sha256": sha256, "metrics": {"train_loss": 1.5, "x": "y"}}
    )


def test_a_checkpoint_is_what_the_next_attempt_goes_on_from(caller: Caller, job: Any, bob: Any) -> None:
    assert keep(caller, 10, b"ten").status_code == 200
    assert keep(caller, 20, b"twenty").status_code == 200
    attempts.lose(caller.attempt.token, code="node_lost", reason="Gone.", now=timezone.now())
    assert [(each.step, each.blob is not None) for each in job.checkpoints.order_by("step")] == [
        (10, False),
        (20, True),
    ]
    assert job.checkpoints.get(step=20).metrics == {"train_loss": 1.5}
    job.refresh_from_db()
    other = made.node(bob, "other")
    following = attempts._begin(job, Place(other.pk, "other"), "tests", timezone.now())
    assert following.resumed_from.step == 20
    said = Caller(following, with_token(other)).get().json()
    assert (said["checkpoint"]["step"], said["checkpoint"]["size"]) == (20, 6)


def test_a_checkpoint_may_be_said_twice(caller: Caller, job: Any) -> None:
    sha256 = caller.send(CHECKPOINT, b"ten")
    body = {"step": 10, "sha256": sha256}
    assert [caller.post("checkpoints", body).status_code for _ in range(2)] == [200, 200]
    assert Checkpoint.objects.filter(job=job).count() == 1


def test_a_checkpoint_must_have_been_sent(caller: Caller) -> None:
    reply = caller.post("checkpoints", {"step": 10, "sha256": "0" * 64})
    assert (reply.status_code, reply.json()["code"]) == (400, "file_not_sent")


def test_a_node_cannot_write_checkpoints_without_end(caller: Caller, job: Any) -> None:
    codes = [keep(caller, step, b"step %d" % step).status_code for step in range(1, 23)]
    assert codes == [200] * 20 + [200, 400] or codes.count(400) == 2, codes


def test_a_state_that_no_trainer_could_begin_with_is_not_used_again(
    caller: Caller, job: Any, bob: Any
) -> None:
    keep(caller, 10, b"rubbish")
    now = timezone.now()
    attempts.lose(caller.attempt.token, code="node_lost", reason="Gone.", now=now)
    job.refresh_from_db()
    second = attempts._begin(job, Place(made.node(bob, "other").pk, "other"), "tests", now)
    assert second.resumed_from is not None
    attempts.fail(second.token, code="bad_checkpoint", reason="No archive.", retry=True, now=now)
    job.refresh_from_db()
    assert attempts.newest_checkpoint(job) is None


# --- The other ends ---------------------------------------------------------------------------------------


def test_a_failure_that_may_pass_is_tried_again(caller: Caller, job: Any) -> None:
    assert (
        caller.post("fail", {"code": "out_of_memory", "reason": "Too little.", "retry": True}).status_code
        == 200
    )
    job.refresh_from_db()
    assert (job.status, job.code) == (JobStatus.PENDING, "out_of_memory")
    assert caller.post("fail", {"code": "again", "reason": "Again."}).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"code": "UPPER", "reason": "x"},
        {"code": "x", "reason": "y" * 1001},
        {"code": "x"},
        {"code": "x" * 51, "reason": "y"},
    ],
)
def test_a_failure_in_another_form_is_refused(caller: Caller, body: dict[str, Any]) -> None:
    assert caller.post("fail", body).status_code == 400


def test_that_a_training_can_succeed_nowhere_is_believed_of_two_providers(
    caller: Caller, job: Any, charlie: Any
) -> None:
    no_use = {"code": "bad_data", "reason": "Nobody can train this."}
    assert caller.post("fail", no_use).status_code == 200
    job.refresh_from_db()
    assert job.status == JobStatus.PENDING, "one node alone ends nobody's job"
    node = made.node(charlie, "other")
    attempt = attempts._begin(job, Place(node.pk, "other"), "t", timezone.now())
    assert Caller(attempt, with_token(node)).post("fail", no_use).status_code == 200
    job.refresh_from_db()
    assert (job.status, job.code) == (JobStatus.FAILED, "bad_data")


def test_a_trusted_node_is_believed_alone(caller: Caller, job: Any, node: Any) -> None:
    type(node).objects.filter(pk=node.pk).update(trusted=True)
    assert caller.post("fail", {"code": "bad_data", "reason": "Nobody can train this."}).status_code == 200
    job.refresh_from_db()
    assert (job.status, job.code) == (JobStatus.FAILED, "bad_data")


def test_links_beyond_what_an_attempt_may_send_are_no_use(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "_SLACK", 0)
    monkeypatch.setattr(deliveries, "_MORE_CHECKPOINTS", 1)
    contents = [bytes([number]) * 70 for number in range(10)]
    urls = [caller.announce("checkpoint.tar", content).json()["url"] for content in contents]
    statuses = [caller.put(url, content).status_code for url, content in zip(urls, contents, strict=True)]
    assert statuses[0] == 200
    assert statuses[-1] == 400, "the links were all given before anything came"


def test_events_whose_numbers_end_are_refused(caller: Caller) -> None:
    events = [{"event": "message", "text": "x"}] * 2
    assert caller.say(*events, first=2**31 - 1).status_code == 400


def test_a_training_that_is_handed_back_goes_on_elsewhere_however_often(
    caller: Caller, job: Any, bob: Any
) -> None:
    current = caller
    for _ in range(attempts.MOST_FAILED + 2):
        assert current.post("stopped").status_code == 200
        job.refresh_from_db()
        assert job.status == JobStatus.PENDING
        node = made.node(bob, "next")
        current = Caller(attempts._begin(job, Place(node.pk, "next"), "t", timezone.now()), with_token(node))


def test_a_cancelled_job_is_stopped_by_its_nodes_word(caller: Caller, job: Any) -> None:
    jobs.cancel(job, now=timezone.now())
    assert caller.post("stopped").status_code == 200
    caller.attempt.refresh_from_db()
    job.refresh_from_db()
    assert (caller.attempt.outcome, job.status) == (AttemptOutcome.STOPPED, JobStatus.CANCELLED)


def test_files_of_an_attempt_that_has_ended_are_not_kept(caller: Caller) -> None:
    caller.send(CHECKPOINT, b"something")
    link = caller.announce("README.md", b"later").json()["url"]
    caller.post("stopped")
    assert caller.attempt.files.count() == 0
    assert caller.put(link, b"later").status_code == 409


def test_links_are_valid_for_a_while(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    link = caller.announce("README.md", b"late").json()["url"]
    later = timezone.now() + timedelta(hours=7)
    monkeypatch.setattr("finetune.api.training.timezone.now", lambda: later)
    assert caller.put(link, b"late").status_code == 403
    assert caller.put(link[:-1] + ("a" if link[-1] != "a" else "b"), b"late").status_code == 403


def test_tokens_of_nodes_are_hashed() -> None:
    assert len(credentials.digest("x")) == 64
