"""The record of every request: opened when it starts, closed when it ends, both committed in groups.

A record is closed by a guarded update, once: what another process or a sweep has closed stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg2

from inference.models import Status
from marketplace.groupcommit import GroupCommit, NotRecorded, Statement

logger = logging.getLogger(__name__)

IDS_AT_ONCE = 500

OPEN = Statement(
    "inference_open",
    """
    INSERT INTO inference_inference (
        id, request_id, client_id, api_key_id, face, kind, desired_model, question_text, streamed, status, node_id,
        gateway_id, request_sha256, created_at,
        answer_text, code, reason, attempts, prompt_tokens, completion_tokens, usage_source, queued_ms, response_sha256
    )
    SELECT id, request_id, client_id, (SELECT k.id FROM clients_apikey k WHERE k.id = api_key_id), face, kind,
        desired_model, question_text, streamed, 'running', (SELECT n.id FROM gpus_node n WHERE n.id = node_id),
        gateway_id, request_sha256, created_at, '', '', '', '[]', 0, 0, '', 0, ''
    FROM json_to_recordset($1) AS row (
        id bigint, request_id uuid, client_id bigint, api_key_id bigint, face text, kind text, desired_model text,
        question_text text, streamed boolean, node_id bigint, gateway_id uuid, request_sha256 text,
        created_at timestamptz
    )
    ON CONFLICT (id) DO NOTHING
    """,
)

CLOSE = Statement(
    "inference_close",
    """
    UPDATE inference_inference i SET
        status = row.status, code = row.code, reason = row.reason, attempts = row.attempts,
        node_id = (SELECT n.id FROM gpus_node n WHERE n.id = row.node_id), prompt_tokens = row.prompt_tokens,
        completion_tokens = row.completion_tokens, usage_source = row.usage_source, queued_ms = row.queued_ms,
        first_token_ms = row.first_token_ms, latency_ms = row.latency_ms, response_sha256 = row.response_sha256,
        answer_text = row.answer_text, finished_at = row.finished_at
    FROM json_to_recordset($1) AS row (
        id bigint, status text, code text, reason text, attempts jsonb, node_id bigint, prompt_tokens int,
        completion_tokens int, usage_source text, queued_ms int, first_token_ms int, latency_ms int,
        response_sha256 text, answer_text text, finished_at timestamptz
    )
    WHERE i.id = row.id AND i.status = 'running'
    """,
)


@dataclass(slots=True)
class Record:
    """One request as it goes: what `OPEN` and `CLOSE` write of it. Times in seconds of the monotonic clock."""

    id: int
    client_id: int
    api_key_id: int | None
    face: str
    kind: str
    desired_model: str
    streamed: bool
    request_sha256: str
    question_text: str = ""
    request_id: UUID = field(default_factory=uuid4)
    started: float = field(default_factory=time.monotonic)
    node_id: int | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    status: str = Status.RUNNING
    code: str = ""
    reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage_source: str = ""
    queued_s: float = 0.0
    first_token_s: float | None = None
    response_sha256: str = ""
    answer_text: str = ""
    opened: asyncio.Future[None] | None = None


class Journal:
    """Hands out ids and writes records."""

    def __init__(self, commits: GroupCommit, gateway_id: UUID) -> None:
        self._commits = commits
        self._gateway_id = gateway_id.hex
        self._ids: deque[int] = deque()
        self._fetching: asyncio.Task[None] | None = None

    async def next_id(self) -> int:
        """An id that no other process has. From the table's own sequence, many at a time."""
        while not self._ids:
            try:
                await self._fetch()
            except psycopg2.Error:
                raise NotRecorded(retry_after=2) from None
        if len(self._ids) < IDS_AT_ONCE // 4 and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self._top_up())
        return self._ids.popleft()

    async def _top_up(self) -> None:
        """Fetch before the last id is gone. If it fails, whoever finds none left tries again, and says so."""
        try:
            await self._fetch()
        except psycopg2.Error as error:
            logger.warning("Could not fetch ids: %s", str(error).split("\n")[0])

    async def _fetch(self) -> None:
        rows = await self._commits.fetch(
            "SELECT nextval(pg_get_serial_sequence('inference_inference', 'id')) FROM generate_series(1, %s)",
            [IDS_AT_ONCE],
        )
        self._ids.extend(row[0] for row in rows)

    def open(self, record: Record) -> None:
        """Write that a request has begun; `record.opened` is done when that is durable."""
        record.opened = self._commits.submit(
            OPEN,
            {
                "id": record.id,
                "request_id": record.request_id.hex,
                "client_id": record.client_id,
                "api_key_id": record.api_key_id,
                "face": record.face,
                "kind": record.kind,
                "desired_model": record.desired_model,
                "question_text": record.question_text,
                "streamed": record.streamed,
                "node_id": record.node_id,
                "gateway_id": self._gateway_id,
                "request_sha256": record.request_sha256,
                "created_at": datetime.now(UTC),
            },
        )

    def close(self, record: Record) -> asyncio.Future[None]:
        """Write how it ended. Done when that is durable; NotRecorded if the database stays away."""
        return self._commits.submit(
            CLOSE,
            {
                "id": record.id,
                "status": record.status,
                "code": record.code,
                "reason": record.reason[:1000].replace("\0", ""),
                "attempts": record.attempts,
                "node_id": record.node_id,
                "prompt_tokens": record.prompt_tokens,
                "completion_tokens": record.completion_tokens,
                "usage_source": record.usage_source,
                "queued_ms": round(record.queued_s * 1000),
                "first_token_ms": None
                if record.first_token_s is None
                else round(record.first_token_s * 1000),
                "latency_ms": round((time.monotonic() - record.started) * 1000),
                "response_sha256": record.response_sha256,
                "answer_text": record.answer_text.replace("\0", "\ufffd"),
                "finished_at": datetime.now(UTC),
            },
        )
