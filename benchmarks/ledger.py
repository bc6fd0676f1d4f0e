"""How fast money moves: the ledger against pgbench, which runs the equivalent statements on the same server.

    scripts/bench ledger [--quick] [--rounds 5] [--seconds 4]

They take turns within each round; ratios are formed within one round, and the median over the rounds is reported.
README.md says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psycopg2
import uvloop

from benchmarks import report
from benchmarks.peers import HOME as BENCH_HOME
from benchmarks.programs import ROOT, StandError, changed, django_program
from marketplace.embedded import services
from marketplace.embedded.home import AlreadyRuns, Home, HomeUnusable
from marketplace.embedded.local import DEMO_SETTINGS
from marketplace.embedded.supervisor import StartFailed, Supervisor

HOME = BENCH_HOME / "ledger"
IN_FLIGHT = 64
PGBENCH_CLIENTS = (16, 64)
VERB_THREADS = 16
PROMISE = 0.5

# Hold and settle, as somebody would write it who has no ledger: two transactions, each statement a round trip.
PAIR = r"""
\set consumer :first + 3 * :step * :client_id
\set provider :consumer + 1
\set fees :consumer + 2
BEGIN;
INSERT INTO clients_hold (reference, account_id, amount, captured, tokens, created_at, outcome)
    VALUES ('pgbench:' || nextval('bench_reference'), :consumer, 100, 0, 0, clock_timestamp(), '')
    RETURNING reference AS reference \gset
UPDATE clients_account SET held = held + 100 WHERE id = :consumer AND balance - held >= 100;
COMMIT;
BEGIN;
DELETE FROM clients_hold WHERE reference = :reference;
INSERT INTO clients_transfer (reference, kind, source_id, destination_id, amount, fee, memo, at)
    VALUES (:reference, 'inference', :consumer, :provider, 60, 6, '', clock_timestamp());
UPDATE clients_account SET balance = balance - 60, held = held - 100 WHERE id = :consumer;
UPDATE clients_account SET balance = balance + 54 WHERE id = :provider;
UPDATE clients_account SET balance = balance + 6 WHERE id = :fees;
COMMIT;
"""
TRANSFER = r"""
\set consumer :first + 3 * :step * :client_id
\set provider :consumer + 1
BEGIN;
SELECT id, balance, held FROM clients_account WHERE id IN (:consumer, :provider) ORDER BY id FOR NO KEY UPDATE;
INSERT INTO clients_transfer (reference, kind, source_id, destination_id, amount, fee, memo, at)
    VALUES ('pgbench:' || nextval('bench_reference'), 'transfer', :consumer, :provider, 60, 0, '', clock_timestamp());
UPDATE clients_account SET balance = balance - 60 WHERE id = :consumer;
UPDATE clients_account SET balance = balance + 60 WHERE id = :provider;
COMMIT;
"""


class Peer(NamedTuple):
    """Who moves money, and how: `processes` of ours, or so many clients of pgbench (0 processes)."""

    name: str
    processes: int
    in_flight: int
    verb: bool = False


PAIRS = (
    Peer("ledger, 1 process", 1, IN_FLIGHT),
    Peer("ledger, 2 processes", 2, IN_FLIGHT),
    *(Peer(f"pgbench, {clients} clients", 0, clients) for clients in PGBENCH_CLIENTS),
)
TRANSFERS = (
    Peer(f"`ledger.transfer`, {VERB_THREADS} threads", 1, VERB_THREADS, verb=True),
    Peer(f"pgbench, {VERB_THREADS} clients", 0, VERB_THREADS, verb=True),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One table: between which accounts, by whom."""

    title: str
    is_hot: bool
    peers: Sequence[Peer]


