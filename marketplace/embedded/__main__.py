"""`python -m marketplace.embedded`: run a local marketplace, or show its credentials."""

import argparse
import json
import sys
from pathlib import Path

from marketplace.embedded import report
from marketplace.embedded.home import AlreadyRuns, Home, HomeUnusable, default_folder
from marketplace.embedded.listener import CannotListen
from marketplace.embedded.local import LocalMarketplace
from marketplace.embedded.supervisor import Interrupted, StartFailed


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        home = Home(given.home)
        return show_credentials(home) if given.command == "credentials" else run(home, given)
    except (AlreadyRuns, HomeUnusable, CannotListen) as error:
        print(error, file=sys.stderr)
        return 1


def run(home: Home, given: argparse.Namespace) -> int:
    """Start, do the main job once, stay until Ctrl-C (unless `--once`), stop. The exit status."""
    home.lock()
    marketplace = LocalMarketplace(home)
    first = not home.credentials.exists()
    try:
        marketplace.start()
        done = given.no_prompt or marketplace.demonstrate()
        if not given.once:
            report.show(marketplace.url, marketplace.credentials, home, with_secrets=first)
            marketplace.stay()
    except StartFailed as error:
        print(f"The start failed: {error}", file=sys.stderr)
        done = False
    except Interrupted:
        done = not given.once
    finally:
        marketplace.stop()
    return 0 if done else 1


def show_credentials(home: Home) -> int:
    if not home.credentials.exists():
        print(f"No marketplace has run in {home.folder} yet.", file=sys.stderr)
        return 1
    report.show_credentials(json.loads(home.credentials.read_text()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/run", description="Run a local GPU marketplace.")
    parser.add_argument("command", nargs="?", choices=("run", "credentials"), default="run")
    parser.add_argument(
        "--once", action="store_true", help="send one prompt, stop; the exit status says how it went"
    )
    parser.add_argument("--no-prompt", action="store_true", help="do not send a prompt at the start")
    parser.add_argument(
        "--home", type=Path, default=default_folder(), help="data, logs, secrets (MARKETPLACE_HOME)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
