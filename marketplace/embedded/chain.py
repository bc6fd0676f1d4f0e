"""The chain of a local marketplace: a development chain of its own, or the node that the environment names.

Contracts are put onto it once, with keys that this home makes; `CHAIN_NETWORKS` in the environment replaces all of it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marketplace.embedded.home import PROJECT, Home, write_private
from marketplace.embedded.processes import Program
from marketplace.embedded.supervisor import StartFailed, Supervisor

PREFERRED_PORT = 8545
DEVNET_WITHIN_S = 30
# The settings that say which keys Django's processes sign with.
KEYS = ("CHAIN_KEY", "CHAIN_PROVIDER_KEY")
REPLACED_BY = "CHAIN_NETWORKS"


def start(supervisor: Supervisor, home: Home, *, say: Callable[[str], None]) -> dict[str, str]:
    """Have a chain with our contracts; the settings that Django's processes need for it.

    Raises StartFailed.
    """
    if os.environ.get(REPLACED_BY):
        return {}
    url = os.environ.get("CHAIN_RPC_URL") or _devnet(supervisor, home)
    folder = home.folder / "chain"
    folder.mkdir(exist_ok=True)
    manifest, keys = folder / "network.json", _keys(folder / "keys.json")
    if not _is_there(manifest, url):
        _deploy(supervisor, url, manifest, keys)
    said = json.loads(manifest.read_text())
    say(f"Chain {said['chain_id']} answers at {url}")
    return {"CHAIN_NETWORKS": str(manifest), **keys}


def devnet(home: Home, port: int) -> Program:
    """The development chain. Ready when it answers."""
    url = f"http://127.0.0.1:{port}"
    options = ["--port", str(port), "--home", str(home.folder / "chain")]
    return Program(
        name="devnet",
        argv=[sys.executable, "-m", "chain.devnet", *options],
        env=os.environ,
        log=home.logs / "devnet.log",
        cwd=PROJECT,
        ready=lambda child: _ask(url, "eth_chainId") is not None,
    )


def _devnet(supervisor: Supervisor, home: Home) -> str:
    port = _port(home)
    supervisor.start(devnet(home, port))
    supervisor.await_ready("devnet", within_s=DEVNET_WITHIN_S)
    return f"http://127.0.0.1:{port}"


def _port(home: Home) -> int:
    """That of the last run, at first 8545, and another one where it is taken."""
    for wanted in (home.remembered("chain_port") or PREFERRED_PORT, 0):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            port = int(tried.getsockname()[1])
            home.remember("chain_port", port)
            return port
    raise StartFailed("No port is free for the chain.")


def _keys(file: Path) -> dict[str, str]:
    """The operator's key and the provider's: the environment's, else those that this home has made."""
    if not file.exists():
        write_private(file, json.dumps({name: f"0x{secrets.token_hex(32)}" for name in KEYS}))
    own: dict[str, str] = json.loads(file.read_text())
    return own | {name: os.environ[name] for name in KEYS if os.environ.get(name)}


def _is_there(manifest: Path, url: str) -> bool:
    """Whether the contracts of a manifest are on the chain behind `url`; its address may have changed."""
    try:
        said = json.loads(manifest.read_text())
        nexus = said["contracts"]["NEXUS"]
    except (FileNotFoundError, ValueError, KeyError):
        return False
    if _ask(url, "eth_chainId") != hex(said["chain_id"]) or _ask(url, "eth_getCode", nexus, "latest") in (
        None,
        "0x",
    ):
        return False
    if said["rpc_url"] != url:
        manifest.write_text(json.dumps(said | {"rpc_url": url}, indent=1))
    return True


def _deploy(supervisor: Supervisor, url: str, manifest: Path, keys: dict[str, str]) -> None:
    command = [sys.executable, "-m", "chain.devnet.contracts", url, str(manifest)]
    if supervisor.run(command, env=os.environ | keys, cwd=PROJECT) != 0:
        raise StartFailed("The contracts could not be put onto the chain; the lines above say why.")


def _ask(url: str, method: str, *parameters: Any) -> Any:
    """What a node answers; None while it does not."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - ours, or the user's
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310 - likewise
            return json.load(reply).get("result")
    except (OSError, ValueError):
        return None
