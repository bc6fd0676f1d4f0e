"""The one folder that a local marketplace lives in: data, logs, secrets, and a lock against a second one."""

import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

PROJECT = Path(__file__).resolve().parent.parent.parent
SYSTEM_FOLDER = Path("/var/lib/gpu-marketplace")
# PostgreSQL refuses to run as root. The first of these that exists runs it, and Valkey.
SERVICE_USERS = ("postgres", "nobody")
# A Unix socket's path may have 107 bytes; PostgreSQL adds `/.s.PGSQL.5432.lock`.
LONGEST_SOCKET_FOLDER = 80
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")


class HomeUnusable(Exception):
    """The folder cannot be used. The message says why and what to do."""


class AlreadyRuns(Exception):
    """Another supervisor holds this home. The message says which and where."""


def default_folder() -> Path:
    """`MARKETPLACE_HOME`, else `.local` in the project."""
    return Path(os.environ.get("MARKETPLACE_HOME") or PROJECT / ".local")


class Home:
    """The folder's layout. Making one creates the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self.logs = self.folder / "logs"
        self.credentials = self.folder / "credentials.json"
        self.state = self.folder / "state.json"
        self._settings = self.folder / "remembered.json"
        self._lock: TextIO | None = None
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HomeUnusable(f"{self.folder} cannot be used ({error.strerror}). {_OTHER_HOME}") from None
        if not os.access(self.folder, os.W_OK) or not os.access(self.logs, os.W_OK):
            raise HomeUnusable(f"{self.folder} belongs to {_owner_name(self.folder)}. {_OTHER_HOME}")

    def lock(self) -> None:
        """Hold this home until the process ends, however it ends. Raises AlreadyRuns."""
        file = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "just starting"
            file.close()
            raise AlreadyRuns(
                f"A marketplace already runs in {self.folder} ({holder}). Stop it first. {_OTHER_HOME}"
            ) from None
        self._lock = file
        self.sign(f"process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def sign(self, text: str) -> None:
        """Write into the lock who we are, for whoever finds it held."""
        assert self._lock is not None
        self._lock.truncate(0)
        self._lock.write(text)
        self._lock.flush()

    def secret_key(self) -> str:
        """Made once, readable by the owner only."""
        file = self.folder / "secret"
        if not file.exists():
            write_private(file, secrets.token_urlsafe(48))
        return file.read_text().strip()

    def remembered(self, name: str) -> Any:
        """What an earlier run has chosen; None if it has not."""
        return self._read().get(name)

    def remember(self, name: str, value: Any) -> None:
        self._settings.write_text(json.dumps(self._read() | {name: value}, indent=1))

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._settings.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found


@dataclass(frozen=True, slots=True)
class ServicePlace:
    """Where PostgreSQL and Valkey keep their files, and who runs them."""

    folder: Path
    sockets: Path
    user: pwd.struct_passwd | None

    def make_folder(self, path: Path) -> Path:
        """A folder that only the service's user may enter."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path

    def usable(self, tree: Path, *, name: str) -> Path:
        """`tree` itself if the service's user can run programs in it, else a copy that it can."""
        if self.user is None or _may_enter(tree, self.user):
            return tree
        copy = self.folder / "programs" / name
        if not copy.exists():
            draft = Path(tempfile.mkdtemp(dir=_open_folder(copy.parent)))
            shutil.copytree(
                tree, draft / "tree", symlinks=True, ignore=shutil.ignore_patterns("*.a", "include")
            )
            (draft / "tree").replace(copy)
            draft.rmdir()
        return copy


def place_for_services(home: Home) -> ServicePlace:
    """The home, or a folder under /var/lib where the user that PostgreSQL needs cannot enter the home."""
    user = _service_user(home.folder)
    folder = home.folder
    if user is not None and not _may_enter(folder, user):
        folder = _open_folder(SYSTEM_FOLDER / _short_hash(home.folder))
    place = ServicePlace(folder, _socket_folder(folder), user)
    place.make_folder(place.sockets)
    _refuse_strangers(place.sockets, user)
    return place


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read; a reader sees the old content or the new."""
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    draft.replace(file)


def _service_user(folder: Path) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    data = folder / "postgres"
    if data.exists() and data.stat().st_uid != 0:  # whoever made the data keeps it
        return pwd.getpwuid(data.stat().st_uid)
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    found = next((names[name] for name in SERVICE_USERS if name in names), None)
    if found is None:
        raise HomeUnusable(
            "PostgreSQL does not run as root, and there is no user `nobody`. Start as an ordinary user."
        )
    return found


def _may_enter(path: Path, user: pwd.struct_passwd) -> bool:
    return all(_may_search(folder.stat(), user) for folder in (path.resolve(), *path.resolve().parents))


def _may_search(status: os.stat_result, user: pwd.struct_passwd) -> bool:
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid == user.pw_gid else 0o001))


def _socket_folder(folder: Path) -> Path:
    found = folder / "run"
    if len(bytes(found)) <= LONGEST_SOCKET_FOLDER and PLAIN_PATH.fullmatch(str(found)):
        return found
    return Path("/tmp") / f"gpu-marketplace-{os.geteuid()}-{_short_hash(folder)}"  # noqa: S108 - checked below


def _refuse_strangers(sockets: Path, user: pwd.struct_passwd | None) -> None:
    status = sockets.lstat()
    if sockets.is_symlink() or status.st_uid != (os.geteuid() if user is None else user.pw_uid):
        raise HomeUnusable(f"{sockets} belongs to somebody else. {_OTHER_HOME}")


def _open_folder(path: Path) -> Path:
    """A folder that everybody may pass through; what is in it protects itself."""
    path.mkdir(parents=True, exist_ok=True)
    for folder in (path, path.parent):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    return path


def _short_hash(path: Path) -> str:
    return hashlib.sha256(bytes(path.resolve())).hexdigest()[:12]


def _owner_name(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"


_OTHER_HOME = "MARKETPLACE_HOME=/another/folder uses another one."
