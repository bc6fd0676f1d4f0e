"""Requests that cost money are carried out once: a repeat with the same Idempotency-Key gets the first reply again.

Only what took effect is kept; an error that charged nothing leaves the key free. Here is what all APIs share, and the
way of Django's views, whose reply is stored in the transaction of its effect. What waits for nodes does the same in
`inference.replays`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection

from clients.models import StoredReply
from marketplace.errors import Conflict, InvalidRequest

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"

_KEY = re.compile(r"[ -~]{1,255}")


class InvalidKey(InvalidRequest):
    code = "invalid_idempotency_key"
    message = f"{HEADER} must have 1 to 255 printable ASCII characters."


class KeyReused(Conflict):
    """Trying again cannot help."""

    code, should_retry = "idempotency_key_reused", False
    message = (
        f"Another request was sent with this {HEADER} before. Use a new key for a new request, "
        "and repeat a request with the very same method, path and body."
    )


class KeyInUse(Conflict):
    code = "idempotency_key_in_use"
    message = f"The first request with this {HEADER} is still being worked on. Repeat yours a moment later."


class ReplyNotKept(Conflict):
    """It was done, and is not done again; the reply can be no more than looked up."""

    code, should_retry = "idempotency_reply_not_kept", False


def check_key(key: str) -> str:
    """Raise InvalidKey unless it can be one."""
    if not _KEY.fullmatch(key):
        raise InvalidKey(param=HEADER)
    return key


def fingerprint(method: str, path: str, body: bytes) -> str:
    """What two requests have in common if they ask for the same: sha256 of method, path and body, in hexadecimal."""
    return hashlib.sha256(b"%s %s\n%s" % (method.encode(), path.rstrip("/").encode(), body)).hexdigest()


def check_repeat(*, same: bool, status: int | None, is_kept: bool, subject: str) -> None:
    """Raise KeyReused, KeyInUse or ReplyNotKept unless a key's first reply can be given again.

    `same`: the first request was this one; `status`: what it was answered; `subject`: what it made.
    """
    if not same:
        raise KeyReused()
    if status is None:
        raise KeyInUse(retry_after=1)
    if not is_kept:
        raise ReplyNotKept(_not_kept(subject), details={"subject": subject} if subject else None)


def _not_kept(subject: str) -> str:
    kind, _, number = subject.partition(":")
    what = f" as {kind} {number}" if number else ""
    where = f" GET /inference/{number}/ shows what came of it." if kind == "inference" else ""
    return (
        f"This request was carried out already{what}, and is not carried out again. Its reply cannot be repeated: it "
        f"was larger than {settings.IDEMPOTENCY_MAX_REPLY_BYTES} bytes, or was cut off.{where}"
    )


def claim(*, client_id: int, key: str, request_sha256: str, now: datetime) -> StoredReply:
    """The row of a key: a new one without a status, or the first reply. To be called inside a transaction.

    Waits for another transaction that works on the same key. Raises KeyReused, KeyInUse, ReplyNotKept.
    """
    with connection.cursor() as cursor:
        # The hot path takes this lock too, but never waits for it.
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s || ':' || %s, 0))", [str(client_id), key]
        )
    found = StoredReply.objects.filter(client_id=client_id, key=key).first()
    if found is None:
        return StoredReply.objects.create(
            client_id=client_id, key=key, request_sha256=request_sha256, expires_at=expiry(now)
        )
    check_repeat(
        same=found.request_sha256 == request_sha256,
        status=found.status,
        is_kept=found.body is not None,
        subject=found.subject,
    )
    return found


def store(claimed: StoredReply, *, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Keep the reply of a claimed key, for the length of its life."""
    claimed.status, claimed.headers = status, dict(headers)
    claimed.body = body if len(body) <= settings.IDEMPOTENCY_MAX_REPLY_BYTES else None
    claimed.save(update_fields=["status", "headers", "body"])


def expiry(now: datetime) -> datetime:
    """Until when a key is remembered that is claimed now."""
    return now + timedelta(hours=settings.IDEMPOTENCY_HOURS)


def forget(*, client_id: int, subject: str) -> None:
    """Delete the reply about something that its owner wants gone. It is not carried out again for all that."""
    StoredReply.objects.filter(client_id=client_id, subject=subject).exclude(status=None).update(body=None)


def sweep(*, now: datetime) -> int:
    """Delete replies whose life is over; how many. Their keys are free again."""
    return StoredReply.objects.filter(expires_at__lte=now).exclude(status=None).delete()[0]
