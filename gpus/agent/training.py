"""Trainings on this machine: for each a program of its own (`finetune.trainer.node`), so that the agent can answer.

The marketplace's errands say which there should be. What is not among them is ended; what should be and is not, because
the agent or the program was killed, is started again and goes on from its last state.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from gpus.agent import hardware
from gpus.agent.options import Options

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[2]
_COMMAND: tuple[str, ...] = (sys.executable, "-m", "finetune.trainer.node")
# What each method needs besides the trainer itself.
_LIBRARIES = {
    "causal": ("torch", "transformers", "peft", "accelerate"),
    "embedding": ("torch", "transformers", "peft", "accelerate", "sentence_transformers"),
}
# A program that ends without bringing its training to an end is started again so often, after so long.
_STARTS, _PAUSE_S = 5, 2.0
_KILL_AFTER_S = 5.0


def methods() -> list[str]:
    """What could be trained with what is installed here."""
    if not (PROJECT / "finetune" / "trainer" / "node.py").exists():
        return []
    return [name for name, needed in _LIBRARIES.items() if all(find_spec(each) for each in needed)]


@dataclass(slots=True)
class _Run:
    """One attempt's program."""

    attempt: str
    path: str
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    is_wanted: bool = True
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Trainings:
    """All of this node. `token` gives the node's token; `changed` is called when a training has ended."""

    def __init__(
        self, options: Options, *, folder: Path, token: Callable[[], str], changed: Callable[[], None]
    ) -> None:
        self._options, self._folder = options, folder / "training"
        self._token, self._changed = token, changed
        self._runs: dict[str, _Run] = {}
        self._told = ""
        self._draining = False
        self._methods = methods() if options.train else []
        self._machine: tuple[str, int, int] | None = None
        if options.train and not self._methods:
            logger.warning(
                "Nothing can be trained: install requirements-worker.txt, with the trainer beside the agent."
            )

    @property
    def active(self) -> int:
        return len(self._runs)

    @property
    def can_train(self) -> bool:
        return bool(self._methods)

    def talent(self) -> dict[str, Any] | None:
        """What the marketplace is told: gpus.talents.Training. None: this node does not train. May take a second."""
        if not self._methods:
            return None
        if self._machine is None:
            self._machine = hardware.compute(self._options.device)
        device, gpus, memory_mib = self._machine
        return {
            "methods": self._methods,
            "slots": self._options.train_slots,
            "device": device,
            "gpus": gpus,
            "memory_mib": memory_mib,
        }

    def heed(self, errands: Iterable[Mapping[str, Any]]) -> None:
        """Train what the marketplace wants trained here, and nothing else."""
        wanted = {attempt: path for attempt, path in map(_read, errands) if attempt}
        for attempt, run in self._runs.items():
            if attempt not in wanted:
                run.is_wanted = False
                _end(run)
        for attempt, path in wanted.items():
            if attempt not in self._runs and self._methods and not self._draining:
                run = self._runs[attempt] = _Run(attempt, path)
                run.task = asyncio.create_task(self._keep(run))

    def renew(self) -> None:
        """Tell the programs of the node's token, where it is another than before."""
        token = self._token()
        if token != self._told:
            self._told = token
            for run in self._runs.values():
                _say(run, {"token": token})

    async def drained(self) -> None:
        """Give back what runs: written down, to go on elsewhere. Returns when all have ended."""
        self._draining = True
        for run in self._runs.values():
            run.is_wanted = False
            _say(run, {"order": "hand back"})
        await asyncio.gather(*(run.task for run in self._runs.values() if run.task), return_exceptions=True)

    def resume(self) -> None:
        """Take errands again."""
        self._draining = False

    async def close(self) -> None:
        """End all at once."""
        for run in list(self._runs.values()):
            run.is_wanted = False
            _end(run)
        await asyncio.gather(*(run.task for run in self._runs.values() if run.task), return_exceptions=True)

    async def _keep(self, run: _Run) -> None:
        """Run a program until its training is over."""
        try:
            while run.is_wanted and run.starts < _STARTS:
                run.starts += 1
                began = time.monotonic()
                status = await self._run(run)
                logger.info("The program of training %s has ended with status %s.", run.attempt[:8], status)
                if status == 0:
                    return
                if time.monotonic() - began > 60:
                    run.starts = 1  # it worked for a while: this is another trouble
                await asyncio.sleep(_PAUSE_S)
        except OSError as error:
            logger.error("A training cannot be started: %s", error)
        finally:
            self._runs.pop(run.attempt, None)
            self._changed()

    async def _run(self, run: _Run) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "trainings.log").open("ab") as log:
            run.process = await asyncio.create_subprocess_exec(
                *_COMMAND, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=PROJECT,
                env={name: value for name, value in os.environ.items() if not name.startswith("AGENT_")},
                start_new_session=True,
            )  # fmt: skip
        self._told = self._token()
        if run.is_wanted:
            print(f"training {run.attempt[:8]} has started", flush=True)
            _say(run, self._errand(run))
        else:
            _end(run)  # it was called off while it was being started
        try:
            return await run.process.wait()
        finally:
            _end(run)
            if run.process.stdin is not None:
                run.process.stdin.close()

    def _errand(self, run: _Run) -> dict[str, Any]:
        _, gpus, _ = self._machine or ("", 1, 0)
        return {
            "url": self._options.marketplace, "path": run.path, "token": self._told,
            "folder": str(self._folder / "work" / run.attempt), "cache": str(self._folder / "cache"),
            "device": self._options.device, "gpus": gpus,
        }  # fmt: skip


def _read(errand: Mapping[str, Any]) -> tuple[str, str]:
    """An attempt's id and path; empty where the marketplace talks nonsense."""
    try:
        return str(UUID(str(errand["attempt"]))), str(errand["path"])
    except (KeyError, ValueError, TypeError):
        return "", ""


def _say(run: _Run, what: Mapping[str, Any]) -> None:
    process = run.process
    if process is not None and process.returncode is None and process.stdin is not None:
        process.stdin.write(orjson.dumps(what) + b"\n")


def _end(run: _Run) -> None:
    """Kill a program; its trainer dies with it."""
    process = run.process
    if process is not None and process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
