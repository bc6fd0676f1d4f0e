"""What the marketplace adds to a request: measured against the engine alone and against LiteLLM, in one run.

    scripts/bench gateway [--quick] [--rounds 5] [--seconds 3] [--peers direct,push,pull,litellm]

The peers take turns within each round, since a machine's speed drifts; ratios are formed within one round,
and the median over the rounds is reported. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import uvloop

from benchmarks import load, peers, report
from benchmarks.load import LoadError, Target
from benchmarks.mock_engine import CHUNKS
from benchmarks.peers import HOME, Marketplace
from benchmarks.programs import Programs, StandError, running

CONNECTIONS = (1, 16, 64)
MODES = {False: "plain", True: f"{CHUNKS}-chunk stream"}
PUSH_MODEL, PULL_MODEL, FREE_MODEL = "bench-push", "bench-pull", "bench-free"
MODELS = {"push": PUSH_MODEL, "pull": PULL_MODEL, "free": FREE_MODEL}
NAMES = {
    "direct": "the engine itself",
    "push": "marketplace, push",
    "pull": "marketplace, pull",
    "free": "marketplace, push, free of charge",
    "litellm": "LiteLLM (`hosted_vllm/`)",
    "litellm-openai": "LiteLLM (`openai/`)",
}
LITELLM_PROVIDERS = {"litellm": "hosted_vllm", "litellm-openai": "openai"}
RECORDED_WITHIN_S = 5


class Cell(NamedTuple):
    """One line of the table."""

    peer: str
    stream: bool
    connections: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What one peer gave in one round. Requests per second, milliseconds."""

    rate: float
    p50: float
    p99: float


@dataclass(slots=True)
class Samples:
    """All rounds. Ratios and differences are formed within a round; medians are taken over the rounds."""

    peers: Sequence[str]
    connections: Sequence[int]
    by_cell: dict[Cell, list[Sample]] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)

    def add(self, cell: Cell, result: load.Result) -> Sample:
        sample = Sample(result.rate, result.percentile_ms(0.5), result.percentile_ms(0.99))
        self.by_cell.setdefault(cell, []).append(sample)
        self.answered[cell.peer] = self.answered.get(cell.peer, 0) + result.answered
        return sample

    def median(self, cell: Cell, value: Callable[[Sample], float]) -> float:
        return statistics.median(map(value, self.by_cell[cell]))

    def times_litellm(self, cell: Cell) -> float:
        """Requests per second, relative to the better LiteLLM of the same round; NaN if none was measured."""
        best = self._per_round(cell, lambda samples: max(sample.rate for sample in samples))
        return _median(mine.rate / other for mine, other in zip(self.by_cell[cell], best, strict=False))

    def relative_to(self, other: str) -> Callable[[Cell], float]:
        """Requests per second of a cell, relative to another peer's in the same round; NaN if it was not measured."""

        def ratio(cell: Cell) -> float:
            theirs = self.by_cell.get(cell._replace(peer=other), [])
            mine = self.by_cell.get(cell, [])
            return _median(one.rate / two.rate for one, two in zip(mine, theirs, strict=False))

        return ratio

    def added(self, cell: Cell) -> float:
        """Milliseconds that the peer's p50 is above the engine's own."""
        direct = self.by_cell.get(cell._replace(peer="direct"), [])
        return _median(mine.p50 - other.p50 for mine, other in zip(self.by_cell[cell], direct, strict=False))

    def added_to_litellm(self, cell: Cell) -> float:
        """The added p50 as a share of that of the better LiteLLM of the same round."""
        direct = self.by_cell.get(cell._replace(peer="direct"), [])
        best = self._per_round(cell, lambda samples: min(sample.p50 for sample in samples))
        rounds = zip(self.by_cell[cell], direct, best, strict=False)
        return _median((mine.p50 - base.p50) / (other - base.p50) for mine, base, other in rounds)

    def _per_round(self, cell: Cell, choose: Callable[[Sequence[Sample]], float]) -> list[float]:
        others = [self.by_cell[cell._replace(peer=peer)] for peer in LITELLM_PROVIDERS if peer in self.peers]
        return [choose(samples) for samples in zip(*others, strict=True)]


def _median(values: Iterable[float]) -> float:
    listed = list(values)
    return statistics.median(listed) if listed else math.nan