SCENES = (
    Scene("Hold and settle, distinct accounts", is_hot=False, peers=PAIRS),
    Scene("Hold and settle, one consumer, one provider, the fee account", is_hot=True, peers=PAIRS),
    Scene("Transfers one by one, distinct accounts", is_hot=False, peers=TRANSFERS),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Per second; milliseconds from the hold's beginning to the settlement's end, on average."""

    rate: float
    mean_ms: float


@dataclass(slots=True)
class Stand:
    """A database with accounts."""

    environment: Mapping[str, str]
    accounts: dict[str, Any]
    pgbench: str
    moved: int = 0
    runs: int = 0
    by_scene: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)

    def vacuum(self) -> None:
        """What one run leaves behind is not the next one's to clean up."""
        connection = psycopg2.connect(self.environment["DATABASE_URL"])
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE clients_account, clients_stripe, clients_hold, clients_transfer")
            cursor.execute("CHECKPOINT")
        connection.close()


async def ours(stand: Stand, scene: Scene, peer: Peer, *, seconds: float) -> Sample:
    taken: list[float] = []
    loads = [await _load(stand, scene, peer, number, seconds) for number in range(peer.processes)]
    for load in loads:
        assert load.stdout is not None
        await load.stdout.readline()
    outputs = await asyncio.gather(*(load.communicate(b"go\n") for load in loads))
    for load, (output, errors) in zip(loads, outputs, strict=True):
        if load.returncode:
            raise StandError(f"{peer.name} failed:\n{errors.decode()[-3000:]}")
        taken += orjson.loads(output)
    stand.moved += len(taken)
    return Sample(len(taken) / seconds, statistics.fmean(taken) * 1000)


async def _load(
    stand: Stand, scene: Scene, peer: Peer, number: int, seconds: float
) -> asyncio.subprocess.Process:
    accounts = stand.accounts
    payers = accounts["spendable" if peer.verb else "consumers"]
    pairs = list(zip(payers, accounts["payees"], strict=True))
    stand.runs += 1
    spec = {
        "pairs": pairs[:1] if scene.is_hot else pairs[number :: peer.processes],
        "fees": accounts["fees"],
        "in_flight": peer.in_flight // peer.processes,
        "stripe": number,
        "seconds": seconds,
        "tag": f"{accounts['pgbench']}:{stand.runs}",
    }
    code = "import django; django.setup(); import benchmarks.ledger_load as program; program.main()"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "verbs" if peer.verb else "groups", orjson.dumps(spec).decode(),
        cwd=ROOT, env=changed(stand.environment), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, limit=2**26,
    )  # fmt: skip


