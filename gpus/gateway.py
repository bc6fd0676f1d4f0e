"""What a process needs to relay requests to nodes, started and stopped together, and its own sign of life."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from datetime import UTC, datetime
from uuid import UUID, uuid4

from gpus import connections, reports
from gpus.delivery import Deliveries
from gpus.directory import Directory, LiveNode
from gpus.heartbeats import Heartbeats
from gpus.links import Links
from gpus.models import Delivery
from marketplace import background
from marketplace.bus import Bus
from marketplace.groupcommit import GroupCommit, NotRecorded, Statement

logger = logging.getLogger(__name__)

ALIVE_EVERY_S = 2.0
PROBE_EVERY_S = 2.0
# A node that has been away for long is looked at less often.
PROBE_AWAY_AFTER_S, PROBE_AWAY_CHANCE = 60.0, 0.1

ALIVE = Statement(
    "gateway_alive",
    """
    INSERT INTO gpus_gateway (id, host, pid, started_at, seen_at)
    SELECT DISTINCT ON (id) id, host, pid, started_at, seen_at
    FROM json_to_recordset($1) AS row (id uuid, host text, pid int, started_at timestamptz, seen_at timestamptz)
    ORDER BY id, seen_at DESC
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
    """,
)


class Gateway:
    """The nodes as this process sees them, the ways to them, and the proof that it lives."""

    def __init__(self, *, commits: GroupCommit, bus: Bus) -> None:
        self.id: UUID = uuid4()
        self.commits = commits
        self.bus = bus
        self.directory = Directory(self.id)
        self.links = Links(self.directory, bus)
        self.deliveries = Deliveries(self.links)
        self.heartbeats = Heartbeats(self.directory, commits)
        self._started_at = datetime.now(UTC)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.directory.start(self.bus)
        self.deliveries.start()
        self.heartbeats.start()
        self._tasks = [
            background.keep_running(each) for each in (self._stay_alive, self._keep_links, self._probe)
        ]

    async def stop(self) -> None:
        await background.end(*self._tasks)
        await self.heartbeats.stop()
        await self.deliveries.stop()
        await self.directory.stop()

    async def _stay_alive(self) -> None:
        row = {
            "id": self.id.hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self._started_at,
        }
        while True:
            try:
                await self.commits.submit((ALIVE, {**row, "seen_at": datetime.now(UTC)}))
            except NotRecorded:
                logger.warning(
                    "The database has been away for long; others may think that this process is gone"
                )
            await asyncio.sleep(ALIVE_EVERY_S)

    async def _keep_links(self) -> None:
        """Write down again who holds a connection where the database missed it."""
        while True:
            await asyncio.sleep(ALIVE_EVERY_S)
            for node_id, link in list(self.links.own.items()):
                node = self.directory.nodes.get(node_id)
                if node is not None and not self.directory.is_noted(node):
                    await connections.note(self.directory, node, link.id)

    async def _probe(self) -> None:
        """See whether nodes that could not be called can be called again."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S * (0.5 + random.random()))  # noqa: S311 - spreads load, guards nothing
            away = [node for node in self.directory.nodes.values() if _is_due(node)]
            answers = await asyncio.gather(*(self.deliveries.probe(node) for node in away))
            for node, why in zip(away, answers, strict=True):
                if why is None:
                    await self.mark_reachable(node)

    async def mark_unreachable(self, node: LiveNode, why: str) -> None:
        """No more work for a node that we cannot call, in any process, until a probe gets through."""
        node.facts.unreachable_since, node.facts.unreachable_why = datetime.now(UTC).timestamp(), why[:500]
        self.directory.reassess(node)
        await asyncio.to_thread(reports.note_unreachable, node_id=node.id, why=why, now=datetime.now(UTC))

    async def mark_reachable(self, node: LiveNode) -> None:
        node.facts.unreachable_since, node.facts.unreachable_why = None, ""
        self.directory.reassess(node)
        await asyncio.to_thread(reports.note_reachable, node_id=node.id, now=datetime.now(UTC))


def _is_due(node: LiveNode) -> bool:
    since = node.facts.unreachable_since
    if node.delivery != Delivery.PUSH or node.state != "unreachable" or since is None:
        return False
    recent = datetime.now(UTC).timestamp() - since < PROBE_AWAY_AFTER_S
    return recent or random.random() < PROBE_AWAY_CHANCE  # noqa: S311 - spreads load, guards nothing
