"""kill -9 of whatever takes part in a training: it goes on from a checkpoint, finishes, and is paid once.

`TRAINING_KILL_ROUNDS=20` is the longer proof: so many kills of parts drawn at random; `KILL_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.flows.conftest import Marketplace, eventually
from tests.flows.trainings import IN_FULL, Job, TrainingAgent, Trainings

ROUNDS = int(os.environ.get("TRAINING_KILL_ROUNDS", "0"))
SEED = int(os.environ.get("KILL_SEED", str(time.time_ns())))
PARTS = ("trainer", "web-1", "web-2", "worker", "beat", "valkey", "postgres")


@pytest.fixture(scope="module")
def trainings(marketplace: Marketplace) -> Iterator[Trainings]:
    found = Trainings(marketplace)
    yield found
    found.close()


@pytest.fixture
def node(marketplace: Marketplace) -> Iterator[TrainingAgent]:
    found = TrainingAgent(marketplace, "teacher")
    yield found
    found.stop()


def kill_trainer(job: Job) -> None:
    trainer = eventually(job.programs, within_s=30)[0]
    trainer.kill()
    eventually(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)


def kill_all(marketplace: Marketplace, *parts: str) -> None:
    """At the same time; returns when all are back."""
    before = {part: marketplace.kill(part, wait=False) for part in parts}
    for part, pid in before.items():
        marketplace.await_back(part, since=pid)


def has_paid(job: Job) -> None:
    row = job.row()
    assert row["status"] == "succeeded", (row, job.attempts(), job.said())
    assert row["charged"] == row["price"] > 0


@pytest.mark.timeout(600)
def test_a_training_here_survives_that_its_parts_are_killed(marketplace, trainings) -> None:
    job = trainings.begin(steps=140, checkpoints=28)
    job.until_further()
    kill_trainer(job)
    job.until_further()
    kill_all(marketplace, "valkey", "web-1", "web-2", "postgres")
    job.until_further()
    marketplace.kill("trainer")
    job.until("succeeded", "failed")
    has_paid(job)
    outcomes = [(outcome, code) for _, _, outcome, code, _ in job.attempts()]
    assert outcomes == [("failed", "trainer_died"), ("lost", "worker_lost"), ("succeeded", "")]
    resumed_from = [step for *_, step in job.attempts()]
    assert resumed_from[0] is None
    assert resumed_from[1] is not None
    assert resumed_from[1] < resumed_from[2]
    trainings.settled()


def named(node: TrainingAgent, *words: str) -> list[psutil.Process]:
    """The node's processes with one of these words on their command line."""
    return [each for each in node.programs() if any(word in _command(each) for word in words)]


def _command(process: psutil.Process) -> list[str]:
    """Empty for one that has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie is one, too
        return []


@pytest.mark.timeout(600)
def test_a_training_on_a_node_survives_that_its_parts_are_killed(marketplace, trainings, node) -> None:
    job = trainings.begin(where="nodes", steps=160, checkpoints=32)
    job.until_further()
    eventually(lambda: named(node, "finetune.trainer"), what=node.log)[0].kill()
    job.until_further()
    eventually(lambda: named(node, "finetune.trainer.node"), what=node.log)[0].kill()
    job.until_further()
    family = node.programs()
    node.kill()
    assert not psutil.wait_procs(family, timeout=5)[1]
    node.start_again()
    job.until_further()
    kill_all(marketplace, "web-1", "web-2", "trainer", "postgres", "valkey")
    job.until("succeeded", "failed")
    has_paid(job)
    assert {node_id for _, node_id, *_ in job.attempts()} != {None}
    assert job.row()["provider"] is not None
    assert job.row()["fee"] == job.row()["price"] * 5 // 100
    eventually(lambda: not node.programs(), within_s=10, what=node.log)
    trainings.settled()


@pytest.mark.timeout(600)
@pytest.mark.skipif(not (IN_FULL or ROUNDS), reason="takes long: TRAINING_STORIES=1")
def test_a_training_goes_on_elsewhere_when_its_node_is_lost(marketplace, trainings, node) -> None:
    job = trainings.begin(where="any", steps=100, checkpoints=20)
    job.until_further()
    node.kill()
    job.until("succeeded", "failed")
    has_paid(job)
    (_, lost_node, outcome, code, _), (_, here, _, _, step) = job.attempts()
    assert (outcome, code, here) == ("lost", "node_lost", None)
    assert lost_node is not None
    assert step is not None
    assert job.row()["provider"] is None
    node.start_again()
    eventually(lambda: node.state() == "online", within_s=60, what=node.log)
    time.sleep(2)
    assert not node.programs(), "the node that was lost trains on"
    trainings.settled()


@pytest.mark.timeout(ROUNDS * 120 + 180)
@pytest.mark.skipif(not ROUNDS, reason="takes long: TRAINING_KILL_ROUNDS=20")
def test_trainings_survive_whatever_is_killed(marketplace, trainings, node) -> None:
    draw = random.Random(SEED)
    job = trainings.begin(where="any", steps=120, checkpoints=24)
    for number in range(ROUNDS):
        if job.status == "succeeded":
            job = trainings.begin(where=draw.choice(["any", "here", "nodes"]), steps=120, checkpoints=24)
        parts = draw.sample([*PARTS, "agent", "program", "training"], draw.choice([1, 1, 2, 3]))
        print(f"round {number + 1}: {', '.join(parts)} (KILL_SEED={SEED})", flush=True)
        for word in {"program": "finetune.trainer.node", "training": "finetune.trainer"}.items():
            if word[0] in parts:
                for each in [*named(node, word[1]), *(job.programs() if word[0] == "training" else [])]:
                    each.kill()
        if "agent" in parts:
            node.kill()
            node.start_again()
        kill_all(marketplace, *(part for part in parts if part in PARTS))
        time.sleep(draw.uniform(0, 6))
        assert job.status != "failed", (job.row(), job.attempts(), job.said())
    job.until("succeeded", "failed")
    has_paid(job)
    trainings.settled()
