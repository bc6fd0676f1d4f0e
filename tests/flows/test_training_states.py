"""A training cancelled, paused and restarted in each of its states; and whose turn it is when many wait.

`TRAINING_STORIES=1` tells all of it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
import requests

from tests.flows.conftest import Marketplace, eventually
from tests.flows.trainings import IN_FULL, Job, TrainingAgent, Trainings

STOPS_WITHIN_S = 5.0
long = pytest.mark.skipif(not IN_FULL, reason="takes long: TRAINING_STORIES=1")


@pytest.fixture(scope="module")
def trainings(marketplace: Marketplace) -> Iterator[Trainings]:
    found = Trainings(marketplace)
    yield found
    found.close()


def has_said(job: Job, words: str) -> bool:
    return words in job.said()


def at_work(trainings: Trainings, state: str) -> Job:
    """A job that has come as far as this."""
    if state == "evaluating":
        # Measuring so many rows takes a while.
        job = trainings.begin(steps=5, checkpoints=1, held_out=0.5, max_length=512, batch_size=1)
    else:
        job = trainings.begin(steps=400, checkpoints=40)
    if state == "pending":
        return job
    eventually(job.programs, within_s=60, what=job.said)
    if state == "starting":
        return job
    if state == "evaluating":
        eventually(lambda: has_said(job, "rows to train on"), within_s=60, what=job.said)
        return job
    job.until_further()
    if state == "paused":
        trainings.pause(job)
        job.until("paused")
    return job


@pytest.mark.parametrize("state", ["pending", "starting", "evaluating", "running", "paused"])
def test_a_training_here_can_be_cancelled(trainings: Trainings, state: str) -> None:
    job = at_work(trainings, state)
    before = time.monotonic()
    trainings.cancel(job)
    assert job.status == "cancelled"
    eventually(lambda: not job.programs(), within_s=STOPS_WITHIN_S, what=job.said)
    print(f"{state}: gone after {time.monotonic() - before:.1f} s")
    trainings.settled()
    assert job.row()["charged"] == 0


@pytest.mark.timeout(600)
def test_a_training_on_a_node_can_be_cancelled_and_paused(
    marketplace: Marketplace, trainings: Trainings
) -> None:
    node = TrainingAgent(marketplace, "obedient")
    try:
        job = trainings.begin(where="nodes", steps=300, checkpoints=60)
        job.until_further()
        trainings.pause(job)
        eventually(lambda: not node.programs(), within_s=30, what=node.log)
        trainings.resume(job)
        job.until_further()
        assert job.attempts()[-1][-1] is not None, "it began anew"
        trainings.cancel(job)
        eventually(lambda: not node.programs(), within_s=STOPS_WITHIN_S, what=node.log)
        trainings.settled()
    finally:
        node.stop()


@long
@pytest.mark.timeout(600)
def test_a_node_that_closes_gives_its_training_back(marketplace: Marketplace, trainings: Trainings) -> None:
    node = TrainingAgent(marketplace, "leaving")
    job = trainings.begin(where="any", steps=250, checkpoints=2)
    eventually(lambda: job.row()["progress"].get("step", 0) > 5, within_s=120, what=node.log)
    step = job.row()["progress"]["step"]
    node.stop()
    job.until("succeeded", "failed")
    assert len(job.attempts()) == 2, (job.attempts(), job.said())
    (_, left, outcome, code, _), (_, _, _, _, resumed) = job.attempts()
    assert (outcome, code) == ("stopped", "handed_back")
    assert left is not None
    assert resumed is not None
    assert resumed >= step, "what was done there was lost"
    trainings.settled()


@long
@pytest.mark.timeout(600)
def test_a_worker_that_is_asked_to_stop_writes_its_training_down(
    marketplace: Marketplace, trainings: Trainings
) -> None:
    job = trainings.begin(steps=250, checkpoints=2)
    eventually(lambda: job.row()["progress"].get("step", 0) > 5, within_s=120, what=job.said)
    step = job.row()["progress"]["step"]
    marketplace.kill("trainer", with_signal=signal.SIGTERM)
    job.until("succeeded", "failed")
    (_, _, outcome, code, _), (_, _, _, _, resumed) = job.attempts()
    assert (outcome, code) == ("stopped", "handed_back")
    assert resumed is not None
    assert resumed >= step
    trainings.settled()


@long
def test_a_paused_training_goes_on_where_it_was(trainings: Trainings) -> None:
    job = at_work(trainings, "paused")
    eventually(lambda: not job.programs(), within_s=30, what=job.said)
    trainings.resume(job)
    job.until_further()
    assert job.attempts()[-1][-1] is not None
    trainings.cancel(job)
    trainings.settled()


@long
def test_a_training_that_has_ended_can_be_restarted(trainings: Trainings) -> None:
    job = trainings.begin(steps=3, checkpoints=1)
    job.until("running")
    with pytest.raises(AssertionError, match="409"):
        trainings.restart(job)
    job.until("succeeded")
    trainings.restart(job)
    job.until("running")
    trainings.cancel(job)
    trainings.restart(job)
    job.until("succeeded")
    paid = trainings.query(
        "SELECT count(*) FROM clients_transfer WHERE reference LIKE %s", f"training:{job.pk}:%"
    )
    assert paid == [(2,)], "each run that has succeeded is paid, and no other"
    eventually(lambda: not job.programs(), within_s=STOPS_WITHIN_S)


@pytest.mark.timeout(900)
def test_many_jobs_of_several_owners_take_turns(marketplace: Marketplace, trainings: Trainings) -> None:
    """Most are of one, who came first; one is trained at a time."""
    people = [_person(marketplace, trainings, name) for name in ("first", "second", "third")]
    jobs: list[Job] = []
    for person, count in zip(people, (8, 6, 6) if IN_FULL else (3, 2, 1), strict=True):
        jobs += [person.begin(steps=1, checkpoints=1, evaluations=0, held_out=0.05) for _ in range(count)]
    for job in jobs:
        job.until("succeeded", "failed", within_s=600)
    order = trainings.query(
        """SELECT c.username FROM finetune_job j JOIN clients_client c ON c.id = j.owner_id
        WHERE j.id = ANY (%s) ORDER BY j.started_at""",
        [job.pk for job in jobs],
    )
    turns = [name.split("-")[0] for (name,) in order]
    print("order:", " ".join(turns))
    # The first may have begun before the others came. Then nobody has two turns while somebody else waits for one.
    assert all(turns[at] != turns[at + 1] for at in range(1, 15 if IN_FULL else 3)), turns
    trainings.settled()


def _person(marketplace: Marketplace, trainings: Trainings, name: str) -> Trainings:
    """Somebody new, with the marketplace's starting credit."""
    username = f"{name}-{time.time_ns()}"
    person = {"username": username, "email": f"{username}@example.com", "password": "correct horse battery"}
    more = {"confirm_password": person["password"], "terms_accepted": True}
    requests.post(f"{marketplace.url}/client/register/", json=person | more, timeout=30).raise_for_status()
    reply = requests.post(f"{marketplace.url}/client/login/", json=person, timeout=30)
    return Trainings(marketplace, token=reply.json()["token"])
