"""A whole marketplace for the stories: the same that `scripts/run` starts, in a home that is thrown away.

It is started once for all stories. A story that kills something leaves everything answering again
(`marketplace.kill(name)` waits for that).
"""

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

import pytest
import requests

from marketplace.embedded.home import PROJECT
from marketplace.embedded.processes import dying_with

START_WITHIN_S = 120
# What the tests' own environment says must not reach the marketplace under test.
NOT_INHERITED = (
    *("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "PUBLIC_URL", "HTTPS", "ALLOWED_HOSTS"),
    *("MARKETPLACE_HOME", "HTTP_HOST", "HTTP_PORT", "WEB_PROCESSES"),
    *("CHAIN_NETWORKS", "CHAIN_RPC_URL", "CHAIN_KEY", "CHAIN_PROVIDER_KEY"),
)
MODELS = PROJECT / ".local" / "test" / "models"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this folder is a flow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.flow)


class Marketplace:
    """A running marketplace, seen from outside.

    Its parts are `postgres`, `valkey`, `devnet`, `web-1`, `web-2`, `worker`, `trainer`, `chain`, `beat` and `agent`.
    """

    def __init__(self, home: Path, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.process = process
        eventually(self._is_up, within_s=START_WITHIN_S, what=self.printed)
        self.url: str = self.state()["url"]
        credentials = json.loads((home / "credentials.json").read_text())
        self.operator: dict[str, str] = credentials["operator"]
        self.consumer: dict[str, str] = credentials["consumer"]
        self.provider: dict[str, str] = credentials["provider"]

    @property
    def api_key(self) -> str:
        """The consumer's."""
        return self.consumer["api_key"]

    def session(self, api_key: str | None = None) -> requests.Session:
        """HTTP with a key; the consumer's unless another is given."""
        found = requests.Session()
        found.headers["Authorization"] = f"Bearer {api_key or self.api_key}"
        return found

    def state(self) -> dict[str, Any]:
        """What the supervisor says: `children` by name, `answering`, `url`, `ready`."""
        try:
            return dict(json.loads((self.home / "state.json").read_text()))
        except FileNotFoundError:
            assert self.process.poll() is None, self.printed()
            return {}

    def pid(self, name: str) -> int:
        return int(self.state()["children"][name])

    def kill(self, name: str, *, wait: bool = True, with_signal: signal.Signals = signal.SIGKILL) -> int:
        """Kill a part, and wait until its successor answers. The process id that it had."""
        before = self.pid(name)
        os.kill(before, with_signal)
        if wait:
            self.await_back(name, since=before)
        return before

    def await_back(self, name: str, *, since: int, within_s: float = 60) -> None:
        """Wait until another process than `since` answers as `name`."""
        eventually(lambda: self.pid(name) != since and name in self.state()["answering"], within_s=within_s)

    def log(self, name: str) -> str:
        return (self.home / "logs" / f"{name}.log").read_text(errors="replace")

    def printed(self) -> str:
        """What the supervisor has said to the user."""
        return (self.home / "printed.log").read_text()

    def _is_up(self) -> bool:
        """Whether this very run is up, and not one before it that was killed."""
        state = self.state()
        return bool(state.get("ready")) and state["supervisor"] == self.process.pid


def eventually(
    look: Callable[[], Any],
    *,
    within_s: float = 30,
    every_s: float = 0.05,
    what: Callable[[], str] | None = None,
) -> Any:
    """What `look` finds, as soon as it finds something true."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing within {within_s} s\n{what() if what else ''}"
        time.sleep(every_s)
    return found


def start(home: Path, **settings: str) -> Marketplace:
    """Start a marketplace in `home`, with these settings on top of the demo's."""
    MODELS.mkdir(parents=True, exist_ok=True)
    if not (home / "models").exists():
        (home / "models").symlink_to(MODELS)  # so that the toy is trained once, not in every run
    env = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED} | settings
    command = [sys.executable, "-m", "marketplace.embedded", "--no-prompt", "--home", str(home)]
    with (home / "printed.log").open("ab") as printed:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=env,
            stdout=printed,
            stderr=subprocess.STDOUT,
            preexec_fn=dying_with(os.getpid(), signal.SIGTERM),  # if the tests are killed
        )
    return Marketplace(home, process)


def stop(marketplace: Marketplace) -> int:
    """Ask it to end, like Ctrl-C; the exit status."""
    marketplace.process.send_signal(signal.SIGINT)
    return marketplace.process.wait(60)


@pytest.fixture(scope="session")
def marketplace() -> Iterator[Marketplace]:
    """The one that all stories use."""
    home = Path(tempfile.mkdtemp(prefix="marketplace-flow-"))
    home.chmod(0o755)
    # What is killed or stuck is given up soon, so that the stories are short; a fuzzer does not use up what all share.
    found = start(
        home,
        TRAINING_LOST_AFTER_S="8",
        CHAIN_TIMEOUT_S="3",
        CHAIN_BUMP_AFTER_S="3",
        THROTTLE_REGISTER="100000/hour",
    )
    yield found
    stop(found)
    shutil.rmtree(home, ignore_errors=True)
