"""What had ended, and whose block is gone all the same: a reorganisation deeper than the confirmations wanted.

Whoever waited for it has been told, and is not told again. So what was carried out is sent again, byte for byte: it has
its nonce, and happens once. What the contract had refused must not happen now, after its money was freed: an empty
transaction uses its nonce up.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, QuerySet

from chain import fees, forms
from chain.ethereum import Ethereum, Refused
from chain.fees import Fees
from chain.models import Network, Reorganisation, Signed, Transaction, TransactionStatus
from chain.standing import Standing

logger = logging.getLogger(__name__)

# Older reorganisations have had their effect.
_RECENT = timedelta(days=1)
_AT_ONCE = 50


def lost(network: Network, *, now: datetime) -> QuerySet[Transaction]:
    """Ended transactions in blocks that a later reorganisation has replaced, and that were not found again yet."""
    recent = Reorganisation.objects.filter(network=network, at__gt=now - _RECENT)
    deepest = recent.order_by("common_block").first()
    if deepest is None:
        return Transaction.objects.none()
    later = recent.filter(common_block__lt=OuterRef("block_number"), at__gt=OuterRef("mined_at"))
    return Transaction.objects.filter(
        Exists(later),
        network=network,
        block_number__gt=deepest.common_block,
        status__in=(TransactionStatus.CONFIRMED, TransactionStatus.REVERTED),
    ).order_by("nonce")[:_AT_ONCE]


def revive(row: Transaction, *, node: Ethereum, standing: Standing, limit: int, now: datetime) -> None:
    """Note where it stands now, or have its nonce used as it was before. Raises NodeAway."""
    found = next((form for form in forms.live(row) if form.hash in standing.receipts), None)
    if found is not None:
        _found(row, found, standing, now)
        return
    if row.nonce is None or standing.nonce > row.nonce:
        # Something has used it: the next look may find what.
        return
    form = _form(row, standing, limit, now)
    if form is None:
        return
    logger.warning("%s was in a block that is gone; it is sent again", row)
    try:
        node.send(bytes.fromhex(form.raw.removeprefix("0x")))
    except Refused as refusal:
        logger.warning("%s is not taken again: %s", row, refusal.reason)


def _found(row: Transaction, form: Signed, standing: Standing, now: datetime) -> None:
    receipt = standing.receipts[form.hash]
    reason = row.reason
    if not receipt.has_succeeded and row.status == TransactionStatus.CONFIRMED:
        reason = "It was carried out, its block was replaced, and now the contract has refused it."
        logger.error("%s: %s", row, reason)
    Transaction.objects.filter(pk=row.pk).update(
        hash=form.hash, block_number=receipt.block_number, block_hash=receipt.block_hash, mined_at=now,
        gas_used=receipt.gas_used, gas_price=receipt.gas_price, reason=reason,
    )  # fmt: skip


def _form(row: Transaction, standing: Standing, limit: int, now: datetime) -> Signed | None:
    """What to send: what was carried out, or, for what was refused, a form that does nothing."""
    mine = forms.live(row)
    if row.status == TransactionStatus.CONFIRMED:
        return next((form for form in mine if form.hash == row.hash), None)
    if mine[-1].is_void:
        return mine[-1]
    before = Fees(mine[-1].max_fee, mine[-1].priority_fee)
    at = fees.raised(before, base_fee=standing.head.base_fee, tip=standing.priority_fee, limit=limit)
    return None if at is None else forms.void(row, mine[-1], at=at, now=now)
