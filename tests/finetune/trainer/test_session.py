"""A session: what it makes of a trainer that does this and that, and of a desk that wants this and that."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.trainer import child, session
from finetune.trainer.session import GO_ON, PAUSE, STOP, CalledOff, Session, Wanted
from finetune.trainer.spec import Spec

# Stands for the trainer: says what the test wants, obeys like one.
_HEAD = """
import json, os, signal, sys, threading, time
spec = json.load(open(sys.argv[-1]))
def say(event, **more): print(json.dumps({"event": event, **more}), flush=True)
def checkpoint(step):
    folder = f"checkpoints/checkpoint-{step}"
    os.makedirs(spec["folder"] + "/" + folder, exist_ok=True)
    open(spec["folder"] + "/" + folder + "/state", "w").write(str(step))
    say("checkpoint", step=step, folder=folder, metrics={})
def finish():
    os.makedirs(spec["folder"] + "/result", exist_ok=True)
    open(spec["folder"] + "/result/README.md", "w").write("done")
    say("finished", folder="result", kind="adapter", seconds=1)
"""


class Desk:
    """Notes everything; says `word` when it is asked."""

    def __init__(self) -> None:
        self.word = GO_ON
        self.asked = 0
        self.heard: list[dict[str, Any]] = []
        self.kept: list[int] = []
        self.ends: list[str] = []
        self.on_finish: Callable[[Wanted], None] = lambda wanted: None
        self.on_keep: Callable[[], None] = lambda: None
        self.breaks = False

    def order(self) -> str:
        self.asked += 1
        if self.breaks:
            raise ConnectionError("away for too long")
        return self.word

    def report(self, heard: Sequence[dict[str, Any]]) -> None:
        self.heard += heard

    def keep_checkpoint(self, archive: Path, *, step: int, metrics: dict[str, Any], wanted: Wanted) -> None:
        assert archive.stat().st_size
        self.on_keep()
        self.kept.append(step)

    def finish(self, folder: Path, said: dict[str, Any], *, wanted: Wanted) -> None:
        assert (folder / "README.md").exists()
        self.on_finish(wanted)
        self.ends.append("finished")

    def fail(self, *, code: str, reason: str, retry: bool) -> None:
        self.ends.append(f"failed {code} {retry} {reason}")

    def stopped(self) -> None:
        self.ends.append("stopped")


class Stage:
    """Runs sessions with a trainer that is a script."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.desk = folder, Desk()
        self.session: Session | None = None

    def spec(self) -> Spec:
        return Spec("causal", "base", "rows", "chat", {}, 1, str(self.folder / "work"))

    def play(self, script: str, *, do: Callable[[], None] | None = None, **more: Any) -> list[str]:
        """Run it to its end, while `do` runs in another thread; how it ended."""
        (self.folder / "trainer.py").write_text(_HEAD + script)
        self.session = Session(more.pop("spec", None) or self.spec(), self.desk, ask_every_s=0.05, **more)
        other = threading.Thread(target=do) if do else None
        if other:
            other.start()
        try:
            self.session.run()
        finally:
            if other:
                other.join()
        return self.desk.ends

    def until(self, true: Callable[[], Any]) -> None:
        end = time.monotonic() + 10
        while not true():
            assert time.monotonic() < end
            time.sleep(0.01)

    def said(self, event: str) -> bool:
        return any(each["event"] == event for each in self.desk.heard)

    def after(self, event: str, word: str) -> Callable[[], None]:
        """Change the desk's word when the trainer has said this."""

        def change() -> None:
            self.until(lambda: self.said(event))
            self.desk.word = word

        return change


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(
        child, "_command", lambda spec, gpus: [sys.executable, str(tmp_path / "trainer.py"), str(spec)]
    )
    monkeypatch.setattr(session, "REPORT_EVERY_S", 0.05)
    before = psutil.Process().children()
    yield Stage(tmp_path)
    assert psutil.Process().children() == before, "a process was left behind"


def test_a_training_runs_to_its_end(stage: Stage) -> None:
    assert stage.play('say("started"); checkpoint(1); checkpoint(2); finish()') == ["finished"]
    assert stage.desk.kept == [1, 2]
    assert [each["event"] for each in stage.desk.heard] == ["started", "checkpoint", "checkpoint", "finished"]


def test_what_the_trainer_says_of_its_failure_is_passed_on(stage: Stage) -> None:
    ends = stage.play('say("failed", code="out_of_memory", text="Too little.", retry=True); sys.exit(1)')
    assert ends == ["failed out_of_memory True Too little."]


def test_a_trainer_that_dies_is_a_failure_that_may_pass(stage: Stage) -> None:
    (end,) = stage.play(
        'print("last words", file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)'
    )
    assert end == "failed trainer_died True The trainer was ended by signal 9: last words"


def test_a_trainer_that_ends_without_a_word_has_failed(stage: Stage) -> None:
    (end,) = stage.play("sys.exit(0)")
    assert end == "failed trainer_died True The trainer ended with status 0: it said nothing."


def test_a_trainer_that_dies_takes_its_children_with_it(stage: Stage) -> None:
    script = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
