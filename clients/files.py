"""Contents that are kept: each once, whoever sends it, for as long as something points to it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from django.core import signing
from django.db import transaction
from django.db.models import ProtectedError
from django.db.models.functions import Greatest, Now

from clients.models import Blob
from marketplace import storage
from marketplace.errors import Forbidden
from marketplace.storage import Spooled

logger = logging.getLogger(__name__)

# Whoever has sent something has so long to point to it.
GRACE = timedelta(hours=1)
# What somebody points to is looked at again after so long.
_AGAIN = timedelta(days=1)
_SALT = "clients.files"


class LinkRefused(Forbidden):
    code, message = "link_refused", "This link is not valid, or no longer."


def keep(spooled: Spooled) -> Blob:
    """Store a content, unless it is there. Must not run in a transaction: it may write for long."""
    known = Blob.objects.filter(pk=spooled.sha256)
    if not known.update(touched_at=Greatest("touched_at", Now())):
        name = storage.keep(spooled)
        _, created = Blob.objects.get_or_create(
            pk=spooled.sha256,
            defaults={"keccak256": spooled.keccak256, "size": spooled.size, "name": name},
        )
        if not created:
            storage.delete(name)
            known.update(touched_at=Greatest("touched_at", Now()))
    return known.get()


def keep_all(chunks: Iterable[bytes], *, limit: int) -> Blob:
    """Store what comes. Raises marketplace.storage.TooLarge."""
    with storage.spool(chunks, limit=limit) as spooled:
        return keep(spooled)


def opened(blob: Blob, *, start: int = 0) -> IO[bytes]:
    """A content for reading, by `with`; it can seek, and stands at `start`. Raises FileNotFoundError."""
    return storage.opened(blob.name, start=start)


def on_disk(blob: Blob) -> AbstractContextManager[Path]:
    """A content as a file on this machine, by `with`: where it is, or a copy for so long. Raises FileNotFoundError."""
    return storage.on_disk(blob.name)


def chunks(blob: Blob) -> Iterator[bytes]:
    with opened(blob) as file:
        yield from storage.chunks_of(file)


def link(blob: Blob, *, expires_at: datetime) -> str:
    """A path at which whoever knows it can read a content until then."""
    said = {"blob": blob.pk, "until": int(expires_at.timestamp())}
    return f"/files/{signing.dumps(said, salt=_SALT)}"


def linked(token: str, *, now: datetime) -> Blob:
    """What a link's token stands for. Raises LinkRefused."""
    try:
        said: dict[str, Any] = signing.loads(token, salt=_SALT)
    except signing.BadSignature:
        raise LinkRefused from None
    if said["until"] < now.timestamp():
        raise LinkRefused("This link has expired. Ask for a new one.")
    blob = Blob.objects.filter(pk=said["blob"]).first()
    if blob is None:
        raise LinkRefused
    return blob


def sweep(*, now: datetime) -> int:
    """Delete contents that nothing points to any longer; how many."""
    gone = 0
    for blob in Blob.objects.filter(touched_at__lt=now - GRACE).order_by("touched_at")[:1000]:
        gone += _delete(blob, now)
    return gone


def _delete(blob: Blob, now: datetime) -> bool:
    try:
        with transaction.atomic():
            # Locked, so that nobody points to it meanwhile; PROTECT looks at those who do.
            stale = Blob.objects.select_for_update().filter(pk=blob.pk, touched_at__lt=now - GRACE).first()
            if stale is None:
                return False
            stale.delete()
    except ProtectedError:
        Blob.objects.filter(pk=blob.pk).update(touched_at=now + _AGAIN)
        return False
    storage.delete(blob.name)
    return True
