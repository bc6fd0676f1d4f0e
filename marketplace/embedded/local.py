"""A local marketplace from start to stop, with a line for each step."""

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from marketplace.embedded import chain, programs, services
from marketplace.embedded.home import PROJECT, Home, HomeUnusable
from marketplace.embedded.listener import Listener
from marketplace.embedded.supervisor import StartFailed, Supervisor

# What a demo on one's own machine wants; each can be set otherwise in the environment.
DEMO_SETTINGS = {
    "HTTPS": "false",
    "ALLOWED_HOSTS": "*",
    "CORS_ALLOW_ALL_ORIGINS": "true",
    "OPEN_PROVIDER_REGISTRATION": "true",
    "CHAIN_SERVE_OPEN": "true",
    "ALLOW_PRIVATE_NODE_URLS": "true",
    "LOG_LEVEL": "WARNING",
    "STARTING_CREDIT": "100",
    "PYTHONUNBUFFERED": "1",
}
WEB_WITHIN_S, WORKER_WITHIN_S, AGENT_WITHIN_S = 60, 60, 600
LOOK_AGAIN_S = 0.2


class LocalMarketplace:
    """Everything that `scripts/run` starts, on one machine, in one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.supervisor = Supervisor(say=self.say, state_file=home.state)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """One line of progress, with the seconds since the start."""
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", flush=True)

    def start(self) -> None:
        """Bring all parts up, in order of need.

        The home must be locked. Raises HomeUnusable, CannotListen, StartFailed, Interrupted.
        """
        self.supervisor.catch_signals()
        self.listener = Listener(self.home)
        self.home.sign(f"process {os.getpid()}, {self.listener.local_url}")
        self.env = self._environment() | services.start(self.supervisor, self.home)
        self.say(f"{_services()} up, data in {self.home.folder}")
        self.env |= chain.start(self.supervisor, self.home, say=self.say)
        self._prepare()
        self._start_programs()
        self._bring_bases()
        self.supervisor.note(url=self.url, ready=True)

    @property
    def url(self) -> str:
        return self.listener.local_url

    @property
    def _models(self) -> Path:
        """Where the local node keeps its models."""
        return self.home.folder / "models"

    @property
    def credentials(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(self.home.credentials.read_text())
        return found

    def demonstrate(self) -> bool:
        """The main job, once; whether it was done."""
        given = {
            "API_KEY": self.credentials["consumer"]["api_key"],
            "PROVIDER_API_KEY": self.credentials["provider"]["api_key"],
            "MODELS_DIR": str(self._models),
        }
        command = [sys.executable, "-m", "marketplace.embedded.demo", self.url]
        return self.supervisor.run(command, env=os.environ | given, cwd=PROJECT) == 0

    def stay(self) -> None:
        """Look after everything until somebody asks to stop (Interrupted)."""
        self.supervisor.until(lambda: False, tick_s=LOOK_AGAIN_S)

    def stop(self) -> None:
        """End everything that was started, the last first."""
        self.say("Stopping")
        self.supervisor.stop()
        self.say("Stopped")

    def _environment(self) -> dict[str, str]:
        """What Django's processes get: the caller's settings first, then the demo's."""
        own = {
            "SECRET_KEY": self.home.secret_key(),
            "PUBLIC_URL": self.url,
            "INTERNAL_URL": self.url,
            "MARKETPLACE_HOME": str(self.home.folder),
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        }
        given = {name: value for name, value in os.environ.items() if value or name not in own}
        return {**DEMO_SETTINGS, **own, **given, "MARKETPLACE_HOME": str(self.home.folder)}

    def _prepare(self) -> None:
        """Migrations and accounts; skipped where this code has seen to them in a database of our own."""
        seen = _fingerprint()
        own_database = not os.environ.get("DATABASE_URL")
        if own_database and self.home.credentials.exists() and self.home.remembered("prepared") == seen:
            return
        self._run_prepare()
        self.home.remember("prepared", seen)
        self.say("Database migrated, accounts opened")

    def _run_prepare(self) -> None:
        command = [sys.executable, "-m", "marketplace.embedded.prepare", str(self.home.credentials)]
        if self.supervisor.run(command, env=self.env, cwd=PROJECT) != 0:
            raise StartFailed("The database could not be prepared; the lines above say why.")

    def _start_programs(self) -> None:
        webs = [
            programs.web(self.home, self.listener, self.env, number=n + 1) for n in range(_web_processes())
        ]
        agent = programs.agent(self.home, url=self.url, token=self.credentials["provider"]["api_key"])
        for program in [
            *webs,
            agent,
            programs.worker(self.home, self.env),
            programs.trainer(self.home, self.env),
            programs.chain_worker(self.home, self.env),
            programs.beat(self.home, self.env),
        ]:
            self.supervisor.start(program)
        self.supervisor.await_ready(*(web.name for web in webs), within_s=WEB_WITHIN_S)
        self._check_key()
        self.say(f"{len(webs)} web processes answer at {self.url}")
        self.supervisor.await_ready("worker", "trainer", "chain", "beat", within_s=WORKER_WITHIN_S)
        self.say("Celery workers and beat answer")
        self.supervisor.await_ready("agent", within_s=AGENT_WITHIN_S)
        self.say("A provider's node is connected")

    def _bring_bases(self) -> None:
        """The node's models into the catalogue, for fine-tuning; skipped like the migrations."""
        seen = _fingerprint()
        if not os.environ.get("DATABASE_URL") and self.home.remembered("bases") == seen:
            return
        command = [sys.executable, "-m", "marketplace.embedded.bases", str(self._models)]
        if self.supervisor.run(command, env=self.env, cwd=PROJECT) != 0:
            raise StartFailed("The node's models could not be put into the catalogue.")
        self.home.remember("bases", seen)
        self.say("The node's models are in the catalogue")

    def _check_key(self) -> None:
        """Ask the API something; give the accounts new keys where somebody has revoked them."""
        if self._status_of_models() == 401:
            self._run_prepare()
        self.supervisor.until(lambda: self._status_of_models() == 200, within_s=WEB_WITHIN_S, what="web-1")

    def _status_of_models(self) -> int:
        headers = {"Authorization": f"Bearer {self.credentials['consumer']['api_key']}"}
        request = urllib.request.Request(f"{self.url}/v1/models", headers=headers)  # noqa: S310 - our own URL
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310 - likewise
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


def _services() -> str:
    own = [name for name, variable in _REPLACED_BY.items() if not os.environ.get(variable)]
    return " and ".join(own) or "Database and Valkey of the environment"


_REPLACED_BY = {"PostgreSQL": "DATABASE_URL", "Valkey": "REDIS_URL"}


def _web_processes() -> int:
    text = os.environ.get("WEB_PROCESSES") or "2"
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise HomeUnusable(f"WEB_PROCESSES is {text!r}. Expected: a number from 1 to 64.")
    return int(text)


def _fingerprint() -> str:
    """Changes when the database may need migrations."""
    seen = hashlib.sha256()
    for file in sorted([*PROJECT.glob("*/migrations/*.py"), *PROJECT.glob("*/migrations/*.sql")]):
        seen.update(str(file.relative_to(PROJECT)).encode() + file.read_bytes())
    seen.update((PROJECT / "constraints.txt").read_bytes())  # other apps' migrations come with their versions
    return seen.hexdigest()
