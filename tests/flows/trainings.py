"""Trainings in a running marketplace, from outside: begun over HTTP, seen in the database and among the processes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import requests

from marketplace.embedded import postgres
from marketplace.embedded.demo import CHAT_MODEL
from marketplace.embedded.home import PROJECT, Home, place_for_services
from tests.clients import ledger_books
from tests.engine import Background, Engine
from tests.flows.conftest import Marketplace, eventually

# Every story, and twenty jobs instead of six.
IN_FULL = bool(os.environ.get("TRAINING_STORIES"))
# A machine that is busy with other things trains slowly.
PATIENCE_S = 180.0
_COLOURS = ("red", "green", "blue", "black", "white", "yellow", "grey", "brown")
# Whatever is not as it should be when nothing is under way any more.
OPEN = """
    SELECT 'hold', reference FROM clients_hold WHERE ended_at IS NULL AND starts_with(reference, 'training:')
    UNION ALL SELECT 'attempt', id::text FROM finetune_attempt WHERE ended_at IS NULL
    UNION ALL SELECT 'sent file', path FROM finetune_sentfile
"""
# Jobs that were not charged exactly what was agreed, once, to whoever has trained them.
UNPAID = """
    SELECT j.id, j.status, j.price, j.charged, t.amount, t.fee, j.fee
    FROM finetune_job j
    LEFT JOIN clients_transfer t ON t.reference = 'training:' || j.id || ':' || j.run
    LEFT JOIN clients_account a ON a.id = t.destination_id
    WHERE (j.status = 'succeeded' AND (j.charged <> j.price OR coalesce(t.amount, 0) <> j.price OR t.fee <> j.fee
            OR a.kind <> CASE WHEN j.provider_id IS NULL THEN 'fees' ELSE 'earned' END
            OR a.client_id IS DISTINCT FROM j.provider_id))
        OR (j.status <> 'succeeded' AND (j.charged <> 0 OR t.id IS NOT NULL))
"""


def rows(count: int = 120) -> bytes:
    """Chats that a toy can learn."""
    lines = []
    for number in range(count):
        colour = _COLOURS[number % len(_COLOURS)]
        said = [
            f"What is thing {number}?",
            f"Thing {number} is {colour}, as all things are that end like this.",
        ]
        messages = [
            {"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)
        ]
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines).encode()


@dataclass
class Job:
    """One job, by its number in the database."""

    trainings: Trainings
    uid: str
    pk: int

    def row(self) -> dict[str, Any]:
        found = self.trainings.query(
            "SELECT status, code, reason, price, charged, fee, provider_id, progress FROM finetune_job WHERE id = %s",
            self.pk,
        )
        names = ("status", "code", "reason", "price", "charged", "fee", "provider", "progress")
        return dict(zip(names, found[0], strict=True))

    @property
    def status(self) -> str:
        return str(self.row()["status"])

    def attempts(self) -> list[tuple[Any, ...]]:
        """Number, node, outcome, code, and the step that it went on from."""
        return self.trainings.query(
            """SELECT a.number, a.node_id, a.outcome, a.code, c.step FROM finetune_attempt a
            LEFT JOIN finetune_checkpoint c ON c.id = a.resumed_from_id WHERE a.job_id = %s ORDER BY a.number""",
            self.pk,
        )

    def checkpoints(self) -> int:
        found = self.trainings.query("SELECT count(*) FROM finetune_checkpoint WHERE job_id = %s", self.pk)
        return int(found[0][0])

    def said(self) -> str:
        found = self.trainings.query(
            "SELECT message FROM finetune_event WHERE job_id = %s ORDER BY id", self.pk
        )
        return "\n".join(str(row[0]) for row in found[-40:])

    def until(self, *statuses: str, within_s: float = PATIENCE_S) -> str:
        """Wait for one of these; which."""
        return str(
            eventually(
                lambda: (status := self.status) in statuses and status,
                within_s=within_s,
                what=lambda: f"{self.row()}\n{self.attempts()}\n{self.said()}",
            )
        )

    def until_further(self, *, within_s: float = PATIENCE_S) -> None:
        """Wait until there is one more checkpoint, and it runs."""
        before = self.checkpoints()
        eventually(
            lambda: self.checkpoints() > before and self.status == "running",
            within_s=within_s,
            what=lambda: f"{self.row()}\n{self.attempts()}\n{self.said()}",
        )

    def programs(self) -> list[psutil.Process]:
        """The trainers that run for it on the marketplace's own worker."""
        return [
            process for process in trainers(self.trainings.marketplace.home)
            if f"/{self.pk}-" in " ".join(process.info["cmdline"])
        ]  # fmt: skip


def trainers(folder: Path) -> list[psutil.Process]:
    """The trainers that work somewhere below a folder, whoever has started them."""
    return [
        process for process in psutil.process_iter(["cmdline"])
        if "finetune.trainer" in (command := process.info["cmdline"] or []) and str(folder) in command[-1]
    ]  # fmt: skip


