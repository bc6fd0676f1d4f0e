"""`python -m finetune.trainer SPEC`, as it is started and ended."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.trainer import courses, events
from finetune.trainer.spec import Spec
from marketplace.embedded.home import PROJECT
from tests.finetune.trainer.conftest import Ear, other

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Made = Callable[..., Spec]
Heard = list[dict[str, Any]]
TRAINER = [sys.executable, "-m", "finetune.trainer"]
# What `accelerate launch` starts for several GPUs, here for processes.
TWO = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    "-m",
    "finetune.trainer",
]


class Program:
    """One run; every line on its standard output is an event."""

    def __init__(self, spec: Spec, command: list[str]) -> None:
        folder = Path(spec.folder)
        folder.mkdir(exist_ok=True)
        spec.write(folder / "spec.json")
        self.log = folder / "log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, str(folder / "spec.json")],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=PROJECT,
            )
        assert self.process.stdout is not None
        self._lines = iter(self.process.stdout.readline, "")
        self.heard: Heard = []

    def until(self, event: str, count: int = 1) -> "Program":
        while sum(each["event"] == event for each in self.heard) < count:
            line = next(self._lines, None)
            assert line is not None, self.log.read_text()[-3000:]
            self.heard.append(json.loads(line))
        return self

    def end(self) -> int:
        """Its exit status."""
        self.heard += [json.loads(line) for line in self._lines]
        return self.process.wait(60)

    def losses(self) -> dict[int, float]:
        return {each["step"]: each["loss"] for each in self.heard if each["event"] == events.PROGRESS}


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def start(spec: Spec, command: list[str] = TRAINER) -> Program:
        started.append(Program(spec, command))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        assert each.process.stdout is not None
        each.process.stdout.close()


LONG = {"n_epochs": 8, "checkpoints": 10, "evaluations": 4, "lora_dropout": 0.1}


def test_it_is_paused_killed_and_finished_as_if_nothing_had_happened(
    causal: Made, program: Callable[..., Program], train: Callable[[Spec], dict[str, Any]], ear: Ear
) -> None:
    spec = causal(**LONG)
    paused = program(spec).until(events.PROGRESS, 7)
    paused.process.send_signal(signal.SIGTERM)
    assert paused.end() == events.STOPPED_STATUS
    assert paused.heard[0]["event"] == events.STARTED
    assert paused.heard[-1]["event"] == events.CHECKPOINT
    killed = program(spec).until(events.PROGRESS, 9)
    killed.process.kill()
    assert killed.end() == -signal.SIGKILL
    assert killed.heard[0]["resumed_step"] == paused.heard[-1]["step"]
    last = program(spec)
    assert last.end() == 0, last.log.read_text()
    assert last.heard[0]["resumed_step"] >= paused.heard[-1]["step"]
    assert last.heard[-1]["event"] == events.FINISHED
    whole = train(causal(name="whole", **LONG))
    for each in (paused, killed, last):
        assert each.losses().items() <= ear.losses().items()
    assert (last.heard[-1]["after"], last.heard[-1]["step"]) == (whole["after"], whole["step"])


def test_killed_at_any_moment_it_leaves_whole_checkpoints_only(
    causal: Made, program: Callable[..., Program]
) -> None:
    spec = causal(**LONG | {"checkpoints": 100, "max_steps": 5000, "batch_size": 1})
    run = program(spec).until(events.CHECKPOINT, 2)
    time.sleep(random.random() / 5)
    run.process.kill()
    run.end()
    from finetune.trainer import states

    newest = courses.shelf_of(spec).newest()
    assert newest is not None
    for name in (states.WEIGHTS, states.OPTIMIZER, "rng-0.safetensors"):
        states.read_tensors(newest / name)


def test_what_it_cannot_do_it_says_with_a_code(
    causal: Made, program: Callable[..., Program], tmp_path: Path
) -> None:
    """`errors` has the codes; here those of what is expected, and of what is not."""
    good = causal()
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text("")
    runs = {
        "bad_data": program(other(good, rows=str(nothing), folder=str(tmp_path / "a"))),
        "training_failed": program(other(good, schedule="sideways", folder=str(tmp_path / "b"))),
    }
    for code, run in runs.items():
        assert run.end() == 1
        assert (run.heard[-1]["event"], run.heard[-1]["code"], run.heard[-1]["retry"]) == (
            "failed",
            code,
            False,
        )
    assert "no rows" in runs["bad_data"].heard[-1]["text"]
    assert "Traceback" in runs["training_failed"].log.read_text()


def test_a_specification_that_is_none_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "spec").write_text("[]")
    for arguments in ([], [tmp_path / "spec"], [tmp_path / "missing"]):
        done = subprocess.run([*TRAINER, *arguments], capture_output=True, cwd=PROJECT, check=False)
        assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "bad_spec")


def test_two_processes_train_as_one_and_one_of_them_speaks(
    causal: Made, program: Callable[..., Program]
) -> None:
    """Paused in between, and gone on from with the random numbers of both. The last batch of an epoch is filled up."""
    asked = {"n_epochs": 4, "evaluations": 2}
    one = program(causal(name="one", **asked))
    spec = causal(name="two", **asked)
    two = program(spec, TWO).until(events.PROGRESS, 6)
    two.process.send_signal(signal.SIGTERM)
    two.end()
    assert two.heard[-1]["event"] == events.CHECKPOINT
    again = program(spec, TWO)
    assert again.end() == 0, again.log.read_text()
    assert one.end() == 0
    both = two.losses() | again.losses()
    assert both == pytest.approx(one.losses(), abs=5e-2)
    assert len(two.losses()) + len(again.losses()) == len(both) == again.heard[-1]["steps"]
    assert again.heard[-1]["after"]["eval_loss"] == pytest.approx(
        one.heard[-1]["after"]["eval_loss"], abs=5e-2
    )
    assert (spec.result / "adapter_model.safetensors").exists()
    shutil.rmtree(spec.folder)
