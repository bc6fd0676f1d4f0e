"""Heartbeats: ten thousand nodes calling every few seconds, written together once a second.

A heartbeat changes a narrow row of its own; only what is new about the node itself (its models, its version, a drain)
goes through `reports.hear`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections

from clients.credentials import digest
from gpus import offers, reports
from gpus.directory import Directory, LiveNode
from gpus.offers import ModelSpec, Named
from gpus.placement import LiveOffer
from gpus.prices import NOTHING
from gpus.talents import HostingTalent, Training
from marketplace import background, money
from marketplace.errors import InvalidRequest, Unavailable
from marketplace.groupcommit import GroupCommit, Statement
from marketplace.http import Call

logger = logging.getLogger(__name__)

FLUSH_S = 1.0
MAX_METRICS_BYTES = 4096
STATUSES = frozenset(("online", "busy", "draining", "maintenance"))

BEAT = Statement(
    "node_beat",
    """
    INSERT INTO gpus_heartbeat (node_id, at, active_requests, metrics)
    SELECT DISTINCT ON (row.node_id) row.node_id, row.at, row.active_requests, row.metrics
    FROM json_to_recordset($1) AS row (node_id bigint, at timestamptz, active_requests int, metrics jsonb)
    JOIN gpus_node ON gpus_node.id = row.node_id
    ORDER BY row.node_id, row.at DESC
    ON CONFLICT (node_id) DO UPDATE
    SET at = excluded.at, active_requests = excluded.active_requests, metrics = excluded.metrics
    """,
)


class Heartbeats:
    """The heartbeats that one process has taken and not yet written."""

    def __init__(self, directory: Directory, commits: GroupCommit) -> None:
        self._directory = directory
        self._commits = commits
        self._waiting: dict[int, dict[str, Any]] = {}
        self._hearing: set[int] = set()

    def start(self) -> None:
        self._task = background.keep_running(self._flush)

    async def stop(self) -> None:
        await background.end(self._task)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            rows, self._waiting = self._waiting, {}
            writes = [self._commits.submit((BEAT, row)) for row in rows.values()]
            results = await asyncio.gather(*writes, return_exceptions=True)
            lost = sum(result is not None for result in results)
            if lost:
                logger.warning("%d heartbeats of %d were not written", lost, len(rows))

    async def take(self, call: Call) -> None:
        """`POST /llm_models/heartbeat/`: note that a node lives, and tell it what the marketplace wants of it."""
        _, said = await call.json_object()
        token = _token(call, said)
        if not token:
            await call.answer(400, b'{"error":"node_token is required."}')
            return
        node = await self._directory.find(digest(token))
        if node is None:
            await call.answer(
                404, b'{"error":"No node has this token. It may have been registered again, or removed."}'
            )
            return
        now = datetime.now(UTC)
        heard = _heard(said)
        self._waiting[node.id] = {"node_id": node.id, "at": now, **_metrics(said)}
        self._directory.beat(node.id, now.timestamp())
        if heard.differs_from(node) and not await self._hear(node, heard, now) and heard.prices:
            # Whatever else it says it will say again, but a price perhaps only once.
            raise Unavailable("The prices could not be written down. Call again.", retry_after=1)
        await call.answer(200, orjson.dumps(_reply(node, now)))

    async def _hear(self, node: LiveNode, heard: _Heard, now: datetime) -> bool:
        """Write what is new about the node; where this fails (false), the next heartbeat says it again."""
        if node.id in self._hearing:
            return False
        self._hearing.add(node.id)
        try:
            is_written = await asyncio.to_thread(_hear, node.id, heard, now)
        finally:
            self._hearing.discard(node.id)
        await self._directory.read_again(node.id)
        return is_written


def _hear(node_id: int, heard: _Heard, now: datetime) -> bool:
    close_old_connections()
    try:
        reports.hear(
            node_id=node_id,
            models=heard.models,
            draining=heard.draining,
            maintenance=heard.maintenance,
            agent_version=heard.agent_version,
            engine=heard.engine,
            now=now,
            talents=heard.talents,
            training_price=heard.training_price,
        )
    except DatabaseError as error:
        logger.warning("Could not note what node %s said: %s", node_id, error)
        return False
    finally:
        close_old_connections()
    return True


def _token(call: Call, said: dict[str, Any]) -> str:
    token = said.get("node_token") or (call.header(b"authorization") or "").partition(" ")[2]
    return token.strip() if isinstance(token, str) else ""


def _heard(said: dict[str, Any]) -> _Heard:
    status = said.get("status", "online")
    if status not in STATUSES:
        raise InvalidRequest(fields={"status": [f"Expected one of {', '.join(sorted(STATUSES))}."]})
    models = said.get("models")
    return _Heard(
        models=None if models is None else offers.parse(models),
        draining=status == "draining",
        maintenance=status == "maintenance",
        agent_version=_text(said, "agent_version", 50),
        engine=_text(said, "engine", 200),
        talents=_talents(said),
        training_price=_price(said),
    )


def _talents(said: dict[str, Any]) -> dict[str, Any]:
    """What it offers besides answering, as far as it speaks of it: null takes it back."""
    found: dict[str, Any] = {name: said[name] for name in ("training", "hosting") if name in said}
    if found.get("training") is not None:
        found["training"] = Training.read(found["training"]).to_json()
    if found.get("hosting") is not None:
        found["hosting"] = HostingTalent.read(found["hosting"]).to_json()
    return found


def _price(said: dict[str, Any]) -> int | None:
    asked = said.get("training_price")
    return None if asked is None else money.parse(asked, param="training_price")


def _text(said: dict[str, Any], key: str, limit: int) -> str | None:
    value = said.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > limit or "\0" in value:
        raise InvalidRequest(fields={key: [f"Expected a text of at most {limit} characters."]})
    return value


def _metrics(said: dict[str, Any]) -> dict[str, Any]:
    metrics = said.get("metrics") or {}
    if not isinstance(metrics, dict) or len(orjson.dumps(metrics)) > MAX_METRICS_BYTES:
        raise InvalidRequest(
            fields={"metrics": [f"Expected an object of at most {MAX_METRICS_BYTES} bytes."]}
        )
    active = said.get("active_requests", metrics.get("active_requests", 0))
    if not isinstance(active, int) or isinstance(active, bool) or not 0 <= active < 2**31:
        raise InvalidRequest(fields={"active_requests": ["Expected a whole number, 0 or more."]})
    return {
        "active_requests": active,
        "metrics": orjson.loads(orjson.dumps(metrics).replace(b"\\u0000", b"")),
    }


def _reply(node: LiveNode, now: datetime) -> dict[str, Any]:
    facts, liveness = node.facts, node.liveness
    return {
        "status": "ok",
        "last_seen": now.isoformat(),
        "next_heartbeat_in": settings.HEARTBEAT_INTERVAL_S,
        "state": liveness.state,
        "reason": liveness.reason,
        "fix": liveness.fix,
        "drain": facts.drain_requested,
        "suspended": facts.suspended_at is not None,
        "maintenance": facts.maintenance,
        "minimum_agent_version": settings.MINIMUM_AGENT_VERSION,
        "messages": [node.message] if node.message else [],
        "errands": node.errands,
    }


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a heartbeat says of the node itself. None: nothing."""

    models: Sequence[Named] | None
    draining: bool
    maintenance: bool
    agent_version: str | None
    engine: str | None
    talents: dict[str, Any]
    training_price: int | None

    @property
    def prices(self) -> bool:
        """Whether it sets a price."""
        return self.training_price is not None or any(
            isinstance(model, ModelSpec) and model.price != NOTHING for model in self.models or ()
        )

    def differs_from(self, node: LiveNode) -> bool:
        """Whether anything of this is new."""
        facts = node.facts
        return (
            self.draining != facts.draining
            or self.maintenance != facts.maintenance
            or (self.agent_version is not None and self.agent_version != facts.agent_version)
            or (self.engine is not None and self.engine != node.engine)
            or (self.models is not None and not self._known(node, self.models))
            or self.training_price not in (None, node.training_price)
            or any(said != getattr(node, name) for name, said in self.talents.items())
        )

    @staticmethod
    def _known(node: LiveNode, models: Sequence[Named]) -> bool:
        names = {model if isinstance(model, str) else model.name for model in models}
        return names == node.offers.keys() and all(
            _same(node.offers[model.name], model) for model in models if isinstance(model, ModelSpec)
        )


def _same(offer: LiveOffer, said: ModelSpec) -> bool:
    price = said.price == NOTHING or (
        offer.asked.price_id is not None
        and all(new in (None, old) for new, old in zip(said.price, offer.asked[:3], strict=True))
    )
    if said.only_price or not price:
        return price
    return (
        offer.concurrency == said.concurrency
        and offer.kinds == frozenset(said.kinds)
        and (offer.revision, offer.context_length) == (said.revision, said.context_length)
    )