class Trainings:
    """What the tests do with a marketplace's fine-tuning."""

    def __init__(self, marketplace: Marketplace, token: str | None = None) -> None:
        self.marketplace = marketplace
        self._database = postgres.url(place_for_services(Home(marketplace.home)))
        self._session = marketplace.session(token)
        reply = self.call(
            "POST", "/v1/files", files={"file": ("rows.jsonl", rows())}, data={"purpose": "fine-tune"}
        )
        self.file = reply["id"]

    def close(self) -> None:
        self._session.close()

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self._database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def call(
        self, method: str, path: str, session: requests.Session | None = None, **more: Any
    ) -> dict[str, Any]:
        reply = (session or self._session).request(method, self.marketplace.url + path, timeout=60, **more)
        assert reply.status_code < 300, f"{reply.status_code} {reply.text}"
        found: dict[str, Any] = reply.json()
        return found

    def begin(
        self, *, where: str = "here", steps: int = 100, checkpoints: int = 20, **parameters: Any
    ) -> Job:
        asked = {
            "max_steps": steps,
            "batch_size": 4,
            "n_epochs": 50,
            "checkpoints": checkpoints,
            "evaluations": 1,
        }
        body = {
            "model": CHAT_MODEL, "training_file": self.file, "where": where, "seed": 1,
            "method": {"type": "supervised", "supervised": {"hyperparameters": asked | parameters}},
        }  # fmt: skip
        return self.known(self.call("POST", "/v1/fine_tuning/jobs", json=body)["id"])

    def known(self, uid: str) -> Job:
        pk = self.query("SELECT id FROM finetune_job WHERE uid = %s::uuid", uid.removeprefix("ftjob-"))[0][0]
        return Job(self, uid, int(pk))

    def cancel(self, job: Job) -> None:
        self.call("POST", f"/v1/fine_tuning/jobs/{job.uid}/cancel")

    def pause(self, job: Job) -> None:
        self.call("POST", f"/v1/fine_tuning/jobs/{job.uid}/pause")

    def resume(self, job: Job) -> None:
        self.call("POST", f"/v1/fine_tuning/jobs/{job.uid}/resume")

    def restart(self, job: Job) -> None:
        self.call("PUT", f"/fine-tuning/task/{job.uid.removeprefix('ftjob-')}/restart")

    def settled(self) -> None:
        """Nothing is under way: no hold, no attempt, no trainer is left, and the books add up."""
        eventually(lambda: not self.query(OPEN), within_s=40, what=lambda: str(self.query(OPEN)))
        home = self.marketplace.home
        eventually(lambda: not trainers(home), within_s=10, what=lambda: str(trainers(home)))
        assert self.query(ledger_books.WRONG) == []
        assert self.query(UNPAID) == []


class TrainingAgent:
    """A provider's node that trains. It answers prompts too, with an engine that always says the same.

    While it is there, no other node of the marketplace trains.
    """

    def __init__(self, marketplace: Marketplace, name: str) -> None:
        self.marketplace, self.name = marketplace, f"{name}-{secrets.token_hex(3)}"
        self._background = Background()
        self._engine = Engine(self._background)
        self._engine.models = [f"model-of-{self.name}"]
        self.folder = Path(tempfile.mkdtemp(prefix="training-agent-"))
        self._others = [node["id"] for node in self._nodes() if node["name"] == "local-node"]
        self._tell_others("drain")
        self.process = self._start()
        eventually(lambda: self.state() == "online", within_s=60, what=self.log)

    def _tell_others(self, word: str) -> None:
        with self.marketplace.session(self.marketplace.provider["api_key"]) as session:
            for node_id in self._others:
                url = f"{self.marketplace.url}/llm_models/nodes/{node_id}/{word}/"
                session.post(url, timeout=10).raise_for_status()
        expected = "draining" if word == "drain" else "online"
        eventually(
            lambda: all(each["state"] == expected for each in self._nodes() if each["id"] in self._others),
            within_s=60,
        )

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "gpus.agent",
            "--marketplace",
            self.marketplace.url,
            "--name",
            self.name,
        ]
        command += [
            "--upstream",
            self._engine.url,
            "--state-dir",
            str(self.folder),
            "--train",
            "--no-hosting",
        ]
        env = os.environ | {"AGENT_TOKEN": self.marketplace.provider["api_key"]}
        with (self.folder / "agent.log").open("ab") as log:
            return subprocess.Popen(command, cwd=PROJECT, env=env, stdout=log, stderr=subprocess.STDOUT)

    def state(self) -> str:
        return next((str(node["state"]) for node in self._nodes() if node["name"] == self.name), "")

    def _nodes(self) -> list[dict[str, Any]]:
        with self.marketplace.session(self.marketplace.provider["api_key"]) as session:
            reply = session.get(f"{self.marketplace.url}/llm_models/nodes/", timeout=10)
        return list(reply.json()) if reply.status_code == 200 else []

    def programs(self) -> list[psutil.Process]:
        """What it has started to train, the trainer itself included."""
        return (
            psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        )

    def log(self) -> str:
        logs = [self.folder / "agent.log", self.folder / "training" / "trainings.log"]
        return "\n".join(each.read_text(errors="replace")[-3000:] for each in logs if each.exists())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        self.process = self._start()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._engine.stop()
        self._background.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._tell_others("resume")
