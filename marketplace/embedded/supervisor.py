"""Keeps programs running: ready when they answer, started again when they die, stopped in reverse order."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from marketplace.embedded.processes import Child, Program, dying_with, how_it_ended, spawn

TICK_S = 0.05
BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_AFTER_S = 60.0
TAIL_LINES = 12


class StartFailed(Exception):
    """Something ended, or did not answer in time, before all was up. The message is for people."""


class Interrupted(Exception):
    """Somebody asked us to stop."""


class Kept:
    """A program that is to run, and its present run."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.child = spawn(program)
        self.ready = False
        self.was_ready = False
        self.failures = 0
        self.ended = ""
        self.ended_at: float | None = None
        self.retry_at: float | None = None

    def answers(self) -> bool:
        self.ready = self.program.ready(self.child)
        self.was_ready = self.was_ready or self.ready
        return self.ready

    def has_ended(self, now: float) -> None:
        """Plan the next start: at once, and later and later when it keeps ending."""
        if now - self.child.started > STEADY_AFTER_S:
            self.failures = 0
        self.ready = False
        self.ended = how_it_ended(self.child.process.returncode)
        self.ended_at = now if self.ended_at is None else self.ended_at
        self.retry_at = now + BACKOFF_S[min(self.failures, len(BACKOFF_S) - 1)]
        self.failures += 1

    def start_again(self) -> None:
        self.retry_at = None
        self.child = spawn(self.program)


class Supervisor:
    """Runs in one thread: whatever waits does so in `until`, which looks after the children meanwhile."""

    def __init__(self, *, say: Callable[[str], None], state_file: Path | None = None) -> None:
        self.say = say
        self.kept: list[Kept] = []
        self.stop_asked = False
        self._state_file = state_file
        self._facts: dict[str, object] = {}
        self._write_state()

    def catch_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop_asked = True

    def start(self, program: Program) -> None:
        self.kept.append(Kept(program))
        self._write_state()

    def note(self, **facts: object) -> None:
        """Put something into the state file for whoever looks (`ready`, `url`)."""
        self._facts |= facts
        self._write_state()

    def await_ready(self, *names: str, within_s: float) -> None:
        """Wait until these programs (all, if none is named) answer. Raises StartFailed."""
        waiting = [kept for kept in self.kept if not names or kept.program.name in names]
        self.until(lambda: all(kept.ready for kept in waiting), within_s=within_s, what=", ".join(names))

    def until(
        self,
        condition: Callable[[], bool],
        *,
        within_s: float | None = None,
        what: str = "",
        tick_s: float = TICK_S,
    ) -> None:
        """Look after the children until `condition` holds. Raises Interrupted, StartFailed."""
        deadline = None if within_s is None else time.monotonic() + within_s
        while True:
            self._tick()
            if condition():
                return
            if deadline is not None and time.monotonic() > deadline:
                raise StartFailed(f"{what} did not answer within {within_s:.0f} s.\n{self._tail_of(what)}")
            time.sleep(tick_s)

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> int:
        """Run a command to its end, its output in front of the user, and return its exit status."""
        with subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid(), signal.SIGKILL),
        ) as process:
            try:
                self.until(lambda: process.poll() is not None)
            finally:
                process.terminate()
        return process.returncode

    def stop(self) -> None:
        """Stop everything, the last started first; the ones of equal rank (web-1, web-2) together."""
        while self.kept:
            last = self.kept[-1].program.name.partition("-")[0]
            group = [kept for kept in self.kept if kept.program.name.partition("-")[0] == last]
            self.kept = [kept for kept in self.kept if kept not in group]
            for kept in group:
                kept.child.ask_to_stop()
            for kept in group:
                kept.child.await_end(kept.program.stop_within_s)
        if self._state_file is not None:
            self._state_file.unlink(missing_ok=True)

    def _tick(self) -> None:
        if self.stop_asked:
            raise Interrupted
        now = time.monotonic()
        for kept in self.kept:
            self._look_after(kept, now)

    def _look_after(self, kept: Kept, now: float) -> None:
        if kept.retry_at is not None:
            if now >= kept.retry_at:
                kept.start_again()
                self._write_state()
        elif kept.child.process.poll() is not None:
            self._ended(kept, now)
        elif not kept.ready and kept.answers():
            self._answers(kept)

    def _ended(self, kept: Kept, now: float) -> None:
        kept.has_ended(now)
        self._write_state()
        if not kept.was_ready:
            raise StartFailed(f"{kept.program.name} ended with {kept.ended}.\n{_tail(kept.child)}")
        if kept.failures > 2:
            self.say(f"{kept.program.name} ends again and again ({kept.ended}); see {kept.program.log}")

    def _answers(self, kept: Kept) -> None:
        if kept.ended_at is not None:
            seconds = time.monotonic() - kept.ended_at
            self.say(f"{kept.program.name} ended ({kept.ended}) and answers again after {seconds:.1f} s")
            kept.ended_at = None
        self._write_state()

    def _tail_of(self, names: str) -> str:
        late = [kept for kept in self.kept if not kept.ready and kept.program.name in names.split(", ")]
        return "\n".join(_tail(kept.child) for kept in late)

    def _write_state(self) -> None:
        if self._state_file is None:
            return
        children = {kept.program.name: kept.child.process.pid for kept in self.kept}
        answering = [kept.program.name for kept in self.kept if kept.ready]
        state = {"supervisor": os.getpid(), "children": children, "answering": answering, **self._facts}
        draft = self._state_file.with_suffix(".new")
        draft.write_text(json.dumps(state, indent=1))
        draft.replace(self._state_file)


def _tail(child: Child) -> str:
    lines = child.output().splitlines()[-TAIL_LINES:]
    return "\n".join([f"  {child.program.log} ends with:", *(f"    {line}" for line in lines)])
