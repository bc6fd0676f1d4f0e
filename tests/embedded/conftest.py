"""Homes that are thrown away, and supervisors in processes of their own, so that they can be killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from marketplace.embedded.home import PROJECT, Home
from marketplace.embedded.processes import dying_with

SERVICES = """
import sys
from pathlib import Path
from marketplace.embedded import services
from marketplace.embedded.home import Home
from marketplace.embedded.supervisor import Interrupted, Supervisor

home = Home(Path(sys.argv[1]))
home.lock()
supervisor = Supervisor(say=lambda text: print(text, flush=True), state_file=home.state)
supervisor.catch_signals()
try:
    supervisor.note(urls=services.start(supervisor, home), ready=True)
    supervisor.until(lambda: False)
except Interrupted:
    supervisor.stop()
"""
NOT_INHERITED = ("DATABASE_URL", "REDIS_URL", "MARKETPLACE_HOME", "HTTP_PORT", "HTTP_HOST")


def eventually(look: Callable[[], Any], within_s: float = 15) -> Any:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing within {within_s} s: {look}"
        time.sleep(0.02)
    return found


class Run:
    """A supervisor of PostgreSQL and Valkey in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        env = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICES, str(home)],
            cwd=PROJECT,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=dying_with(os.getpid(), signal.SIGTERM),  # if the tests are killed
        )
        eventually(lambda: self.state().get("ready") and self.state()["supervisor"] == self.process.pid)

    def state(self) -> dict[str, Any]:
        try:
            return json.loads((self.home / "state.json").read_text())
        except FileNotFoundError:
            assert self.process.poll() is None, "the supervisor has ended"
            return {}

    def url(self, name: str) -> str:
        return self.state()["urls"][name]

    def family(self) -> list[psutil.Process]:
        """Everything that this supervisor has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self, name: str) -> None:
        """Kill -9 a child, and wait until its successor answers."""
        before = self.state()["children"][name]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: self.state()["children"][name] != before and name in self.state()["answering"])

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> str:
        """Stop the supervisor; what it has printed."""
        self.process.send_signal(with_signal)
        printed, _ = self.process.communicate(timeout=30)
        return printed


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may pass through, unlike pytest's own."""
    found = Path(tempfile.mkdtemp(prefix="marketplace-test-"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def home(folder: Path) -> Home:
    return Home(folder)


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., Run]]:
    """`run()` starts a supervisor in the folder; whatever still runs at the end is stopped."""
    started: list[Run] = []

    def start(home: Path = folder) -> Run:
        started.append(Run(home))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end()
        elif each.process.stdout is not None:
            each.process.stdout.close()
