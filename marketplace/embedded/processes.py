"""Child processes that end when their parent does, even if it is killed."""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

PR_SET_PDEATHSIG = 1
KEEP_LOG_BYTES = 10_000_000

_libc = ctypes.CDLL(None, use_errno=True)


def nothing() -> None:
    """For programs that need no preparation."""


def always(child: "Child") -> bool:
    """For programs that answer nobody: they are ready while they run."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, and how it lives and ends."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path
    ready: Callable[["Child"], bool] = always
    """Whether it answers. Called again and again until it does; may take a second, may not raise."""
    before_start: Callable[[], None] = nothing
    user: pwd.struct_passwd | None = None
    """Whom to become; None stays who we are."""
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when the supervisor dies."""
    stop_within_s: float = 10
    pass_fds: Sequence[int] = ()


@dataclass(slots=True)
class Child:
    """One run of a program."""

    program: Program
    process: subprocess.Popen[bytes]
    log_offset: int
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.program.name

    def said(self, text: str) -> bool:
        """Whether this run has written `text` to its log."""
        return text in self.output()

    def output(self) -> str:
        """What this run has written so far."""
        with self.program.log.open("rb") as file:
            file.seek(self.log_offset)
            return file.read().decode(errors="replace")

    def stop(self) -> None:
        """Ask it to end; kill it when it does not within its time."""
        self.ask_to_stop()
        self.await_end(self.program.stop_within_s)

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(self.program.stop_signal)

    def await_end(self, seconds: float) -> None:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def spawn(program: Program) -> Child:
    """Start a program. From the main thread only: the kernel ties the child's fate to the forking thread."""
    program.before_start()
    offset = _rotate(program.log)
    with program.log.open("ab") as log:
        process = subprocess.Popen(
            program.argv,
            env=dict(program.env),
            cwd=program.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops them in order
            pass_fds=program.pass_fds,
            preexec_fn=dying_with(os.getpid(), program.orphan_signal),
            **identity(program.user),
        )
    return Child(program, process, offset)


class Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def identity(user: pwd.struct_passwd | None) -> Identity:
    """Arguments for `subprocess` that run a command as somebody else; none for None."""
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def dying_with(parent: int, sent: signal.Signals) -> Callable[[], None]:
    """What the child does before exec, after it has changed its user (that makes the kernel forget)."""

    def request() -> None:
        if sys.platform == "linux":
            _libc.prctl(PR_SET_PDEATHSIG, sent)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

    return request


def how_it_ended(returncode: int) -> str:
    """For people: `exit status 1`, or the signal's name."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def _rotate(log: Path) -> int:
    """Put a long log aside, and say where the next line will stand."""
    size = log.stat().st_size if log.exists() else 0
    if size <= KEEP_LOG_BYTES:
        return size
    log.replace(log.with_suffix(".log.1"))
    return 0
