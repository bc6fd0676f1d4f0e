"""What each client has stored, and may store: MAX_STORED_BYTES, everything together.

Whoever keeps something for clients says in a module `quotas` of its app how much that is (`count`); all such modules
are loaded when Django starts.
"""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.db import connection
from django.db.models import Sum

from clients.models import Client, UploadPart, UploadStatus
from marketplace.errors import Conflict

_counters: dict[str, Callable[[int], int]] = {}


class StorageFull(Conflict):
    """The details say in bytes how much there may be, how much there is, and how much more was wanted."""

    code = "storage_full"


def count(what: str, counter: Callable[[int], int]) -> None:
    """Know of something that is kept: `counter` says how many bytes a client (by id) has of it."""
    _counters[what] = counter


def used(client_id: int) -> dict[str, int]:
    """Bytes that a client has stored, by what they are."""
    return {what: counter(client_id) for what, counter in _counters.items()}


def check(owner: Client, more: int) -> None:
    """Raise StorageFull where a client would have too much with so many bytes more.

    In a transaction it is exact: whoever asks for the same client at the same time waits for its end.
    """
    with connection.cursor() as cursor:
        if connection.in_atomic_block:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('quota:' || %s, 0))", [str(owner.pk)]
            )
    there = used(owner.pk)
    total, limit = sum(there.values()), settings.MAX_STORED_BYTES
    if total + more > limit:
        raise StorageFull(
            f"You have stored {total} of {limit} bytes; {more} more are too many. Delete what you do not need.",
            details={"limit_bytes": limit, "stored_bytes": total, "wanted_bytes": more, "stored": there},
        )


def _arriving(client_id: int) -> int:
    """Parts of uploads that are not complete yet."""
    found = UploadPart.objects.filter(upload__owner_id=client_id, upload__status=UploadStatus.OPEN)
    return found.aggregate(total=Sum("blob__size"))["total"] or 0


count("uploads", _arriving)
