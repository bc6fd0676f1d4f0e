"""One sender at a time for each key: threads, async tasks and processes of this machine take turns.

Between asking for the next nonce and the node's "taken" nobody else may send with the same key, or two transactions get
one nonce. A file lock (flock) does that for all of them, and ends by itself with the process that holds it.
"""

import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from chain.client.errors import NonceConflict
from chain.client.steps import Deadline, Pause, Steps

try:
    import fcntl
except ImportError:  # not on Windows, where the threads of one process must do
    fcntl = None  # type: ignore[assignment]

WAIT_SECONDS = 120.0
SHORTEST, LONGEST = 0.002, 0.05


class KeyLock:
    """`with KeyLock(…) as lock: yield from lock.acquire(deadline)`; leaving the block lets go."""

    _in_process: ClassVar[dict[str, threading.Lock]] = {}

    def __init__(self, chain_id: int, address: str) -> None:
        self._name = f"{chain_id}-{address.lower()}"
        self._file: int | None = None
        self._mine: threading.Lock | None = None

    def __enter__(self) -> "KeyLock":
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._mine is not None:
            self._mine.release()
            self._mine = None

    def acquire(self, deadline: Deadline) -> Steps[None]:
        """Waits by pauses, so that neither a thread nor an event loop is held."""
        waiting, pause = Deadline(WAIT_SECONDS), SHORTEST
        while not self._try():
            if waiting.left() <= 0:
                raise NonceConflict("Another process has been sending with this key for two minutes.")
            deadline.within(0, "while others were sending with this key")
            yield Pause(pause)
            pause = min(LONGEST, pause * 1.5)

    def _try(self) -> bool:
        if fcntl is None:
            return self._try_in_process()
        handle = os.open(folder() / f"{self._name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._file = handle
        return True

    def _try_in_process(self) -> bool:
        lock = self._in_process.setdefault(self._name, threading.Lock())
        if not lock.acquire(blocking=False):
            return False
        self._mine = lock
        return True


def folder() -> Path:
    """CHAIN_LOCK_DIR, else the user's cache, else a folder of the user's among the temporary files."""
    chosen = os.environ.get("CHAIN_LOCK_DIR")
    places = [Path(chosen)] if chosen else [_cache(), Path(tempfile.gettempdir()) / f"chain-client-{_user()}"]
    for place in places[:-1]:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    places[-1].mkdir(mode=0o700, parents=True, exist_ok=True)
    return places[-1]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chain-client"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"
