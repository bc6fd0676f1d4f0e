"""One attempt, from its child process to whoever ordered it: the same on the marketplace's worker and on a node."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
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

Wanted = Callable[[], bool]
_LAST_BYTES = 4096


class CalledOff(Exception):
    """What was being handed in is not wanted any more."""


class Desk(Protocol):
    """Whoever ordered the attempt. Every call waits for a marketplace that is away for a while.

    `order` is called from a thread of its own until all is over, the others from the session's. What takes long asks
    `wanted` now and then, and raises CalledOff where the answer is no. OSError: it could not be done.
    """

    def order(self) -> str:
        """Say that the attempt lives. The answer is GO_ON, PAUSE or STOP."""

    def report(self, heard: Sequence[dict[str, Any]]) -> None:
        """Pass on what the trainer has said."""

    def keep_checkpoint(self, archive: Path, *, step: int, metrics: dict[str, Any], wanted: Wanted) -> None:
        """Store a state to go on from."""

    def finish(self, folder: Path, said: dict[str, Any], *, wanted: Wanted) -> None:
        """Hand in the result. `said` is the trainer's `finished`."""

    def fail(self, *, code: str, reason: str, retry: bool) -> None: ...

    def stopped(self) -> None:
        """It has stopped as it was told to."""


class Session:
    """Runs a trainer in its work folder and keeps its desk informed. `run` returns when the attempt is over.

    `spec` may be a function that brings everything into place first, and takes its time.
    """

    def __init__(
        self,
        spec: Spec | Callable[[Wanted], Spec],
        desk: Desk,
        *,
        gpus: int = 1,
        limit_s: float | None = None,
        ask_every_s: float = ASK_EVERY_S,
    ) -> None:
        self._spec, self._desk, self._gpus, self._ask_every_s = spec, desk, gpus, ask_every_s
        self._folder = Path()
        self._child: Child | None = None
        self._ends_at = None if limit_s is None else time.monotonic() + limit_s
        self._finished: dict[str, Any] | None = None
        self._failed: dict[str, Any] | None = None
        # What the desk said last, and what the trainer was told.
        self._ordered = self._told = GO_ON
        self._kill_at: float | None = None
        self._handed_back = threading.Event()
        self._over = threading.Event()

    def hand_back(self) -> None:
        """Have it stop with a checkpoint, to go on elsewhere. From any thread."""
        self._handed_back.set()

    def run(self) -> None:
        """Raises what the desk does when it cannot be told the end."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            self._run()
        except CalledOff:
            self._desk.stopped()
        finally:
            if self._child is not None:
                self._child.close()
            self._over.set()
            watcher.join()

    def _run(self) -> None:
        spec = self._spec if isinstance(self._spec, Spec) else self._spec(self._goes_on)
        self._folder = Path(spec.folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "spec.json"
        spec.write(path)
        if not self._goes_on():
            raise CalledOff
        self._child = Child(path, log=self._folder / "trainer.log", gpus=self._gpus)
        status = self._follow(self._child)
        self._child.close()
        self._conclude(status)

    def _wanted(self) -> bool:
        return self._ordered == GO_ON

    def _goes_on(self) -> bool:
        return self._told == GO_ON

    def _watch(self) -> None:
        """Obey the desk at once, whatever the session is busy with, and say until the end that the attempt lives."""
        try:
            while not self._over.wait(self._ask_every_s):
                self._ordered = self._desk.order()
                handed_back = self._handed_back.is_set() and self._ordered == GO_ON
                self._obey(PAUSE if handed_back else self._ordered)
                self._keep_time()
        finally:
            if not self._over.is_set():
                # Nobody can say any more whether this is still wanted.
                self._ordered = STOP
                self._obey(STOP)

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
            self._desk.keep_checkpoint(
                archive,
                step=int(event["step"]),
                metrics=event.get("metrics") or {},
                wanted=lambda: self._ordered != STOP,
            )
        except OSError as error:
            # The training goes on; only its way back is longer.
            logger.warning("A checkpoint was not kept: %s", error)
        except CalledOff:
            logger.info("A checkpoint is not wanted any more.")
        finally:
            archive.unlink(missing_ok=True)

    def _obey(self, word: str) -> None:
        """Tell the trainer once; one that is started meanwhile is told at the next time."""
        child = self._child
        if word == STOP:
            self._told = STOP
            if child is not None:
                child.kill()
        elif word == PAUSE and self._told != STOP:
            self._told = PAUSE
            if child is not None and self._kill_at is None:
                self._kill_at = time.monotonic() + PAUSE_WITHIN_S
                child.pause()

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._kill_at is not None and now > self._kill_at and self._child is not None:
            self._child.kill()
        if self._ends_at is not None and now > self._ends_at and self._told == GO_ON:
            self._failed = {"code": "time_limit", "text": "It took longer than it may.", "retry": False}
            self._obey(STOP)

    def _conclude(self, status: int) -> None:
        if self._failed is not None:
            said = self._failed
            self._desk.fail(
                code=str(said.get("code") or "training_failed"),
                reason=str(said.get("text") or "The trainer failed."),
                retry=bool(said.get("retry")),
            )
        elif status == 0 and self._finished is not None and self._wanted():
            said = self._finished
            self._desk.finish(self._folder / str(said["folder"]), said, wanted=self._wanted)
        elif self._told != GO_ON or not self._wanted() or status == events.STOPPED_STATUS:
            self._desk.stopped()
        else:
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            self._desk.fail(
                code="trainer_died", reason=f"The trainer {how}: {self._last_words()}", retry=True
            )

    def _last_words(self) -> str:
        with (self._folder / "trainer.log").open("rb") as file:
            file.seek(-min(file.seek(0, os.SEEK_END), _LAST_BYTES), os.SEEK_END)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing."
