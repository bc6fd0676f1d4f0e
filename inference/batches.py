"""Sealing receipts: those of a range of transfers are bound together by a Merkle root that the marketplace signs.

A batch is sealed once and for all, so that no transfer may appear in its range later: `_settled_up_to` says how far
that is sure. What providers have earned is added up in the same pass (`hours.add`).
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Max

from inference import hours, merkle, receipts, signing, verification
from inference.models import ReceiptBatch
from inference.receipts import ONE_BY_ONE, PAID, Paid

# What is in memory at once, and what a proof has to be made from.
MOST = 4096
# Who seals holds this lock of the database; any number that nothing else here locks.
_LOCK = 0x5EA1
_WRITERS_END_S = 5.0
_LOOK_AGAIN_S = 0.005
_HASH_BYTES = 32


def seal(*, now: datetime) -> int:
    """Seal all receipts that there are; how many. Does nothing while another process is at it."""
    upto, sealed = _settled_up_to(), 0
    while upto is not None and (count := _seal(upto, now=now)):
        sealed += count
        if count < MOST:
            break
    return sealed


def holding(transfer_id: int) -> ReceiptBatch | None:
    """The batch that a transfer is in."""
    last = ReceiptBatch.objects.filter(last_transfer__gte=transfer_id).order_by("last_transfer")
    found = last.first()
    return found if found is not None and found.first_transfer <= transfer_id else None


def inclusion(batch: ReceiptBatch, leaf: bytes) -> dict[str, Any]:
    """The proof that a receipt is in a batch: {"batch", "index", "proof", "root", "root_signature"}."""
    stored = bytes(batch.leaves)
    leaves = [stored[at : at + _HASH_BYTES] for at in range(0, len(stored), _HASH_BYTES)]
    index = leaves.index(leaf)
    return {
        "batch": batch.pk,
        "index": index,
        "proof": [_shown(each) for each in merkle.proof(leaves, index)],
        "root": batch.root,
        "root_signature": _root_signature(batch),
    }


def _root_signature(batch: ReceiptBatch) -> str:
    """Of the present key, as the receipt's own is."""
    if batch.signer == signing.signer():
        return batch.signature
    return signing.sign(verification.root_message(bytes.fromhex(batch.root[2:])))


# --- Sealing ------------------------------------------------------------------------------------------------


@transaction.atomic
def _seal(upto: int, *, now: datetime) -> int:
    """Seal the next receipts up to a transfer; how many."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, 0)", [_LOCK])
        if not cursor.fetchone()[0]:
            return 0
        last = ReceiptBatch.objects.aggregate(last=Max("last_transfer"))["last"] or 0
        cursor.execute(ONE_BY_ONE)
        cursor.execute(f"{PAID} AND t.id > %s AND t.id <= %s ORDER BY t.id LIMIT %s", [last, upto, MOST])
        rows = [Paid._make(row) for row in cursor.fetchall()]
    if rows:
        _write(rows, now=now)
        hours.add(rows)
    return len(rows)


def _write(rows: list[Paid], *, now: datetime) -> None:
    issuer = receipts.issuer_now()
    leaves = receipts.leaves(rows, issuer)
    root = merkle.root(leaves)
    ReceiptBatch.objects.create(
        first_transfer=rows[0].transfer_id,
        last_transfer=rows[-1].transfer_id,
        receipts=len(rows),
        root=_shown(root),
        signature=signing.sign(verification.root_message(root)),
        signer=signing.signer(),
        marketplace=issuer.marketplace,
        currency=issuer.currency,
        leaves=b"".join(leaves),
        created_at=now,
    )


def _shown(digest: bytes) -> str:
    return f"0x{digest.hex()}"


def _settled_up_to() -> int | None:
    """A transfer's id up to which none can appear any more; None while somebody takes long to commit one.

    Ids are drawn from a sequence and become visible in another order. Who may have drawn one that is not visible yet
    holds the lock that every insertion takes first; when all of these have ended, what they drew is there or never
    will be. Nobody waits for this, unlike for a lock on the table. (CREATE INDEX CONCURRENTLY waits likewise.)
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM clients_transfer_id_seq")
        drawn = int(cursor.fetchone()[0])
    writers, deadline = _writers(), time.monotonic() + _WRITERS_END_S
    while writers and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
        writers &= _writers()
    return None if writers else drawn


def _writers() -> set[str]:
    """The other transactions that may be inserting a transfer."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT virtualtransaction FROM pg_locks
            WHERE locktype = 'relation' AND relation = 'clients_transfer'::regclass AND mode = 'RowExclusiveLock'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND granted AND pid IS DISTINCT FROM pg_backend_pid()
            """
        )
        return {row[0] for row in cursor.fetchall()}
