"""One attempt, from its child process to whoever ordered it: the same on the marketplace's worker and on a node."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from finetune.trainer import events, packing
from finetune.trainer.child import Child
from finetune.trainer.spec import Spec

logger = logging.getLogger(__name__)

# How long events wait to be passed on together, and how often the desk is asked what to do.
REPORT_EVERY_S, ASK_EVERY_S = 0.5, 1.0
# How long a trainer may take to write its last checkpoint when it is paused.
PAUSE_WITHIN_S = 60.0
GO_ON, PAUSE, STOP = "go on", "pause", "stop"


class Desk(Protocol):
    """Whoever ordered the attempt. Every call waits for a marketplace that is away for a while.

    `order` is called from a thread of its own, the others from the session's.
    """

    def order(self) -> str:
        """Say that the attempt lives. The answer is GO_ON, PAUSE or STOP."""

    def report(self, heard: Sequence[dict[str, Any]]) -> None:
        """Pass on what the trainer has said."""

    def keep_checkpoint(self, archive: Path, *, step: int, metrics: dict[str, Any]) -> None:
        """Store a state to go on from."""

    def finish(self, folder: Path, said: dict[str, Any]) -> None:
        """Hand in the result. `said` is the trainer's `finished`."""

    def fail(self, *, code: str, reason: str, retry: bool) -> None: ...

    def stopped(self) -> None:
        """It has stopped as it was told to."""


class Session:
    """Runs a trainer in its work folder and keeps its desk informed. `run` returns when the attempt is over."""

    def __init__(self, spec: Spec, desk: Desk, *, gpus: int = 1, limit_s: float | None = None) -> None:
        self._spec, self._desk, self._gpus = spec, desk, gpus
        self._folder = Path(spec.folder)
        self._ends_at = None if limit_s is None else time.monotonic() + limit_s
        self._finished: dict[str, Any] | None = None
        self._failed: dict[str, Any] | None = None
        self._told = GO_ON
        self._kill_at: float | None = None
        self._over = threading.Event()

    def run(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "spec.json"
        self._spec.write(path)
        child = Child(path, log=self._folder / "trainer.log", gpus=self._gpus)
        watcher = threading.Thread(target=self._watch, args=[child], daemon=True)
        watcher.start()
        try:
            status = self._follow(child)
        finally:
            child.close()
            self._over.set()
            watcher.join()
        self._conclude(status)

    def _watch(self, child: Child) -> None:
        """Obey the desk at once, whatever the session is busy with."""
        while not self._over.wait(ASK_EVERY_S):
            self._obey(child, self._desk.order())
            self._keep_time(child)

    def _follow(self, child: Child) -> int:
        while (status := child.status()) is None:
            heard = child.heard(within_s=REPORT_EVERY_S)
            for event in heard:
                self._heed(event)
            if heard:
                self._desk.report(heard)
        return status

    def _heed(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == events.CHECKPOINT:
            self._keep(event)
        elif kind == events.FINISHED:
            self._finished = event
        elif kind == events.FAILED:
            self._failed = event

    def _keep(self, event: dict[str, Any]) -> None:
        archive = self._folder / "checkpoint.tar"
        try:
            packing.pack(self._folder / str(event["folder"]), archive)
            self._desk.keep_checkpoint(archive, step=int(event["step"]), metrics=event.get("metrics") or {})
        except OSError as error:
            # The training goes on; only its way back is longer.
            logger.warning("A checkpoint was not kept: %s", error)
        finally:
            archive.unlink(missing_ok=True)

    def _obey(self, child: Child, word: str) -> None:
        if word == self._told or self._told == STOP:
            return
        self._told = word
        if word == STOP:
            child.kill()
        elif word == PAUSE:
            child.pause()
            self._kill_at = time.monotonic() + PAUSE_WITHIN_S

    def _keep_time(self, child: Child) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now > self._kill_at:
            child.kill()
        if self._ends_at is not None and now > self._ends_at and self._told == GO_ON:
            self._told = STOP
            self._failed = {"code": "time_limit", "text": "It took longer than it may.", "retry": False}
            child.kill()

    def _conclude(self, status: int) -> None:
        if self._failed is not None:
            said = self._failed
            self._desk.fail(
                code=str(said.get("code") or "training_failed"),
                reason=str(said.get("text") or "The trainer failed."),
                retry=bool(said.get("retry")),
            )
        elif self._told != GO_ON or status == events.STOPPED_STATUS:
            self._desk.stopped()
        elif status == 0 and self._finished is not None:
            self._desk.finish(self._folder / str(self._finished["folder"]), self._finished)
        else:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            self._desk.fail(
                code="trainer_died", reason=f"The trainer {how}: {self._last_words()}", retry=True
            )

    def _last_words(self) -> str:
        lines = (self._folder / "trainer.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing."

    def clean_up(self) -> None:
        """Delete the work folder."""
        shutil.rmtree(self._folder, ignore_errors=True)