async def start(
    programs: Programs, options: argparse.Namespace
) -> tuple[dict[str, Target], Marketplace | None]:
    """Start what the chosen peers need."""
    engine = await peers.engine(programs, PULL_MODEL)
    targets = {"direct": Target(engine, "bench")}
    for peer, provider in LITELLM_PROVIDERS.items():
        if peer in options.peers:
            url = await peers.litellm(programs, engine, provider=provider, workers=options.litellm_workers)
            targets[peer] = Target(url, "bench")
    if not {"push", "pull", "free"} & set(options.peers):
        return targets, None
    market = await peers.marketplace(programs, fsync=not options.no_fsync)
    if "push" in options.peers:
        await peers.push_node(programs, market, engine, model=PUSH_MODEL)
    if "pull" in options.peers:
        await peers.pull_node(programs, market, engine, model=PULL_MODEL)
    if "free" in options.peers:
        await peers.push_node(programs, market, engine, model=FREE_MODEL, paid=False)
    return targets | {peer: market.target(model) for peer, model in MODELS.items()}, market


async def measure(targets: dict[str, Target], options: argparse.Namespace) -> Samples:
    """All rounds, the peers taking turns; each round begins with another peer."""
    samples = Samples(options.peers, options.connections)
    for turn in range(options.rounds):
        shift = turn % len(options.peers)
        order = (*options.peers[shift:], *options.peers[:shift])
        for stream in MODES:
            for connections in options.connections:
                for peer in order:
                    cell = Cell(peer, stream, connections)
                    result = await run(targets[peer], cell, options)
                    _tell(turn, cell, samples.add(cell, result))
    return samples


async def run(target: Target, cell: Cell, options: argparse.Namespace) -> load.Result:
    try:
        return await load.run(
            target,
            connections=cell.connections,
            stream=cell.stream,
            seconds=options.seconds,
            warm_up=options.warm_up,
        )
    except LoadError as error:
        raise LoadError(f"{NAMES[cell.peer]}, {MODES[cell.stream]}, {cell.connections}: {error}") from None


def _tell(turn: int, cell: Cell, sample: Sample) -> None:
    where = f"{MODES[cell.stream]:15} {cell.connections:3} {cell.peer:15}"
    print(f"round {turn + 1}  {where} {sample.rate:9,.0f}/s  p50 {sample.p50:8.2f} ms", flush=True)


async def check_records(market: Marketplace, answered: dict[str, int]) -> str:
    """Compare the records with the answers that arrived; raises StandError unless they are equal."""
    expected = {
        model: (answered[peer], answered[peer] * CHUNKS)
        for peer, model in MODELS.items()
        if answered.get(peer)
    }
    found: dict[str, tuple[int, int]] = {}
    for _ in range(RECORDED_WITHIN_S * 5):
        records = (await market.rows("recorded", str(market.newest)))["records"]
        found = {
            f"{each['desired_model']}{'' if each['status'] == 'completed' else ' ' + each['status']}": (
                each["rows"],
                each["tokens"],
            )
            for each in records
        }
        if found == expected:
            total = sum(count for count, _ in expected.values())
            return (
                f"{total:,} answers, {total:,} completed records, {CHUNKS} completion tokens in each; "
                + await _check_books(market)
            )
        await asyncio.sleep(0.2)
    raise StandError(f"The records (rows, completion tokens) are {found}; the answers were {expected}.")


async def _check_books(market: Marketplace) -> str:
    """Raise StandError unless all accounts add up to zero, nothing is held, and every charge is a transfer."""
    books = await market.rows("books", str(market.newest))
    if (books["sum"], books["held"], books["holds"], books["unpaid"]) != ("0", "0", 0, "0"):
        raise StandError(f"The books do not add up: {books}")
    return f"{books['transfers']:,} transfers, the sum of all accounts is zero, nothing is held."


def rendered(samples: Samples, options: argparse.Namespace, *, disk: str) -> str:
    """The tables, as markdown."""
    parts = [_targets(samples)] if _promises(samples) else []
    head = ("", "requests/s", "× LiteLLM", "p50 ms", "p99 ms", "added p50 ms")
    for stream, mode in MODES.items():
        for connections in samples.connections:
            cells = [Cell(peer, stream, connections) for peer in samples.peers]
            title = f"{mode.capitalize()}, {connections} connection{'s' if connections > 1 else ''}"
            parts.append(f"**{title}**\n\n{report.table(head, (_line(samples, cell) for cell in cells))}")
    rounds = f"{options.rounds} round{'s' if options.rounds > 1 else ''}"
    how = (
        f"{rounds} of {options.seconds:g} s each; {report.machine()}; "
        f"LiteLLM 1.102.4 with {options.litellm_workers} worker{'s' if options.litellm_workers > 1 else ''}; "
        f"{'PostgreSQL without fsync' if options.no_fsync else disk}."
    )
    return "\n\n".join([*parts, how])


