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

from clients import ledger
from gpus.prices import FREE, Rates
from inference.models import Status
from marketplace.groupcommit import GroupCommit, NotRecorded, Part, Statement

logger = logging.getLogger(__name__)

IDS_AT_ONCE = 500
# Ids that were fetched longer ago are left unused, so that their order is that of time, within this much.
IDS_KEEP_S = 2.0
# Web processes that credit the same account at the same time hardly ever meet in one of so many stripes, from 1 on.
STRIPES = 128

_COLUMNS = """
        id, request_id, client_id, api_key_id, face, kind, desired_model, question_text, streamed, status, node_id,
        gateway_id, allocation_id, request_sha256, created_at,
        answer_text, code, reason, attempts, prompt_tokens, completion_tokens, usage_source, queued_ms, response_sha256
"""
_SELECTED = """
        id, request_id, client_id, (SELECT k.id FROM clients_apikey k WHERE k.id = api_key_id), face, kind,
        desired_model, question_text, streamed, 'running', node_id,
        gateway_id, allocation_id, request_sha256, created_at, '', '', '', '[]', 0, 0, '', 0, ''
"""
_RECORDSET = """
        id bigint, request_id uuid, client_id bigint, api_key_id bigint, face text, kind text, desired_model text,
        question_text text, streamed boolean, node_id bigint, gateway_id uuid, allocation_id uuid,
        request_sha256 text, created_at timestamptz, reference text, grows boolean
"""

_OPENED = "RETURNING id, client_id, gateway_id, created_at"
_RUNS = "INSERT INTO inference_running (inference_id, client_id, gateway_id, created_at) SELECT * FROM opened"

# A request that costs nothing and that no limit applies to.
OPEN = Statement(
    "inference_open",
    f"""
    WITH opened AS (
        INSERT INTO inference_inference ({_COLUMNS})
        SELECT {_SELECTED} FROM json_to_recordset($1) AS row ({_RECORDSET})
        ON CONFLICT (id) DO NOTHING {_OPENED}
    )
    {_RUNS}
    """,  # noqa: S608 - constants
)

# A request whose hold a `ledger.HOLD` before it has made; answers "again" where there is none.
OPEN_HELD = Statement(
    "inference_open_held",
    f"""
    WITH said AS MATERIALIZED (
        SELECT row.*, (SELECT h.amount FROM clients_hold h WHERE h.reference = row.reference) IS NOT NULL AS is_held
        FROM json_to_recordset($1) AS row ({_RECORDSET})
    ), opened AS (
        INSERT INTO inference_inference ({_COLUMNS})
        SELECT {_SELECTED} FROM said WHERE is_held
        ON CONFLICT (id) DO NOTHING {_OPENED}
    ), runs AS (
        {_RUNS}
    )
    SELECT reference, 'again', NULL FROM said WHERE NOT is_held
    """,  # noqa: S608 - constants
    answers="reference",
)

# A request and its hold, with all limits observed; it is recorded only if it is admitted. With `grows`, only the hold.
# Answers (code, details) of what `ledger_hold` refused, and of what a limit applies to.
OPEN_LIMITED = Statement(
    "inference_open_limited",
    f"""
    WITH verdict AS MATERIALIZED (SELECT * FROM ledger_hold($1)),
    opened AS (
        INSERT INTO inference_inference ({_COLUMNS})
        SELECT {_SELECTED} FROM json_to_recordset($1) AS row ({_RECORDSET})
        WHERE NOT grows AND NOT EXISTS (SELECT 1 FROM verdict v WHERE v.reference = row.reference AND v.code <> '')
        ON CONFLICT (id) DO NOTHING {_OPENED}
    ), runs AS (
        {_RUNS}
    )
    SELECT reference, code, details FROM verdict
    """,  # noqa: S608 - constants
    answers="reference",
    locks="client_id",
)

