"""The signed forms of a transaction, and the nonces that they use."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction as database

from chain import keys, outbox
from chain.fees import PLAIN_SENDING, Fees
from chain.models import Network, Sender, Signed, Transaction, TransactionStatus
from chain.standing import Standing

logger = logging.getLogger(__name__)


@database.atomic
def first(
    row: Transaction, sender: Sender, *, standing: Standing, gas: int, at: Fees, now: datetime
) -> Signed | None:
    """Give a row its nonce and its first form, at once; None where it must not begin any more."""
    # In this order everywhere: the row, then its sender.
    row = Transaction.objects.select_for_update().get(pk=row.pk)
    sender = Sender.objects.select_for_update().get(pk=sender.pk)
    is_paused = Network.objects.filter(pk=row.network_id, is_paused=True).exists()
    if row.status != TransactionStatus.QUEUED or is_paused or outbox.reason_to_wait(row):
        return None
    nonce = _next_nonce(sender, standing)
    form = _sign(row, nonce, gas=gas, at=at, now=now)
    row.nonce, row.status, row.hash, row.reason, row.tries = (
        nonce, TransactionStatus.SIGNED, form.hash, "", 0,
    )  # fmt: skip
    row.save(update_fields=["nonce", "status", "hash", "reason", "tries"])
    sender.next_nonce = max(sender.next_nonce or 0, nonce + 1)
    sender.save(update_fields=["next_nonce"])
    return form


@database.atomic
def replacement(row: Transaction, before: Signed, *, at: Fees, now: datetime) -> Signed | None:
    """Another form with the same nonce; None where the row has gone on meanwhile."""
    row = Transaction.objects.select_for_update().get(pk=row.pk)
    under_way = row.status in (TransactionStatus.SIGNED, TransactionStatus.SENT)
    if not under_way or row.nonce is None or live(row)[-1].pk != before.pk:
        return None
    form = _sign(row, row.nonce, gas=before.gas, at=at, now=now)
    row.hash, row.is_bump_wanted = form.hash, False
    row.save(update_fields=["hash", "is_bump_wanted"])
    return form


@database.atomic
def void(row: Transaction, before: Signed, *, at: Fees, now: datetime) -> Signed | None:
    """A form that does nothing but use up the nonce of what the contract had refused; None where there is another."""
    row = Transaction.objects.select_for_update().get(pk=row.pk)
    if row.status != TransactionStatus.REVERTED or row.nonce is None or live(row)[-1].pk != before.pk:
        return None
    return _sign(row, row.nonce, gas=PLAIN_SENDING, at=at, now=now, is_void=True)


def live(row: Transaction) -> list[Signed]:
    """The forms with its present nonce, oldest first."""
    return [form for form in row.forms.all() if form.nonce == row.nonce]


def cost(row: Transaction) -> int:
    """The most that a row may take from its sender, by its newest form."""
    newest = live(row)[-1]
    return newest.gas * newest.max_fee + row.value


def is_gap(network: Network, address: str, nonce: int) -> bool:
    """Whether nothing of ours was ever signed with this nonce."""
    signed = Signed.objects.filter(nonce=nonce, transaction__network=network, transaction__sender=address)
    return not signed.exists()


def _next_nonce(sender: Sender, standing: Standing) -> int:
    """The next one, or one that was left out: what comes after a gap is never carried out."""
    on_chain, waiting = standing.nonce, standing.pending_nonce
    if sender.next_nonce is None:
        return max(on_chain, waiting)
    if on_chain > sender.next_nonce:
        logger.warning("%s is used elsewhere: nonce %s on %s", sender.address, on_chain - 1, sender.network)
    is_left_out = on_chain < sender.next_nonce and on_chain == waiting
    if is_left_out and is_gap(sender.network, sender.address, on_chain):
        return on_chain
    return max(sender.next_nonce, on_chain)


def _sign(
    row: Transaction, nonce: int, *, gas: int, at: Fees, now: datetime, is_void: bool = False
) -> Signed:
    made = keys.sign(
        row.sender,
        {
            "type": 2,
            "chainId": row.network.chain_id,
            "nonce": nonce,
            "to": row.sender if is_void else row.to,
            "value": 0 if is_void else row.value,
            "data": "0x" if is_void else row.data or "0x",
            "gas": gas,
            "maxFeePerGas": at.max_fee,
            "maxPriorityFeePerGas": at.priority_fee,
        },
    )
    return Signed.objects.create(
        transaction=row, hash=made.hash, raw="0x" + made.raw.hex(), nonce=nonce, gas=gas,
        max_fee=at.max_fee, priority_fee=at.priority_fee, signed_at=now, is_void=is_void,
    )  # fmt: skip