def _line(samples: Samples, cell: Cell) -> tuple[str, ...]:
    added = "" if cell.peer == "direct" else _number(samples.added(cell), 2)
    times = "" if cell.peer == "direct" else _number(samples.times_litellm(cell), 1)
    return (
        NAMES[cell.peer],
        _number(samples.median(cell, lambda sample: sample.rate), 0),
        times,
        _number(samples.median(cell, lambda sample: sample.p50), 2),
        _number(samples.median(cell, lambda sample: sample.p99), 2),
        added,
    )


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


class Promise(NamedTuple):
    """A target of DESIGN.md: what is measured, the bound, and whether more is better."""

    what: str
    cell: Cell
    value: Callable[[Cell], float]
    bound: float
    more_is_better: bool = True


def _targets(samples: Samples) -> str:
    """What was promised, and what was found."""
    head = ("money on; LiteLLM is the better of two", "target", "measured", "kept")
    kept = [_kept(promise, promise.value(promise.cell)) for promise in _promises(samples)]
    return report.table(head, [*kept, *_cost_of_money(samples)])


def _cost_of_money(samples: Samples) -> Iterable[tuple[str, ...]]:
    """Paid requests per second relative to free ones, in the same rounds."""
    for stream, mode in MODES.items():
        for connections in samples.connections:
            cell = Cell("push", stream, connections)
            ratio = samples.relative_to("free")(cell)
            if not math.isnan(ratio):
                many = "s" if connections > 1 else ""
                what = f"push, {mode}, {connections} connection{many}, as a share of free of charge"
                yield what, "", f"{ratio:.2f}", ""


def _kept(promise: Promise, value: float) -> tuple[str, ...]:
    kept = value >= promise.bound if promise.more_is_better else value <= promise.bound
    sign = "≥" if promise.more_is_better else "≤"
    digits = 1 if promise.bound >= 1 else 3
    return promise.what, f"{sign} {promise.bound:g}", f"{value:.{digits}f}", "yes" if kept else "**no**"


def _promises(samples: Samples) -> list[Promise]:
    """Those that this run can answer."""
    rate = samples.times_litellm
    push = samples.relative_to("push")
    promised = [
        Promise("push, plain, 16 connections, × LiteLLM", Cell("push", False, 16), rate, 15),
        Promise("push, plain, 64 connections, × LiteLLM", Cell("push", False, 64), rate, 25),
        Promise("push, streams, 16 connections, × LiteLLM", Cell("push", True, 16), rate, 30),
        Promise(
            "added p50, push, plain, 1 connection, as a share of LiteLLM's",
            Cell("push", False, 1),
            samples.added_to_litellm,
            0.25,
            more_is_better=False,
        ),
        Promise("pull, plain, 16 connections, as a share of push", Cell("pull", False, 16), push, 0.5),
        Promise("pull, streams, 16 connections, as a share of push", Cell("pull", True, 16), push, 0.5),
    ]
    measured = [promise for promise in promised if promise.cell in samples.by_cell]
    return measured if LITELLM_PROVIDERS.keys() & set(samples.peers) else []


async def bench(options: argparse.Namespace) -> None:
    disk = report.disk(HOME)
    async with running(HOME / "logs") as programs:
        targets, market = await start(programs, options)
        measuring = asyncio.ensure_future(measure(targets, options))
        await programs.while_alive(measuring)
        samples = measuring.result()
        text = rendered(samples, options, disk=disk)
        if market is not None:
            text += "\n\nChecked afterwards: " + await check_records(market, samples.answered)
    print(f"\n{text}\n")
    if options.publish:
        report.publish("gateway", text)
        print(f"Written to {report.README.name}.")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench gateway", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one short round, 1 and 16 connections; not published"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured per peer and round")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before")
    parser.add_argument("--connections", type=_numbers, default=CONNECTIONS, help="such as 1,16,64")
    parser.add_argument("--peers", type=_peers, default=tuple(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--litellm-workers", type=int, default=1)
    parser.add_argument("--no-fsync", action="store_true", help="PostgreSQL as on a disk that never waits")
    parser.add_argument("--publish", action="store_true", help="write the tables to benchmarks/README.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.warm_up, options.connections = 1, 1.0, 0.3, (1, 16)
    return options


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _peers(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    if unknown := set(chosen) - NAMES.keys():
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return chosen


def main() -> None:
    try:
        uvloop.run(bench(parsed()))
    except (LoadError, StandError) as error:
        sys.exit(f"scripts/bench gateway: {error}")


if __name__ == "__main__":
    main()
