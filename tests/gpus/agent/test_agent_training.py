"""The agent's trainings: programs that are started, told things, started again and ended, one for each errand."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from gpus.agent import hardware, training
from gpus.agent.options import Options, WrongOption, parse
from gpus.agent.training import Trainings

# Writes down what it hears; ends as it is told.
PROGRAM = """
import json, os, sys, time
folder = sys.argv[1]
with open(f"{folder}/{os.getpid()}", "w") as log:
    for line in sys.stdin:
        log.write(line); log.flush()
        said = json.loads(line)
        if said.get("order") == "hand back" or os.path.exists(f"{folder}/end"):
            sys.exit(0)
        if os.path.exists(f"{folder}/crash"):
            os.unlink(f"{folder}/crash"); sys.exit(1)
    log.write("EOF")
"""


class Node:
    """Trainings with a program that only listens."""

    def __init__(self, folder: Path, trainings: Trainings, notes: Path) -> None:
        self.folder, self.trainings, self.notes = folder, trainings, notes
        self.token = "first"
        self.changes = 0

    def heard(self) -> list[list[str]]:
        """What each program has heard."""
        logs = [path for path in self.notes.iterdir() if path.name.isdecimal()]
        return [
            path.read_text().splitlines() for path in sorted(logs, key=lambda each: each.stat().st_ctime_ns)
        ]

    async def until(self, true: Callable[[], Any]) -> Any:
        async with asyncio.timeout(10):
            while not (found := true()):  # noqa: ASYNC110 - other processes write files
                await asyncio.sleep(0.02)
        return found


def errand(attempt: str | None = None) -> dict[str, Any]:
    attempt = attempt or str(uuid4())
    return {"attempt": attempt, "method": "causal", "path": f"/llm_models/training/{attempt}/"}


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    notes = tmp_path / "notes"
    notes.mkdir()
    script = tmp_path / "listens.py"
    script.write_text(PROGRAM)
    monkeypatch.setattr(training, "_COMMAND", (sys.executable, str(script), str(notes)))
    monkeypatch.setattr(training, "_PAUSE_S", 0.05)
    monkeypatch.setattr(training, "methods", lambda: ["causal"])
    options = Options(
        marketplace="http://market", state_dir=tmp_path, models_dir=tmp_path, train=True, train_slots=2
    )
    found = Node(tmp_path, None, notes)  # type: ignore[arg-type]

    def changed() -> None:
        found.changes += 1

    found.trainings = Trainings(options, folder=tmp_path, token=lambda: found.token, changed=changed)
    yield found
    await found.trainings.close()


async def test_each_errand_is_a_program_that_is_told_what_to_do(node: Node) -> None:
    one, two = errand(), errand()
    node.trainings.heed([one, two])
    node.trainings.heed([one, two])
    heard = await node.until(lambda: len(node.heard()) == 2 and all(node.heard()) and node.heard())
    said = sorted((json.loads(lines[0]) for lines in heard), key=lambda each: each["path"])
    assert [each["path"] for each in said] == sorted((one["path"], two["path"]))
    assert said[0]["url"] == "http://market"
    assert said[0]["token"] == "first"
    assert node.trainings.active == 2


async def test_what_is_wanted_no_longer_is_ended_at_once(node: Node) -> None:
    before = psutil.Process().children()
    node.trainings.heed([errand()])
    await node.until(lambda: any(node.heard()))
    (process,) = (each for each in psutil.Process().children() if each not in before)
    node.trainings.heed([])
    await node.until(lambda: node.trainings.active == 0)
    assert not process.is_running()
    assert node.changes == 1


async def test_a_program_that_dies_is_started_again(node: Node) -> None:
    (node.notes / "crash").touch()
    node.trainings.heed([errand()])
    await node.until(lambda: len(node.heard()) == 2 and all(node.heard()))
    assert node.trainings.active == 1


async def test_a_program_that_dies_again_and_again_is_given_up(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    node.trainings.heed([errand()])
    await node.until(lambda: node.trainings.active == 0)


async def test_a_program_that_has_done_its_work_is_not_started_again(node: Node) -> None:
    (node.notes / "end").touch()
    node.trainings.heed([errand()])
    await node.until(lambda: node.trainings.active == 0)
    assert len(node.heard()) == 1


async def test_programs_learn_the_nodes_new_token(node: Node) -> None:
    node.trainings.heed([errand()])
    await node.until(lambda: any(node.heard()))
    node.trainings.renew()
    node.token = "second"
    node.trainings.renew()
    heard = await node.until(lambda: len(node.heard()[0]) > 1 and node.heard()[0])
    assert [json.loads(line)["token"] for line in heard] == ["first", "second"]


async def test_a_node_that_closes_hands_its_trainings_back(node: Node) -> None:
    node.trainings.heed([errand()])
    await node.until(lambda: any(node.heard()))
    async with asyncio.timeout(10):
        await node.trainings.drained()
    assert json.loads(node.heard()[0][-1]) == {"order": "hand back"}
    node.trainings.heed([errand()])
    assert node.trainings.active == 0, "it takes nothing new"
    node.trainings.resume()
    node.trainings.heed([errand()])
    assert node.trainings.active == 1


@pytest.mark.parametrize(
    "nonsense", [{}, {"attempt": "../..", "path": "/x/"}, {"attempt": None, "path": None}]
)
async def test_nonsense_is_no_errand(node: Node, nonsense: dict[str, Any]) -> None:
    node.trainings.heed([nonsense])
    assert node.trainings.active == 0


def test_the_talent_says_what_can_be_trained_here(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "compute", lambda device: ("cuda", 2, 48_000))
    assert node.trainings.talent() == {
        "methods": ["causal"], "slots": 2, "device": "cuda", "gpus": 2, "memory_mib": 48_000,
    }  # fmt: skip


def test_a_node_without_the_libraries_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    options = Options(marketplace="http://market", state_dir=tmp_path, models_dir=tmp_path, train=True)
    found = Trainings(options, folder=tmp_path, token=str, changed=lambda: None)
    assert found.talent() is None
    assert not found.can_train


def test_only_who_wants_to_trains(tmp_path: Path) -> None:
    options = Options(marketplace="http://market", state_dir=tmp_path, models_dir=tmp_path)
    assert Trainings(options, folder=tmp_path, token=str, changed=lambda: None).talent() is None


def test_a_machine_without_gpus_computes_with_its_processor() -> None:
    device, gpus, memory_mib = hardware.compute("cpu")
    assert (device, gpus) == ("cpu", 1)
    assert memory_mib > 0


def test_the_options_of_training() -> None:
    options = parse(["--train", "--train-slots", "3", "--price-training", "2.5"], {})
    assert (options.train, options.train_slots, options.training_price) == (True, 3, "2.5")
    assert parse([], {"AGENT_TRAIN": "1", "AGENT_TRAIN_SLOTS": "2"}).train_slots == 2
    assert parse([], {}).train is False


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [(["--train-slots", "0"], {}), (["--price-training", "free"], {}), ([], {"AGENT_TRAIN": "perhaps"})],
)
def test_options_that_cannot_be(arguments: list[str], environ: dict[str, str]) -> None:
    with pytest.raises(WrongOption):
        parse(arguments, environ)
