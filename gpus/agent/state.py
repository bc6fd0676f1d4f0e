"""What the agent remembers between its runs: who this machine is, and its token at the marketplace."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO

import orjson


class StateError(Exception):
    """The state folder cannot be used."""


@dataclass(slots=True)
class State:
    """The content of `agent.json`.

    `described`: as what the node was registered; `priced`: which prices the marketplace was told, by model.
    """

    machine_id: str
    node_token: str = ""
    node_id: int = 0
    name: str = ""
    connect_url: str = ""
    push_secret: str = ""
    heartbeat_interval_s: float = 15.0
    described: dict[str, str] = field(default_factory=dict)
    priced: dict[str, dict[str, str]] = field(default_factory=dict)


class StateFile:
    """`agent.json` in the state folder, for one running agent at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "agent.json"
        self._lock: IO[str] | None = None

    def lock(self) -> None:
        """Keep the folder for this process. Raises StateError when another agent has it or it is no good."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self.folder / "agent.lock").open("w")
        except OSError as error:
            raise StateError(
                f"The state folder {self.folder} cannot be written: {error.strerror}."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.unlock()
            raise StateError(
                f"Another agent is running with {self.folder}; give each its own --state-dir."
            ) from error

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def load(self) -> State:
        """What was saved last; a fresh state with this machine's id where nothing usable was."""
        try:
            saved = orjson.loads(self._path.read_bytes())
            known = {each.name for each in fields(State)}
            return State(**{key: value for key, value in saved.items() if key in known})
        except (FileNotFoundError, orjson.JSONDecodeError, TypeError, AttributeError):
            return State(machine_id=machine_id(self.folder))

    def save(self, state: State) -> None:
        """Write it whole or not at all, for this user's eyes only: it holds the node's token."""
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(asdict(state), option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def machine_id(folder: Path, system_id: Path = Path("/etc/machine-id")) -> str:
    """An id that stays, one per machine and state folder: several agents on a machine are several nodes.

    Containers of one image may share `/etc/machine-id`, so there, and where it is missing, the id is random.
    """
    try:
        known = system_id.read_text().strip()
    except OSError:
        known = ""
    if not known or Path("/.dockerenv").exists():
        return uuid.uuid4().hex
    return hashlib.sha256(f"{known}\0{folder.resolve()}".encode()).hexdigest()[:32]
