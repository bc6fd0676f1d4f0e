"""Small files that are kept under the name of their content, as IPFS would keep them: what sources, tasks and responses
on chains point to. Anybody may leave one; the name (a CID) lets whoever reads it check that it is what was meant.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from datetime import datetime, timedelta
from typing import Any

import redis
from django.conf import settings
from django.core.cache import cache
from django.db.models import F, Func, Q, QuerySet, Sum, TextField, Value
from django.db.models.functions import Greatest

from chain.models import (
    ENDED,
    ENDED_FULFILMENTS,
    Fulfilment,
    Pin,
    Response,
    Source,
    SourceOrder,
    Task,
    TaskOrder,
    TaskStatus,
)
from clients import files
from marketplace.errors import NotFound, Unavailable
from marketplace.storage import TooLarge

logger = logging.getLogger(__name__)

# Version 1, raw bytes (0x55), SHA-256 (0x12) of 32 bytes: https://github.com/multiformats/cid
_PREFIX = bytes((0x01, 0x55, 0x12, 0x20))
_CID = re.compile(r"bafkrei[a-z2-7]{52}")
# What a small file takes on a disk; pins are counted by it, so that very many tiny ones are no way around the limit.
_LEAST_BYTES = 4096
_COUNTED_FOR_S = 10
_SWEPT_AT_ONCE = 1000


class UnknownPin(NotFound):
    code, message = "unknown_cid", "Nothing is kept here under this CID."


class PinsFull(Unavailable):
    code = "pins_full"
    message = "There is no room for further files at the moment. Older ones are dropped every hour."


def cid_of(content: bytes) -> str:
    """The CID of one block: version 1, codec raw, SHA-256, in base32 (`bafkrei…`)."""
    named = _PREFIX + hashlib.sha256(content).digest()
    return "b" + base64.b32encode(named).decode().rstrip("=").lower()


def check_size(size: int) -> None:
    """Raise storage.TooLarge for more bytes than a pin may have."""
    if size > settings.PIN_MAX_BYTES:
        raise TooLarge(settings.PIN_MAX_BYTES)


def cid_in(text: str) -> str | None:
    """The first CID of our kind that a link (`…/ipfs/bafkrei…`, `ipfs://bafkrei…`) or a text holds."""
    found = _CID.search(text)
    return found[0] if found else None


def keep(
    content: bytes, *, filename: str, content_type: str, keep_until: datetime | None, now: datetime
) -> Pin:
    """Keep a content; the same content again is the same pin, kept until the later of the two ends (None: for ever).

    Must not run in a transaction: it may write for long. Raises storage.TooLarge beyond PIN_MAX_BYTES.
    """
    check_size(len(content))
    about = {"filename": filename[:200], "content_type": content_type[:100]}
    blob = files.keep_all([content], limit=settings.PIN_MAX_BYTES)
    pin, created = Pin.objects.get_or_create(
        pk=cid_of(content),
        defaults={"blob": blob, "size": len(content), "keep_until": keep_until, "created_at": now, **about},
    )
    if created:
        return pin
    again = Pin.objects.filter(pk=pin.pk)
    if keep_until is None:
        # What the marketplace itself says of a content counts more than what a stranger said before.
        again.update(keep_until=None, **about)
    else:
        again.filter(keep_until__lt=keep_until).update(keep_until=keep_until)
    # None where a sweep has dropped it in between.
    return again.first() or keep(
        content, filename=filename, content_type=content_type, keep_until=keep_until, now=now
    )


def take(content: bytes, *, filename: str, content_type: str, now: datetime) -> Pin:
    """Keep what a stranger leaves here, for PIN_DAYS and for as long as something on a chain points to it.

    Raises PinsFull where strangers have left PIN_TOTAL_BYTES already, storage.TooLarge.
    """
    if (
        not Pin.objects.filter(pk=cid_of(content)).exists()
        and _left_by_strangers() > settings.PIN_TOTAL_BYTES
    ):
        raise PinsFull(retry_after=3600)
    return keep(content, filename=filename, content_type=content_type, keep_until=usual_end(now), now=now)


def usual_end(now: datetime) -> datetime:
    """Until when a pin is kept at least that nothing points to."""
    return now + timedelta(days=settings.PIN_DAYS)


def find(cid: str) -> Pin:
    """Raises UnknownPin."""
    pin = Pin.objects.select_related("blob").filter(pk=cid).first() if _CID.fullmatch(cid) else None
    if pin is None:
        raise UnknownPin
    return pin


def read(cid: str) -> bytes:
    """A pinned content. Raises UnknownPin."""
    try:
        with files.opened(find(cid).blob) as file:
            return file.read()
    except FileNotFoundError:
        logger.error("The file of pin %s is gone from the storage", cid)
        raise UnknownPin from None


def url(pin: Pin) -> str:
    """Where everybody can read it."""
    return f"{settings.PUBLIC_URL}/ipfs/{pin.pk}"


def sweep(*, now: datetime) -> int:
    """Drop pins whose time is over, unless something on a chain or on its way there points to them; how many."""
    over = list(
        Pin.objects.filter(keep_until__lt=now)
        .order_by("keep_until")
        .values_list("pk", flat=True)[:_SWEPT_AT_ONCE]
    )
    if not over:
        return 0
    wanted = pointed_to(set(over), now=now)
    Pin.objects.filter(pk__in=wanted, keep_until__lt=now).update(keep_until=usual_end(now))
    # Its date is looked at again: somebody may have left the same content a moment ago.
    gone, _ = Pin.objects.filter(pk__in=set(over) - wanted, keep_until__lt=now).delete()
    return gone


def pointed_to(cids: set[str], *, now: datetime) -> set[str]:
    """Those of some CIDs that a row of what is on chains, or on its way there, is a link to.

    What belongs to a task that is over counts for PIN_DAYS more. A text that names many of them is a link to the first.
    """
    found: set[str] = set()
    for rows, column in _pointers(now - timedelta(days=settings.PIN_DAYS)):
        named = rows.annotate(
            named=Func(F(column), Value(_CID.pattern), function="substring", output_field=TextField())
        )
        found.update(named.filter(named__in=cids).order_by().values_list("named", flat=True).distinct())
    return found


def _pointers(since: datetime) -> list[tuple[QuerySet[Any], str]]:
    """Rows with a column whose text may point to a pin, less those that were over before."""
    ended = Q(status__in=ENDED, status_at__lt=since)
    # Nobody has to end a task on the chain that nobody has answered.
    expired = Q(status__in=(TaskStatus.NEW, TaskStatus.ATTEMPTED), expiry_time__lt=int(since.timestamp()))
    tasks = Task.objects.exclude(ended | expired)
    fulfilments = Fulfilment.objects.exclude(status__in=ENDED_FULFILMENTS, changed_at__lt=since)
    return [
        (Source.objects.all(), "metadata_url"),
        (Source.objects.all(), "optional_params_url"),
        (tasks, "config_url"),
        (Response.objects.filter(task__in=tasks), "data"),
        (fulfilments, "config_url"),
        # Our own answers are kept for ever, and no operator deletes one.
        (Fulfilment.objects.all(), "answer_url"),
        (TaskOrder.objects.exclude(ended_at__lt=since), "config_url"),
        (SourceOrder.objects.all(), "metadata_url"),
    ]


def _left_by_strangers() -> int:
    """Bytes of the pins that have an end, as counted a few seconds ago."""
    try:
        known = cache.get("pins:bytes")
        if known is None:
            known = _counted()
            cache.set("pins:bytes", known, _COUNTED_FOR_S)
    except redis.RedisError:
        known = _counted()
    return int(known)


def _counted() -> int:
    rows = Pin.objects.filter(keep_until__isnull=False)
    return int(rows.aggregate(total=Sum(Greatest(F("size"), Value(_LEAST_BYTES))))["total"] or 0)