async def pgbench(stand: Stand, scene: Scene, peer: Peer, *, seconds: float) -> Sample:
    script = HOME / "pgbench.sql"
    script.write_text(TRANSFER if peer.verb else PAIR)
    process = await asyncio.create_subprocess_exec(
        stand.pgbench, "--no-vacuum", "--protocol=prepared", "--client", str(peer.in_flight), "--jobs", "2",
        "--time", str(max(1, round(seconds))), "--file", str(script), "--define", f"first={stand.accounts['pgbench']}",
        "--define", f"step={0 if scene.is_hot else 1}", stand.environment["DATABASE_URL"],
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    rate = re.search(rb"tps = ([\d.]+)", output)
    mean = re.search(rb"latency average = ([\d.]+)", output)
    count = re.search(rb"transactions actually processed: (\d+)", output)
    if process.returncode or rate is None or mean is None or count is None:
        raise StandError(f"pgbench failed:\n{(output + errors).decode()[-3000:]}")
    stand.moved += int(count[1])
    return Sample(float(rate[1]), float(mean[1]))


async def measure(stand: Stand, options: argparse.Namespace) -> None:
    """All rounds, in turns; each round begins with another peer."""
    for turn in range(options.rounds):
        for scene in SCENES:
            shift = turn % len(scene.peers)
            for peer in (*scene.peers[shift:], *scene.peers[:shift]):
                stand.vacuum()
                run = ours if peer.processes else pgbench
                sample = await run(stand, scene, peer, seconds=options.seconds)
                stand.by_scene.setdefault((scene.title, peer.name), []).append(sample)
                print(
                    f"round {turn + 1}  {scene.title[:34]:34} {peer.name:32} {sample.rate:9,.0f}/s",
                    flush=True,
                )


def ratio(stand: Stand, scene: Scene, peer: Peer) -> float:
    """Relative to the better pgbench of the same round."""
    others = [stand.by_scene[scene.title, other.name] for other in scene.peers if not other.processes]
    best = [max(sample.rate for sample in samples) for samples in zip(*others, strict=True)]
    own = stand.by_scene[scene.title, peer.name]
    return statistics.median(mine.rate / other for mine, other in zip(own, best, strict=True))


def rendered(stand: Stand, options: argparse.Namespace, *, disk: str) -> str:
    """The tables, as markdown."""
    best = max(ratio(stand, SCENES[0], peer) for peer in PAIRS if peer.processes)
    promise = (
        "hold and settle, distinct accounts: relative to the better pgbench",
        f"≥ {PROMISE:g}",
        f"{best:.2f}",
        "yes" if best >= PROMISE else "**no**",
    )
    parts = [report.table(("", "target", "measured", "kept"), [promise])]
    for scene in SCENES:
        lines = [_line(stand, scene, peer) for peer in scene.peers]
        parts.append(
            f"**{scene.title}**\n\n{report.table(('', 'per second', '× pgbench', 'mean ms'), lines)}"
        )
    rounds = f"{options.rounds} round{'s' if options.rounds > 1 else ''}"
    where = "PostgreSQL without fsync" if options.no_fsync else disk
    return "\n\n".join([*parts, f"{rounds} of {options.seconds:g} s each; {report.machine()}; {where}."])


def _line(stand: Stand, scene: Scene, peer: Peer) -> tuple[str, ...]:
    samples = stand.by_scene[scene.title, peer.name]
    return (
        peer.name,
        f"{statistics.median(sample.rate for sample in samples):,.0f}",
        f"{ratio(stand, scene, peer):.2f}",
        f"{statistics.median(sample.mean_ms for sample in samples):.2f}",
    )


async def check(stand: Stand, before: int) -> str:
    """Raises StandError unless the books add up and each transfer that was counted is there."""
    found = orjson.loads(await _program(stand.environment, "check"))
    made = found.pop("transfers") - before
    # pgbench does not count what it was just doing when the time was over.
    if any(found.values()) or not stand.moved <= made <= stand.moved + 1000:
        raise StandError(f"The books are wrong: {found}; {made} transfers, {stand.moved} were counted.")
    return f"{made:,} transfers; the sum of all accounts is 0, and nothing is held."


async def _program(environment: Mapping[str, str], what: str) -> bytes:
    return await django_program("benchmarks.ledger_load", what, environment=environment)


async def bench(environment: Mapping[str, str], options: argparse.Namespace) -> None:
    disk = report.disk(HOME)
    before = orjson.loads(await _program(environment, "check"))["transfers"]
    accounts = orjson.loads(await _program(environment, "prepare"))
    stand = Stand(environment, accounts, _pgbench_of(environment["DATABASE_URL"]))
    await measure(stand, options)
    text = rendered(stand, options, disk=disk)
    text += "\n\nChecked afterwards: " + await check(stand, before)
    print(f"\n{text}\n")
    if options.publish:
        report.publish("ledger", text)
        print(f"Written to {report.README.name}.")


def _pgbench_of(url: str) -> str:
    """The server's own pgbench where it has one, else the one on the PATH."""
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
        (folder,) = cursor.fetchone()
    connection.close()
    beside = os.path.join(folder, "pgbench")
    return beside if os.access(beside, os.X_OK) else "pgbench"


def with_services(
    options: argparse.Namespace, run: Callable[[Mapping[str, str]], None], *, folder: Path = HOME
) -> None:
    """Run with PostgreSQL as in the embedded marketplace, migrated."""
    home = Home(folder)
    supervisor = Supervisor(say=partial(print, file=sys.stderr, flush=True), state_file=home.state)
    try:
        home.lock()
        environment = {
            **DEMO_SETTINGS,
            "SECRET_KEY": home.secret_key(),
            "MARKETPLACE_HOME": str(home.folder),
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
            **services.start(supervisor, home, durable=not options.no_fsync),
        }
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        if supervisor.run(migrate, env={**os.environ, **environment}, cwd=ROOT) != 0:
            raise StartFailed("The database could not be migrated.")
        run(environment)
    finally:
        supervisor.stop()


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench ledger", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round; not published")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per peer and round")
    parser.add_argument("--no-fsync", action="store_true", help="PostgreSQL as on a disk that never waits")
    parser.add_argument("--publish", action="store_true", help="write the tables to benchmarks/README.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    return options


def main() -> None:
    options = parsed()
    try:
        with_services(options, lambda environment: uvloop.run(bench(environment, options)))
    except (AlreadyRuns, HomeUnusable, StartFailed, StandError) as error:
        sys.exit(f"scripts/bench ledger: {error}")


if __name__ == "__main__":
    main()