os._exit(3)
"""
    (end,) = stage.play(script)
    assert end.startswith("failed trainer_died True The trainer ended with status 3")


def test_stopped_means_killed_with_all_its_children(stage: Stage) -> None:
    script = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
say("started"); time.sleep(60)
"""
    began = time.monotonic()
    assert stage.play(script, do=stage.after("started", STOP)) == ["stopped"]
    assert time.monotonic() - began < 5


def test_paused_means_a_checkpoint_first(stage: Stage) -> None:
    script = """
signal.signal(signal.SIGTERM, lambda *_: (checkpoint(7), sys.exit(75)))
say("started"); time.sleep(60)
"""
    assert stage.play(script, do=stage.after("started", PAUSE)) == ["stopped"]
    assert stage.desk.kept == [7]


def test_a_trainer_that_does_not_pause_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PAUSE_WITHIN_S", 0.3)
    script = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); say("started"); time.sleep(60)'
    assert stage.play(script, do=stage.after("started", PAUSE)) == ["stopped"]


def test_stop_comes_before_pause(stage: Stage) -> None:
    script = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); say("started"); time.sleep(60)'

    def change() -> None:
        stage.after("started", PAUSE)()
        time.sleep(0.3)
        stage.desk.word = STOP

    assert stage.play(script, do=change) == ["stopped"]


def test_handing_back_writes_a_checkpoint_too(stage: Stage) -> None:
    script = 'signal.signal(signal.SIGTERM, lambda *_: (checkpoint(3), sys.exit(75))); say("started"); time.sleep(60)'

    def change() -> None:
        stage.until(lambda: stage.said("started"))
        assert stage.session is not None
        stage.session.hand_back()

    assert stage.play(script, do=change) == ["stopped"]
    assert stage.desk.kept == [3]


def test_what_is_finished_anyway_is_handed_in(stage: Stage) -> None:
    script = (
        'signal.signal(signal.SIGTERM, lambda *_: (finish(), sys.exit(0))); say("started"); time.sleep(60)'
    )

    def change() -> None:
        stage.until(lambda: stage.said("started"))
        assert stage.session is not None
        stage.session.hand_back()

    assert stage.play(script, do=change) == ["finished"]


def test_it_lives_until_the_result_is_handed_in(stage: Stage) -> None:
    def slow(wanted: Wanted) -> None:
        before = stage.desk.asked
        stage.until(lambda: stage.desk.asked > before + 3)

    stage.desk.on_finish = slow
    assert stage.play("finish()") == ["finished"]


def test_a_result_that_is_not_wanted_any_more_is_called_off(stage: Stage) -> None:
    def slow(wanted: Wanted) -> None:
        stage.desk.word = STOP
        stage.until(lambda: not wanted())
        raise CalledOff

    stage.desk.on_finish = slow
    assert stage.play("finish()") == ["stopped"]


def test_a_checkpoint_that_cannot_be_kept_does_not_end_the_training(stage: Stage) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    stage.desk.on_keep = full
    assert stage.play("checkpoint(1); finish()") == ["finished"]
    assert stage.desk.kept == []
    assert not (stage.folder / "work" / "checkpoint.tar").exists()


def test_a_checkpoint_that_is_gone_again_is_no_trouble(stage: Stage) -> None:
    assert stage.play('say("checkpoint", step=1, folder="checkpoints/none"); finish()') == ["finished"]


def test_it_may_not_take_longer_than_its_limit(stage: Stage) -> None:
    (end,) = stage.play('say("started"); time.sleep(60)', limit_s=0.3)
    assert end == "failed time_limit False It took longer than it may."


def test_what_takes_long_before_the_start_can_be_stopped(stage: Stage) -> None:
    def slow(wanted: Wanted) -> Spec:
        stage.desk.word = STOP
        stage.until(lambda: not wanted())
        raise CalledOff

    assert stage.play("finish()", spec=slow) == ["stopped"]
    assert stage.desk.asked


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_nobody_can_be_asked_any_more_the_trainer_is_ended(stage: Stage) -> None:
    def break_() -> None:
        stage.until(lambda: stage.said("started"))
        stage.desk.breaks = True

    assert stage.play('say("started"); time.sleep(60)', do=break_) == ["stopped"]


def test_the_trainer_gets_none_of_our_secrets(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "secret")
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    stage.play('say("message", names=sorted(os.environ)); finish()')
    names = stage.desk.heard[0]["names"]
    assert "CUDA_VISIBLE_DEVICES" in names
    assert "PATH" in names
    assert not {"SECRET_KEY", "DATABASE_URL", "REDIS_URL"} & set(names)


def test_lines_that_are_no_events_are_left_out(stage: Stage) -> None:
    stage.play('print("noise"); print("[1]"); print("x" * 300000); finish()')
    assert [each["event"] for each in stage.desk.heard] == ["finished"]


def test_a_trainer_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The real trainer's watch over its parent, by a parent that dies."""
    script = f"""
import os, subprocess, sys, time
inner = "import time; from finetune.trainer import __main__ as m; m._die_with_parent(); print(1, flush=True); "
inner += "time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    cwd={os.getcwd()!r}, env={{**os.environ, "TRAINER_PARENT": str(os.getpid())}})
child.stdout.readline()
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
os.kill(os.getpid(), 9)
"""
    import subprocess

    subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "it trains on"
        time.sleep(0.02)
