"""The supervisor with small programs of all characters."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marketplace.embedded.processes import Child, Program
from marketplace.embedded.supervisor import Interrupted, StartFailed, Supervisor

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def supervisor(lines: list[str]) -> Iterator[Supervisor]:
    found = Supervisor(say=lines.append)
    yield found
    found.stop()


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Program]:
    def make(name: str = "program", code: str = SLEEPER, **rest: object) -> Program:
        argv = [sys.executable, "-c", code]
        settings = {"ready": lambda child: child.said("up"), "stop_within_s": 5.0} | rest
        return Program(name=name, argv=argv, env={}, log=tmp_path / f"{name}.log", cwd=tmp_path, **settings)

    return make


def child(supervisor: Supervisor, name: str = "program") -> Child:
    return next(kept.child for kept in supervisor.kept if kept.program.name == name)


def test_it_waits_until_a_program_answers(supervisor, program):
    supervisor.start(program(code="import time; time.sleep(0.3); " + SLEEPER))
    supervisor.await_ready(within_s=10)
    assert child(supervisor).said("up")


def test_it_starts_again_what_was_killed_and_says_so_in_one_line(supervisor, program, lines):
    supervisor.start(program())
    supervisor.await_ready(within_s=10)
    first = child(supervisor).process.pid
    os.kill(first, signal.SIGKILL)
    supervisor.until(lambda: bool(lines), within_s=10)
    assert child(supervisor).process.pid != first
    assert lines[0].startswith("program ended (SIGKILL) and answers again after 0.")


def test_it_waits_longer_and_longer_for_what_ends_again_and_again(supervisor, program, lines):
    # The first time it lives long enough to be seen.
    code = "import os, time; print('up', flush=True); time.sleep(0.05 if os.path.exists('was') else 2); "
    code += "open('was', 'w')"
    supervisor.start(program(code=code))
    supervisor.until(lambda: any("again and again" in line for line in lines), within_s=20)
    kept = supervisor.kept[0]
    assert kept.failures == 3
    assert kept.retry_at - time.monotonic() > 0.8


def test_a_program_that_ends_at_the_start_fails_it_and_shows_the_end_of_its_log(supervisor, program):
    supervisor.start(program(code="import sys; print('no coffee'); sys.exit(3)"))
    with pytest.raises(StartFailed, match=r"program ended with exit status 3(.|\n)*no coffee"):
        supervisor.await_ready(within_s=10)


def test_a_program_that_never_answers_fails_the_start(supervisor, program):
    supervisor.start(program(code="import time; print('hm', flush=True); time.sleep(60)"))
    with pytest.raises(StartFailed, match="program did not answer within 1 s"):
        supervisor.await_ready("program", within_s=1)


def test_it_stops_the_last_first(supervisor, program, tmp_path):
    tell = "lambda *_: (open('order', 'a').write('{}'), sys.exit())"
    code = "import signal, sys; signal.signal(signal.SIGTERM, " + tell + "); " + SLEEPER
    for name in ("a", "b", "c"):
        supervisor.start(program(name, code.format(name)))
    supervisor.await_ready(within_s=10)
    supervisor.stop()
    assert (tmp_path / "order").read_text() == "cba"


def test_it_kills_what_does_not_stop_in_its_time(supervisor, program):
    supervisor.start(program(code=STUBBORN, stop_within_s=0.2))
    supervisor.await_ready(within_s=10)
    stubborn = child(supervisor).process
    supervisor.stop()
    assert stubborn.returncode == -signal.SIGKILL


def test_being_asked_to_stop_ends_the_wait(supervisor, program):
    supervisor.start(program(code="import time; time.sleep(60)"))
    supervisor.stop_asked = True
    with pytest.raises(Interrupted):
        supervisor.await_ready(within_s=60)


def test_a_command_runs_to_its_end_while_the_children_are_looked_after(supervisor, program, lines):
    supervisor.start(program())
    supervisor.await_ready(within_s=10)
    os.kill(child(supervisor).process.pid, signal.SIGKILL)
    command = [sys.executable, "-c", "import sys, time; time.sleep(1); sys.exit(7)"]
    assert supervisor.run(command, env={}, cwd=Path("/")) == 7
    assert lines


def test_a_long_log_is_put_aside(supervisor, program, tmp_path, monkeypatch):
    monkeypatch.setattr("marketplace.embedded.processes.KEEP_LOG_BYTES", 10)
    (tmp_path / "program.log").write_text("up, said a former run")
    supervisor.start(program(code="import time; time.sleep(0.2); " + SLEEPER))
    supervisor.await_ready(within_s=10)
    assert (tmp_path / "program.log").read_text() == "up\n"
    assert "former" in (tmp_path / "program.log.1").read_text()


def test_what_a_former_run_wrote_is_not_taken_for_an_answer(supervisor, program, tmp_path):
    (tmp_path / "program.log").write_text("up\n")
    supervisor.start(program(code="import time; time.sleep(60)"))
    with pytest.raises(StartFailed):
        supervisor.await_ready(within_s=0.5)