CLOSE = Statement(
    "inference_close",
    """
    WITH said AS MATERIALIZED (
        SELECT * FROM json_to_recordset($1) AS row (
            id bigint, status text, code text, reason text, attempts jsonb, node_id bigint, provider_id bigint,
            revision text, price_id bigint, terms_id bigint, charged numeric, fee numeric, prompt_tokens int,
            completion_tokens int, usage_source text, queued_ms int, first_token_ms int, latency_ms int,
            response_sha256 text, answer_text text, finished_at timestamptz
        )
    ), ended AS (
        DELETE FROM inference_running WHERE inference_id = ANY (ARRAY(SELECT id FROM said)) RETURNING inference_id
    )
    UPDATE inference_inference i SET
        status = row.status, code = row.code, reason = row.reason, attempts = row.attempts, node_id = row.node_id,
        provider_id = row.provider_id, revision = row.revision, price_id = row.price_id, terms_id = row.terms_id,
        charged = row.charged, fee = row.fee, prompt_tokens = row.prompt_tokens,
        completion_tokens = row.completion_tokens, usage_source = row.usage_source, queued_ms = row.queued_ms,
        first_token_ms = row.first_token_ms, latency_ms = row.latency_ms, response_sha256 = row.response_sha256,
        answer_text = row.answer_text, finished_at = row.finished_at
    FROM ended JOIN said AS row ON row.id = ended.inference_id
    WHERE i.id = row.id AND i.id = ANY (ARRAY(SELECT id FROM said))
    """,
)

# In the order in which they run within a batch: what ends gives free what begins may need.
STATEMENTS = (CLOSE, ledger.SETTLE, OPEN, ledger.HOLD, OPEN_HELD, OPEN_LIMITED)


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
    provider_id: int | None = None
    payee: int | None = None  # the account that is paid, and that of the marketplace's fees
    fees: int | None = None
    revision: str = ""
    allocation: str = ""
    rates: Rates = FREE
    terms_id: int | None = None
    fee_bps: int = 0
    # What is reserved: money in base units, and tokens of a limit. `has_hold`: there is a row that says so.
    held: int = 0
    tokens: int = 0
    has_hold: bool = False
    admitted: bool = False  # it is known to be open, and within what its owner may spend
    refused: bool = False  # the ledger did not admit it, so nothing is recorded
    charged: int = 0
    fee: int = 0
    limits: dict[str, Any] | None = None  # what limits leave, as `ledger_hold` says it
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
    opened: asyncio.Future[Any] | None = None

    def strip(self) -> None:
        """Leave out whatever a node has said, which the database refuses: nothing of it may keep a record open."""
        self.status, self.code = Status.FAILED, "unrecordable"
        self.reason = "What the node answered could not be written down; nothing was charged."
        self.attempts, self.answer_text, self.charged, self.fee = [], "", 0, 0
        self.prompt_tokens = self.completion_tokens = 0

    @property
    def reference(self) -> str:
        """What its hold and its transfer are called in the ledger."""
        return f"inference:{self.id}"


