"""`python -m chain.devnet`: serve the chain in a folder; `python -m chain.devnet accounts`: show who owns its coins."""

import argparse
import fcntl
import ipaddress
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from chain.devnet.accounts import PHRASE, development_accounts
from chain.devnet.chain import CHAIN_ID, TAIL, Chain
from chain.devnet.methods import Methods
from chain.devnet.server import Server

# py-evm lets Python recurse 100,000 deep; contracts that call each other, and nested JSON, must end before the stack.
STACK_BYTES = 64 * 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "accounts":
        return _show_accounts()
    return _serve(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chain.devnet", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "accounts"], default="serve")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8545, help="0 for any free one (8545)")
    parser.add_argument(
        "--home", type=Path, default=Path(".local/devnet"), help="the folder that keeps the chain"
    )
    parser.add_argument("--port-file", type=Path, help="write the port here as soon as it can be called")
    parser.add_argument("--chain-id", type=int, default=CHAIN_ID)
    parser.add_argument("--tail", type=int, default=TAIL, help="empty blocks after the last transaction (12)")
    parser.add_argument(
        "--allow-remote", action="store_true", help="needed to listen at an address that others can reach"
    )
    return parser


def _show_accounts() -> int:
    print(f"# Known to everybody, for development only: {PHRASE}")
    for found in development_accounts():
        print(found.address, found.private_key)
    return 0


def _serve(options: argparse.Namespace) -> int:
    if not _is_loopback(options.host) and not options.allow_remote:
        print(
            f"{options.host} can be reached by others, who own these coins too; add --allow-remote if that is meant."
        )
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    # py-evm warns about every transaction that it refuses; the client is told already.
    logging.getLogger("eth").setLevel(logging.ERROR)
    options.home.mkdir(parents=True, exist_ok=True)
    lock = _only_one(options.home / "lock")
    if lock is None:
        print(f"Another process serves the chain in {options.home}.")
        return 1
    try:
        chain = Chain(options.home / "chain.sqlite3", chain_id=options.chain_id, tail=options.tail)
        server = Server((options.host, options.port), Methods(chain))
    except (OSError, ValueError) as error:
        place = f"{options.host}:{options.port}"
        print(f"The chain cannot be served at {place}: {error}. --port 0 takes any port that is free.")
        return 1
    _run(chain, server, options)
    return 0


def _run(chain: Chain, server: Server, options: argparse.Namespace) -> None:
    threading.stack_size(STACK_BYTES)
    stop = threading.Event()
    # shutdown() waits for the loop to end, so it is not for the thread that runs the loop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    threading.Thread(target=chain.rest, args=(stop,), daemon=True).start()
    print(
        f"Chain {options.chain_id} at http://{options.host}:{server.port}, block {chain.head.block_number}",
        flush=True,
    )
    if options.port_file is not None:
        _write_whole(options.port_file, str(server.port))
    server.serve_forever(poll_interval=0.2)
    stop.set()
    server.server_close()
    chain.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _only_one(path: Path) -> IO[str] | None:
    """A lock that ends with the process; None where another process has it."""
    handle = path.open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


def _write_whole(path: Path, text: str) -> None:
    """Whoever waits for the file never reads half of it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    os.replace(fresh, path)


if __name__ == "__main__":
    sys.exit(main())
