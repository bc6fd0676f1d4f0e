"""`Idempotency-Key` on the hot path: a repeated request is not sent to a node again, it gets the first reply again.

A key is claimed before its request begins, and its reply is stored in the transaction that settles the request, so
that there is never one without the other. The claims have a connection of their own: nothing else waits for them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2
from django.conf import settings
from django.db.models import Q

from clients import idempotency
from clients.idempotency import check_key, check_repeat, expiry, fingerprint
from clients.models import StoredReply
from gpus.models import Gateway
from inference.journal import Journal, Record
from inference.models import Inference, Status
from inference.records import GRACE
from marketplace.groupcommit import GroupCommit, NotRecorded, Part, Statement
from marketplace.http import Call

# So many replies are read at the same time; each takes a connection.
READERS = 4
SWEPT_AT_ONCE = 500

# Answers (request_sha256, status, subject, whether the reply is there) for keys that are taken; all are empty where
# another transaction works on the key. The lock is never waited for, since Django's views hold it for long.
CLAIM = Statement(
    "reply_claim",
    """
    WITH said AS MATERIALIZED (
        SELECT row.*, pg_try_advisory_xact_lock(hashtextextended(row.client_id || ':' || row.key, 0)) AS is_ours
        FROM json_to_recordset($1) AS row (
            client_id bigint, key text, request_sha256 text, gateway_id uuid, subject text, expires_at timestamptz)
    ), made AS (
        INSERT INTO clients_storedreply (client_id, key, request_sha256, gateway_id, subject, expires_at)
        SELECT client_id, key, request_sha256, gateway_id, subject, expires_at FROM said WHERE is_ours
        ON CONFLICT (client_id, key) DO NOTHING
        RETURNING client_id, key, request_sha256, status, subject, body IS NOT NULL AS is_kept
    )
    SELECT said.subject, found.request_sha256, found.status, found.subject, found.is_kept
    FROM said LEFT JOIN LATERAL (
        SELECT m.request_sha256, m.status, m.subject, m.is_kept FROM made m
        WHERE m.client_id = said.client_id AND m.key = said.key
        UNION ALL
        SELECT r.request_sha256, r.status, r.subject, r.body IS NOT NULL FROM clients_storedreply r
        WHERE r.client_id = said.client_id AND r.key = said.key
    ) AS found ON true
    WHERE found.subject IS DISTINCT FROM said.subject
    """,
    answers="subject",
)

# Goes with the end of the record. What a sweep has freed, and somebody else has claimed since, stays theirs.
STORE = Statement(
    "reply_store",
    """
    UPDATE clients_storedreply r SET status = row.status, headers = row.headers, body = decode(row.body, 'base64')
    FROM json_to_recordset($1) AS row (
        client_id bigint, key text, subject text, status smallint, headers jsonb, body text)
    WHERE r.client_id = row.client_id AND r.key = row.key AND r.subject = row.subject AND r.body IS NULL
    """,
)

FREE = Statement(
    "reply_free",
    """
    DELETE FROM clients_storedreply r USING json_to_recordset($1) AS row (client_id bigint, key text, subject text)
    WHERE r.client_id = row.client_id AND r.key = row.key AND r.subject = row.subject AND r.status IS NULL
    """,
)


@dataclass(slots=True)
class Reply:
    """What a consumer gets; `body` None where that is not known yet, or too large to be kept."""

    status: int = 200
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(slots=True, eq=False)
class Claim:
    """A key that this request has, until its reply is stored or the key is free again."""

    client_id: int
    key: str
    inference_id: int
    _commits: GroupCommit
    ended: bool = False
    # Set by the endpoint: the reply, or the last event of a stream, of a record that is about to be closed.
    reply: Callable[[], Reply] | None = None
    ending: Callable[[Record], bytes] | None = None
    _heard: Reply = field(default_factory=Reply)
    _chunks: list[bytes] = field(default_factory=list)
    _size: int = 0

    def hear(self, message: dict[str, Any]) -> None:
        """Note what goes out to the consumer: an ASGI message."""
        if self.ended:
            return
        if message["type"] == "http.response.start":
            self._heard.status, self._heard.headers = message["status"], dict(message["headers"])
            return
        self._size += len(message["body"])
        if self._size <= settings.IDEMPOTENCY_MAX_REPLY_BYTES:
            self._chunks.append(message["body"])
        else:
            self._chunks.clear()

    def parts(self, record: Record) -> tuple[Part, ...]:
        """What to write together with the end of the record: the reply, if it took effect or was charged."""
        self.ended = True
        if record.status == Status.COMPLETED or record.charged:
            return ((STORE, self._stored(self._whole(record))),)
        return ((FREE, self._named()),)

    async def fill(self, body: bytes) -> None:
        """Store the body of a reply that was not known when its record was closed. Raises NotRecorded."""
        await self._commits.submit((STORE, self._stored(self._reply_with(body))))

    async def free(self) -> None:
        """Nothing came of the request: its key may be used again. Nothing happens if its end was written."""
        if not self.ended:
            self.ended = True
            with contextlib.suppress(NotRecorded):  # then it is written when the database is back
                await asyncio.shield(self._commits.submit((FREE, self._named()), keep=True))

    def _whole(self, record: Record) -> Reply:
        if self.reply is not None:
            return self.reply()
        last = self.ending(record) if self.ending is not None else b""
        whole = self._size + len(last) <= settings.IDEMPOTENCY_MAX_REPLY_BYTES
        self._heard.body = b"".join((*self._chunks, last)) if whole else None
        return self._heard

    def _reply_with(self, body: bytes) -> Reply:
        assert self.reply is not None
        found = self.reply()
        found.body = body
        return found

    def _stored(self, reply: Reply) -> dict[str, Any]:
        body = reply.body
        if body is not None and len(body) > settings.IDEMPOTENCY_MAX_REPLY_BYTES:
            body = None
        return {
            **self._named(),
            "status": reply.status,
            "headers": {str(k, "latin-1"): str(v, "latin-1") for k, v in reply.headers.items() if _lasts(k)},
            "body": None if body is None else base64.b64encode(body).decode(),
        }

    def _named(self) -> dict[str, Any]:
        return {"client_id": self.client_id, "key": self.key, "subject": f"inference:{self.inference_id}"}


def _lasts(header: bytes) -> bool:
    """Whether a header is as true of the reply to a repeat."""
    return header != b"content-length" and not header.startswith(b"x-ratelimit-")


class Replays:
    """The claims of one process."""

    def __init__(
        self, *, claims: GroupCommit, commits: GroupCommit, journal: Journal, gateway_id: UUID
    ) -> None:
        """`claims` takes CLAIM, `commits` what the journal writes, and STORE and FREE."""
        self._claims = claims
        self._commits = commits
        self._journal = journal
        self._gateway_id = gateway_id.hex
        self._readers = asyncio.Semaphore(READERS)

    async def claim(self, call: Call, *, client_id: int, key: str) -> Claim | None:
        """The key for this request; None when it is a repeat, which has been answered then.

        Raises InvalidKey, KeyReused, KeyInUse, ReplyNotKept, NotRecorded.
        """
        check_key(key)
        request_sha256 = fingerprint("POST", call.path, await call.body())
        claim = Claim(client_id, key, await self._journal.next_id(), self._commits)
        row = {
            **claim._named(),
            "request_sha256": request_sha256,
            "gateway_id": self._gateway_id,
            "expires_at": expiry(datetime.now(UTC)),
        }
        taken = await self._claimed(claim, row)
        if taken is None:
            return claim
        first_sha256, status, subject, is_kept = taken
        same = first_sha256 in (None, request_sha256)
        check_repeat(same=same, status=status, is_kept=bool(is_kept), subject=subject or "")
        await self._again(call, client_id, key)
        return None

    async def _claimed(self, claim: Claim, row: dict[str, Any]) -> tuple[Any, ...] | None:
        try:
            taken: tuple[Any, ...] | None = await self._claims.submit((CLAIM, row))
        except NotRecorded:
            # Perhaps it was written, and only the answer was lost.
            self._commits.submit((FREE, claim._named()), keep=True)
            raise
        return taken

    async def _again(self, call: Call, client_id: int, key: str) -> None:
        """Give the first reply again, byte for byte: streamed if it was."""
        async with self._readers:
            status, headers, body = await self._read(client_id, key)
        kind = headers.pop("content-type", "application/json").encode("latin-1")
        more = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        more[idempotency.REPLAYED.lower().encode()] = b"true"
        if kind.startswith(b"text/event-stream"):
            await call.begin(status, kind, more)
            await call.end(body)
        else:
            await call.answer(status, body, more, kind=kind)

    async def _read(self, client_id: int, key: str) -> tuple[int, dict[str, str], bytes]:
        try:
            rows = await self._commits.fetch(
                "SELECT status, headers, body FROM clients_storedreply WHERE client_id = %s AND key = %s",
                [client_id, key],
            )
        except psycopg2.Error:
            raise NotRecorded("The first reply cannot be read at the moment.", retry_after=2) from None
        if not rows or rows[0][2] is None:  # its life, or its record, has ended this very moment
            raise idempotency.KeyInUse(retry_after=1)
        status, headers, body = rows[0]
        return status, headers, bytes(body)


def sweep(*, now: datetime) -> int:
    """Free the keys of requests that nobody will end: those of processes that are gone, or long overdue; how many.

    A key stays taken while its record runs, and for good where the record says that it took effect: that reply is lost.
    """
    alive = Gateway.objects.filter(seen_at__gte=now - Gateway.LOST_AFTER).values_list("id", flat=True)
    overdue = now - timedelta(seconds=settings.REQUEST_DEADLINE_S) - GRACE
    unfinished = (
        StoredReply.objects.filter(status=None, created_at__lt=now - Gateway.LOST_AFTER)
        .exclude(gateway_id=None)
        .filter(~Q(gateway_id__in=list(alive)) | Q(created_at__lt=overdue))
    )
    rows = {row.pk: _inference_id(row.subject) for row in unfinished.order_by("id")[:SWEPT_AT_ONCE]}
    records = Inference.objects.in_bulk([number for number in rows.values() if number is not None])
    done = {pk for pk, number in rows.items() if number in records and _took_effect(records[number])}
    running = {
        pk for pk, number in rows.items() if number in records and records[number].status == Status.RUNNING
    }
    # Guarded: a process that was only slow may have written the reply meanwhile.
    open_rows = StoredReply.objects.filter(status=None)
    open_rows.filter(pk__in=done).update(status=200)
    return open_rows.filter(pk__in=rows.keys() - done - running).delete()[0]


def _inference_id(subject: str) -> int | None:
    kind, _, number = subject.partition(":")
    return int(number) if kind == "inference" and number.isdigit() else None


def _took_effect(record: Inference) -> bool:
    return record.status == Status.COMPLETED or record.charged > 0
