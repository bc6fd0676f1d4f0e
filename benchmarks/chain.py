"""Catching up with a chain, and reading responses: against plain web3, and against the published SDK.

    scripts/bench chain [--quick] [--rounds 3] [--events 10000] [--responses 1000]

They take turns within each round; ratios are formed within one round, and the median over the rounds is reported.
README.md says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks import report
from benchmarks.ledger import with_services
from benchmarks.peers import HOME as BENCH_HOME
from benchmarks.programs import ROOT, Programs, StandError, changed, django_program, running
from chain.contracts import ARTIFACTS
from marketplace.embedded.home import AlreadyRuns, HomeUnusable
from marketplace.embedded.supervisor import StartFailed

HOME = BENCH_HOME / "chain"
SDK = ROOT / ".venv-ogpu" / "bin" / "python"
READERS = {
    "ours": "the marketplace",
    "in_windows": "plain web3, 500 blocks at once",
    "per_block": "plain web3, block by block",
}
CLIENTS = {"client": "`chain.client`", "sdk": "`ogpu` 0.2.3"}
PROMISE = 20.0
UP_WITHIN_S = 30


@dataclass(slots=True)
class Stand:
    """A chain with tasks on it, behind a cache, and a database to read it into."""

    url: str
    task: str
    environment: Mapping[str, str]
    read: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    responses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


async def stand_up(programs: Programs, environment: Mapping[str, str], options: argparse.Namespace) -> Stand:
    """The chain is made once, and kept as long as the contracts stay the same."""
    folder = HOME / f"{options.events}-{options.responses}-{_contracts()}"
    folder.mkdir(parents=True, exist_ok=True)
    made_file, port_file = folder / "made.json", folder / "port"
    port_file.unlink(missing_ok=True)
    arguments = ["--home", str(folder), "--port", "0", "--port-file", str(port_file), "--tail", "0"]
    if not made_file.exists():
        (folder / "chain.sqlite3").unlink(missing_ok=True)
    node = await programs.start("devnet", sys.executable, "-m", "chain.devnet", *arguments)
    async with asyncio.timeout(UP_WITHIN_S):
        while not port_file.exists():
            node.check_alive()
            await asyncio.sleep(0.05)
    url = f"http://127.0.0.1:{port_file.read_text()}"
    if not made_file.exists():
        print("Making the chain; it is kept for the next time.", flush=True)
        numbers = str(options.events), str(options.responses)
        await _output([sys.executable, "-m", "benchmarks.chain_made", url, str(made_file), *numbers])
    made = orjson.loads(made_file.read_bytes())
    cache = await programs.start("cache", sys.executable, "-m", "benchmarks.chain_cache", url, speaks=True)
    url = f"http://127.0.0.1:{(await cache.first_line()).decode()}"
    manifest = folder / "manifest.json"
    manifest.write_bytes(orjson.dumps(made["manifest"] | {"rpc_url": url}))
    return Stand(url, made["task"], {**environment, "CHAIN_NETWORKS": str(manifest)})


def _contracts() -> str:
    digest = hashlib.sha256()
    for path in sorted(ARTIFACTS.glob("*.json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


async def measure(stand: Stand, options: argparse.Namespace) -> None:
    """All rounds, in turns; each round begins with another one. What all of them ask is known by then."""
    print("Asking everything once, so that it is known.", flush=True)
    for who in READERS:
        await _reading(stand, who)
    for who in CLIENTS:
        await _responses(stand, who)
    for turn in range(options.rounds):
        for who in _turned(list(READERS), turn):
            found = await _reading(stand, who)
            stand.read.setdefault(who, []).append(found)
            print(f"round {turn + 1}  {READERS[who]:32} {found['seconds']:8.2f} s", flush=True)
        for who in _turned(list(CLIENTS), turn):
            found = await _responses(stand, who)
            stand.responses.setdefault(who, []).append(found)
            print(f"round {turn + 1}  {CLIENTS[who]:32} {found['seconds']:8.2f} s", flush=True)


def _turned(names: list[str], turn: int) -> list[str]:
    shift = turn % len(names)
    return names[shift:] + names[:shift]


async def _reading(stand: Stand, who: str) -> dict[str, Any]:
    said = await django_program("benchmarks.chain_reading", who, environment=stand.environment)
    found: dict[str, Any] = orjson.loads(said)
    return found


async def _responses(stand: Stand, who: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.chain_responses"]
    if who == "sdk":
        command = [str(SDK), str(Path(__file__).with_name("chain_responses_sdk.py"))]
    found: dict[str, Any] = orjson.loads(await _output([*command, stand.url, stand.task]))
    return found


async def _output(command: Sequence[str]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=changed(None), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise StandError(f"{' '.join(command[:3])} failed:\n{errors.decode()[-2000:]}")
    return output


def check(stand: Stand, options: argparse.Namespace) -> str:
    """Raises StandError unless all have written, and read, the same, and as much as there is."""
    written = {(found["sum"], found["events"]) for runs in stand.read.values() for found in runs}
    answers = [found["read"] for runs in stand.responses.values() for found in runs]
    if len(written) != 1:
        raise StandError(f"They have not written the same rows: {written}.")
    if any(one != answers[0] for one in answers) or len(answers[0]) != options.responses:
        raise StandError("They have not read the same responses.")
    ((_, events),) = written
    return f"all have written the same rows from {events:,} events, and read the same {len(answers[0]):,} responses."


def ratio(runs: Mapping[str, list[dict[str, Any]]], who: str, other: str) -> float:
    """How many times as long `who` takes as `other`, within a round."""
    pairs = zip(runs[who], runs[other], strict=True)
    return statistics.median(mine["seconds"] / theirs["seconds"] for mine, theirs in pairs)


def rendered(stand: Stand, options: argparse.Namespace, *, disk: str) -> str:
    """The tables, as markdown."""
    faster = ratio(stand.read, "per_block", "ours")
    sooner = ratio(stand.responses, "sdk", "client")
    promises = [
        _promise(f"catching up {options.events:,} events: faster than block by block", faster),
        _promise(f"reading {options.responses:,} responses: faster than the SDK", sooner),
    ]
    events = stand.read["ours"][0]["events"]
    readers = [
        (
            name,
            f"{_median(stand.read[who]):.2f}",
            f"{_median(stand.read[who], 'cpu'):.2f}",
            f"{stand.read[who][0]['trips']:,}",
            f"{ratio(stand.read, who, 'ours'):.1f}",
        )
        for who, name in READERS.items()
    ]
    clients = [
        (
            name,
            f"{_median(stand.responses[who]):.2f}",
            f"{_median(stand.responses[who], 'cpu'):.2f}",
            f"{ratio(stand.responses, who, 'client'):.1f}",
        )
        for who, name in CLIENTS.items()
    ]
    parts = [
        report.table(("", "target", "measured", "kept"), promises),
        f"**Catching up {events:,} events**",
        report.table(("", "seconds", "of CPU", "round trips", "× the marketplace's time"), readers),
        f"**Reading {options.responses:,} responses of a task**",
        report.table(("", "seconds", "of CPU", "× `chain.client`'s time"), clients),
    ]
    rounds = f"{options.rounds} round{'s' if options.rounds > 1 else ''}"
    return "\n\n".join([*parts, f"{rounds}; {report.machine()}; {disk}."])


def _promise(what: str, measured: float) -> tuple[str, ...]:
    return what, f"≥ {PROMISE:g} ×", f"{measured:.1f} ×", "yes" if measured >= PROMISE else "**no**"


def _median(runs: Sequence[Mapping[str, Any]], what: str = "seconds") -> float:
    return statistics.median(found[what] for found in runs)


async def bench(environment: Mapping[str, str], options: argparse.Namespace) -> None:
    disk = report.disk(HOME)
    async with running(HOME / "logs") as programs:
        stand = await stand_up(programs, environment, options)
        await measure(stand, options)
    text = rendered(stand, options, disk=disk) + "\n\nChecked afterwards: " + check(stand, options)
    print(f"\n{text}\n")
    if options.publish:
        report.publish("chain", text)
        print(f"Written to {report.README.name}.")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench chain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round with a small chain; not published")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--responses", type=int, default=1_000)
    parser.add_argument("--no-fsync", action="store_true", help="PostgreSQL as on a disk that never waits")
    parser.add_argument("--publish", action="store_true", help="write the tables to benchmarks/README.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.events, options.responses = 1, 1_000, 100
    return options


def main() -> None:
    options = parsed()
    try:
        with_services(options, lambda environment: uvloop.run(bench(environment, options)), folder=HOME)
    except (AlreadyRuns, HomeUnusable, StartFailed, StandError) as error:
        sys.exit(f"scripts/bench chain: {error}")


if __name__ == "__main__":
    main()
