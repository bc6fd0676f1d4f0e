"""Many nodes on one web process: heartbeats, and the choice of a node.

    scripts/bench nodes [--quick] [--nodes 10000] [--seconds 30]

Every node sends its heartbeat at its own moment of each interval, whether earlier ones were answered or not,
so that a late answer counts as late. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import orjson
import psutil
import uvloop

from benchmarks import load, peers, report
from benchmarks.calls import Caller
from benchmarks.load import LoadError
from benchmarks.peers import HOME, Marketplace
from benchmarks.programs import StandError, django_program, running

COMMON_MODEL = "bench-nodes"
INTERVAL_S = 15.0
NODES_PER_CONNECTION = 10
CHATS_AT_ONCE = 50
CHAT_EVERY_S = 3.0
METRICS = {"gpu_utilization": 73, "vram_used_mb": 61_440, "temperature_c": 64, "active_requests": 2}


@dataclass(slots=True)
class Beats:
    """What became of the heartbeats. Seconds, from the moment that each was due."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: what the web process had to do, and what it took."""

    what: str
    beats: Beats | None
    cpu: float
    chats: Sequence[float]


def beat_request(url: str, token: str) -> bytes:
    """A heartbeat as an agent sends it, as bytes."""
    said = {
        "node_token": token,
        "status": "online",
        "active_requests": 2,
        "agent_version": "0.1.0",
        "metrics": METRICS,
    }
    body = orjson.dumps(said)
    head = (
        f"POST /llm_models/heartbeat/ HTTP/1.1\r\nHost: {url.partition('//')[2]}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def beat(url: str, tokens: Sequence[str], *, seconds: float) -> Beats:
    """Let every node send a heartbeat each 15 seconds, for so many seconds, over keep-alive connections."""
    start, beats = time.perf_counter() + 0.5, Beats(seconds=seconds)
    callers = max(1, len(tokens) // NODES_PER_CONNECTION)
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            # Node i is due at i/n of the interval; a connection carries nodes that are far apart.
            own = [
                (index / len(tokens) * INTERVAL_S, beat_request(url, tokens[index]))
                for index in range(number, len(tokens), callers)
            ]
            group.create_task(_keep_beating(url, _due(own, start, seconds), beats))
    return beats


def _due(own: Sequence[tuple[float, bytes]], start: float, seconds: float) -> Iterator[tuple[float, bytes]]:
    """When to send which request, interval after interval."""
    for interval in itertools.count():
        for offset, request in own:
            at = interval * INTERVAL_S + offset
            if at >= seconds:
                return
            yield start + at, request


async def _keep_beating(url: str, due: Iterator[tuple[float, bytes]], beats: Beats) -> None:
    async with Caller(url) as caller:
        for at, request in due:
            wait = at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
                at = time.perf_counter()  # the sleep's own lateness is not the server's
            status, body = await caller.send(request)
            if status != 200:
                raise LoadError(f"A heartbeat was answered with {status}: {body[:400]!r}")
            beats.latencies.append(time.perf_counter() - at)


async def beat_as_fast_as_possible(
    url: str, tokens: Sequence[str], *, seconds: float, callers: int = 32
) -> Beats:
    """What the web process can take: every connection sends the next heartbeat when the last is answered."""
    beats, end = Beats(seconds=seconds), time.perf_counter() + seconds

    async def one(own: Sequence[bytes]) -> None:
        async with Caller(url) as caller:
            for request in itertools.cycle(own):
                began = time.perf_counter()
                if began >= end:
                    return
                status, body = await caller.send(request)
                if status != 200:
                    raise LoadError(f"A heartbeat was answered with {status}: {body[:400]!r}")
                beats.latencies.append(time.perf_counter() - began)

    requests = [beat_request(url, token) for token in tokens]
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(one(requests[number::callers]))
    return beats


async def chat(market: Marketplace, *, seconds: float) -> list[float]:
    """Seconds that chat requests take which are sent meanwhile in small groups, one after the other."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        latencies += (
            await load.run(market.target(COMMON_MODEL), connections=1, count=CHATS_AT_ONCE)
        ).latencies
        await asyncio.sleep(max(0.0, min(CHAT_EVERY_S, end - time.perf_counter())))
    return latencies


class Cpu:
    """The share of one core that a process uses between two looks."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._at, self._used = time.perf_counter(), self._cpu()

    def _cpu(self) -> float:
        try:
            times = self._process.cpu_times()
        except psutil.NoSuchProcess:
            raise StandError("The web process has ended; see the log in .local/bench/logs.") from None
        return float(times.user + times.system)

    def share(self) -> float:
        return (self._cpu() - self._used) / (time.perf_counter() - self._at)


async def observe(market: Marketplace, tokens: Sequence[str], *, seconds: float) -> list[Finding]:
    """The web process at rest (the nodes known, only chat), under the heartbeats of all, and at its limit."""
    cpu = Cpu(market.web)
    await asyncio.sleep(seconds / 3)
    resting = cpu.share()
    chat_alone = await chat(market, seconds=min(seconds, 3.0))

    cpu = Cpu(market.web)
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(beat(market.url, tokens, seconds=seconds))
        chatting = group.create_task(chat(market, seconds=seconds))
    busy = cpu.share()

    cpu = Cpu(market.web)
    most = await beat_as_fast_as_possible(market.url, tokens, seconds=min(seconds, 3.0))
    return [
        Finding("all nodes known, no heartbeats", None, resting, chat_alone),
        Finding(f"a heartbeat of each every {INTERVAL_S:g} s", beating.result(), busy, chatting.result()),
        Finding("as many heartbeats as it takes", most, cpu.share(), ()),
    ]


async def heartbeats(options: argparse.Namespace) -> str:
    """The table of part one."""
    async with running(HOME / "logs") as programs:
        engine = await peers.engine(programs, COMMON_MODEL)
        market = await peers.marketplace(programs)
        tokens: list[str] = (await market.rows("nodes", COMMON_MODEL, str(options.nodes), engine))["tokens"]
        await peers.until_routed(programs, market, COMMON_MODEL)
        print(f"{len(tokens):,} nodes are registered and known", flush=True)
        observing = asyncio.ensure_future(observe(market, tokens, seconds=options.seconds))
        await programs.while_alive(observing)
        heard = (await market.rows("heard", str(INTERVAL_S + 5)))["nodes"]
        if heard != len(tokens):
            raise StandError(f"Only {heard} of {len(tokens)} nodes have a fresh heartbeat on record.")
    return (
        _rendered(observing.result(), options)
        + f"\n\nChecked afterwards: {heard:,} nodes have a fresh heartbeat."
    )


def _rendered(findings: Sequence[Finding], options: argparse.Namespace) -> str:
    head = (
        f"{options.nodes:,} nodes, one web process",
        "heartbeats/s",
        "p50 ms",
        "p95 ms",
        "longest ms",
        "CPU",
        "chat p50 ms",
        "chat p95 ms",
    )
    return report.table(head, (_line(finding) for finding in findings))


def _line(finding: Finding) -> tuple[str, ...]:
    beats, chats = finding.beats, finding.chats
    figures = [""] * 4
    if beats is not None:
        figures = [f"{beats.rate:,.0f}", *(_ms(beats.latencies, share) for share in (0.5, 0.95, 1))]
    return finding.what, *figures, f"{finding.cpu:.0%}", _ms(chats, 0.5), _ms(chats, 0.95)


def _ms(seconds: Sequence[float], share: float) -> str:
    """The milliseconds that `share` (0..1) of the values do not exceed; nothing for no values."""
    return f"{load.percentile(seconds, share) * 1000:.2f}" if seconds else ""


async def placement() -> str:
    """The table of part two."""
    sizes = orjson.loads(await django_program("benchmarks.placement"))
    rows = [(f"{size['nodes']:,}", f"{size['any_us']:.2f}", f"{size['region_us']:.2f}") for size in sizes]
    head = ("nodes that hold the model", "choose and release, µs", "with a region that 1 in 4 has, µs")
    return report.table(head, rows)


async def bench(options: argparse.Namespace) -> None:
    parts = [await placement(), await heartbeats(options), f"{report.machine()}."]
    text = "\n\n".join(parts)
    print(f"\n{text}\n")
    if options.publish:
        report.publish("nodes", text)
        print(f"Written to {report.README.name}.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench nodes", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1,000 nodes for 5 seconds")
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=45.0, help="how long the nodes send heartbeats")
    parser.add_argument("--publish", action="store_true", help="write the tables to benchmarks/README.md")
    options = parser.parse_args()
    if options.quick:
        options.nodes, options.seconds = 1_000, INTERVAL_S
    try:
        uvloop.run(bench(options))
    except* (LoadError, StandError) as errors:
        sys.exit(f"scripts/bench nodes: {errors.exceptions[0]}")


if __name__ == "__main__":
    main()
