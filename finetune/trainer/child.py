"""The trainer as a child process: started, listened to, stopped. When its parent dies, it dies."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.trainer import events

# What a trainer says while nobody listens waits here; a training that says more is slowed down.
_MOST_WAITING = 10_000
# What a trainer needs of our environment. It reads what strangers have sent, so it gets none of our secrets.
_NEEDED = re.compile(
    r"PATH|HOME|USER|TMPDIR|LANG|TZ|VIRTUAL_ENV|(LC|LD|PYTHON|XDG|HF|TORCH|TRITON|CUDA|NVIDIA|NCCL|HIP|ROCR|HSA|OMP|MKL|"
    r"OPENBLAS|GOMP|KMP|ACCELERATE|TOKENIZERS|PYTORCH|TRAINER)_?.*"
)
_SECRET = re.compile(r"TOKEN$|KEY|SECRET|PASSWORD")


def environment() -> dict[str, str]:
    """Ours, as far as a child may know it."""
    return {
        name: value
        for name, value in os.environ.items()
        if _NEEDED.fullmatch(name) and not _SECRET.search(name)
    }


def _command(spec: Path, gpus: int) -> list[str]:
    # What `accelerate launch` starts too; `--standalone` finds a free port, so that two trainings do not meet.
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(gpus), "-m"]
    several = launcher if gpus > 1 else []
    return [sys.executable, "-m", *several, "finetune.trainer", str(spec)]


class Child:
    """One run of `python -m finetune.trainer`."""

    def __init__(self, spec: Path, *, log: Path, gpus: int = 1, env: Mapping[str, str] | None = None) -> None:
        """Start it. Its standard error goes to the end of `log`. With several GPUs, a process for each."""
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue(_MOST_WAITING)
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                _command(spec, gpus),
                # Nothing is written there: it ends when we do, and with it the trainer.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=Path(__file__).resolve().parents[2],
                env={**environment(), **(env or {}), "TRAINER_PARENT": str(os.getpid())},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            while line := stdout.readline(events.MAX_LINE + 1):
                said = events.heard(line)
                if said is not None:
                    self._lines.put(said)

    def heard(self, *, within_s: float) -> list[dict[str, Any]]:
        """What it has said since; waits so long for a first word."""
        found: list[dict[str, Any]] = []
        try:
            found.append(self._lines.get(timeout=within_s))
            while len(found) < 500:
                found.append(self._lines.get_nowait())
        except queue.Empty:
            pass
        return found

    def status(self) -> int | None:
        """Its exit status once it has ended and everything it said was heard; negative for a signal."""
        if self._has_died():
            self.kill()  # whatever it has left behind would hold its output open
        if self._reader.is_alive() or not self._lines.empty():
            return None
        return self._process.wait()

    def _has_died(self) -> bool:
        """Whether it has ended and is still to be waited for, so that its number is nobody else's."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def pause(self) -> None:
        """Have it write a checkpoint and stop."""
        self._signal(signal.SIGTERM, whole_group=False)

    def kill(self) -> None:
        """End it at once, whatever it has started included."""
        self._signal(signal.SIGKILL, whole_group=True)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _signal(self, number: int, *, whole_group: bool) -> None:
        try:
            if whole_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
        except ProcessLookupError:
            return