class Journal:
    """Hands out ids and writes records."""

    def __init__(self, commits: GroupCommit, gateway_id: UUID) -> None:
        self._commits = commits
        self._gateway_id = gateway_id.hex
        self._stripe = 1 + gateway_id.int % STRIPES
        self._ids: deque[int] = deque()
        self._ids_at = 0.0
        self._accounts: dict[tuple[int | None, str], int] = {}
        self._fetching: asyncio.Task[None] | None = None

    async def next_id(self) -> int:
        """An id that no other process has. From the table's own sequence, many at a time."""
        if time.monotonic() - self._ids_at > IDS_KEEP_S:
            self._ids.clear()
        while not self._ids:
            try:
                await self._fetch()
            except psycopg2.Error:
                raise NotRecorded(retry_after=2) from None
        if len(self._ids) < IDS_AT_ONCE // 4 and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self._top_up())
        return self._ids.popleft()

    async def account(self, client_id: int | None, kind: str) -> int:
        """The account of a client, or of the marketplace (None), made where it is missing. Raises NotRecorded."""
        found = self._accounts.get((client_id, kind))
        if found is None:
            try:
                rows = await self._commits.fetch("SELECT ledger_account(%s, %s)", [client_id, kind])
            except psycopg2.Error:
                raise NotRecorded(retry_after=2) from None
            found = self._accounts[client_id, kind] = int(rows[0][0])
        return found

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
        self._ids_at = time.monotonic()

    def open(self, record: Record, *, limited: bool) -> None:
        """Write that a request has begun, and hold `record.held`; `record.opened` is done when that is durable.

        Its result is (code, details) where a limit applies or something was refused; a refused request is not recorded.
        ("again", None): nothing was done, since this client has limits or too little; to be opened as `limited`.
        """
        row = {
            "id": record.id,
            "request_id": record.request_id.hex,
            "face": record.face,
            "kind": record.kind,
            "desired_model": record.desired_model,
            "question_text": record.question_text,
            "streamed": record.streamed,
            "node_id": record.node_id,
            "gateway_id": self._gateway_id,
            "allocation_id": record.allocation or None,
            "request_sha256": record.request_sha256,
            "created_at": datetime.now(UTC),
            **_hold(record, grows=False),
        }
        if limited:
            record.opened = self._commits.submit((OPEN_LIMITED, row))
        elif record.has_hold:
            record.opened = self._commits.submit((ledger.HOLD, _hold(record, grows=False)), (OPEN_HELD, row))
        else:
            record.opened = self._commits.submit((OPEN, row))

    def grow(self, record: Record) -> asyncio.Future[Any]:
        """Raise what is held to `record.held`. The result is as for `open`."""
        return self._commits.submit((OPEN_LIMITED, _hold(record, grows=True)))

    def close(self, record: Record, *more: Part, keep: bool = False) -> asyncio.Future[Any]:
        """Write how it ended, settle what it did cost, and write `more`, all together.

        Done when that is durable; NotRecorded if the database stays away. With `keep` it is written even then, later.
        """
        parts = [(CLOSE, self._closing(record)), *more]
        if record.has_hold:
            parts.append((ledger.SETTLE, self._settling(record)))
        return self._commits.submit(*parts, keep=keep)

    def _settling(self, record: Record) -> dict[str, Any]:
        return {
            "reference": record.reference,
            "client_id": record.client_id,
            "captured": str(record.charged),
            "fee": str(record.fee),
            "payee": record.payee,
            "fees": record.fees,
            "kind": "inference",
            "tokens": record.prompt_tokens + record.completion_tokens,
            "stripe": self._stripe,
        }

    @staticmethod
    def _closing(record: Record) -> dict[str, Any]:
        first = record.first_token_s
        return {
            "id": record.id,
            "status": record.status,
            "code": record.code,
            "reason": record.reason[:1000].replace("\0", ""),
            "attempts": [{**each, "reason": each["reason"].replace("\0", "")} for each in record.attempts],
            "node_id": record.node_id,
            "provider_id": record.provider_id,
            "revision": record.revision,
            "price_id": record.rates.price_id,
            "terms_id": record.terms_id,
            "charged": str(record.charged),
            "fee": str(record.fee),
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
            "usage_source": record.usage_source,
            "queued_ms": round(record.queued_s * 1000),
            "first_token_ms": None if first is None else round(first * 1000),
            "latency_ms": round((time.monotonic() - record.started) * 1000),
            "response_sha256": record.response_sha256,
            "answer_text": record.answer_text.replace("\0", "\ufffd"),
            "finished_at": datetime.now(UTC),
        }


def _hold(record: Record, *, grows: bool) -> dict[str, Any]:
    return {
        "reference": record.reference,
        "client_id": record.client_id,
        "api_key_id": record.api_key_id,
        "amount": str(record.held),
        "tokens": record.tokens,
        "grows": grows,
    }
