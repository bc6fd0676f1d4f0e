"""What is to be sent to chains: put down in the transaction of what it is for, and sent by `chain.broadcast`.

A row ends once: confirmed (its block is final, and read), reverted (likewise, and the contract refused it), refused
(it was never sent, since it would fail) or cancelled. Whoever has registered for its purpose (`on_end`) is called in
the database transaction in which that is written down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime

from django.db import transaction as database
from django.db.models import F
from django.utils import timezone
from eth_utils import is_address, to_checksum_address

from chain import bells, keys
from chain.models import DONE, Network, Purpose, Transaction, TransactionStatus
from clients import audit
from clients.models import Client
from marketplace.errors import Conflict

Handler = Callable[[Transaction], None]
Guard = Callable[[Transaction], str]

_handlers: defaultdict[str, list[Handler]] = defaultdict(list)
_guards: defaultdict[str, list[Guard]] = defaultdict(list)


class ReferenceTaken(Conflict):
    code, message = "reference_taken", "Another transaction has this reference already."


class TooLate(Conflict):
    """What was asked for cannot be done to this transaction any more."""

    code = "transaction_too_late"


@database.atomic
def queue(
    *,
    network: Network,
    purpose: Purpose,
    reference: str,
    to: str,
    data: str,
    sender: str | None = None,
    value: int = 0,
    gas: int | None = None,
    after: Transaction | None = None,
    expires_at: datetime | None = None,
) -> Transaction:
    """Have something sent, once: a repeated reference returns the first row. Within the caller's transaction.

    `sender` is the operator's address where nothing else is said; `value` in base units; `data` as 0x…; not before
    `after` is confirmed; not begun after `expires_at`. Raises keys.NoKey, ReferenceTaken.
    """
    if not is_address(to):
        raise ValueError(f"{to!r} is not an address.")
    row, made = Transaction.objects.get_or_create(
        reference=reference,
        defaults={
            "network": network,
            "sender": to_checksum_address(sender or keys.operator_address()),
            "purpose": purpose,
            "to": to_checksum_address(to),
            "data": data.lower(),
            "value": value,
            "gas": gas,
            "after": after,
            "expires_at": expires_at,
        },
    )
    if not made and (row.network_id, row.to, row.data, row.value) != (
        network.pk,
        to_checksum_address(to),
        data.lower(),
        value,
    ):
        raise ReferenceTaken()
    bells.ring("send_transactions")
    return row


def on_end(purpose: Purpose, handler: Handler) -> None:
    """Have `handler(transaction)` called when a transaction of this purpose has ended, in the same database
    transaction: what it raises undoes the end, which is tried again.
    """
    if handler not in _handlers[purpose]:
        _handlers[purpose].append(handler)


def before(purpose: Purpose, guard: Guard) -> None:
    """Have `guard(transaction)` asked before one of this purpose is signed: why it must wait; empty, it need not."""
    if guard not in _guards[purpose]:
        _guards[purpose].append(guard)


def reason_to_wait(row: Transaction) -> str:
    """What the guards of its purpose say; empty: nothing stands against it."""
    return next((said for guard in _guards[row.purpose] if (said := guard(row))), "")


@database.atomic
def end(
    row: Transaction, status: TransactionStatus, *, now: datetime, reason: str = "", **values: object
) -> bool:
    """Write down how a locked row has ended, and tell whoever waits for it; False if it has ended before."""
    changes = {"status": status, "reason": reason[:1000], "ended_at": now, **values}
    if not Transaction.objects.filter(pk=row.pk).exclude(status__in=DONE).update(**changes):
        return False
    row.refresh_from_db()
    for handler in _handlers[row.purpose]:
        handler(row)
    bells.ring("advance_fulfilments", "settle_orders", "send_transactions")
    return True


def again(row: Transaction, *, at: datetime, reason: str) -> None:
    """Put back what was not carried out (refused, cancelled, or reverted for good), to be begun at `at`.

    For handlers and operators. It gets a nonce of its own: the one that it had, if any, is used up for good.
    """
    put_back = Transaction.objects.filter(
        pk=row.pk,
        status__in=(TransactionStatus.REFUSED, TransactionStatus.REVERTED, TransactionStatus.CANCELLED),
    ).update(
        status=TransactionStatus.QUEUED,
        reason=reason[:1000],
        nonce=None,
        hash="",
        block_number=None,
        block_hash="",
        gas_used=None,
        gas_price=None,
        mined_at=None,
        ended_at=None,
        overtaken_at=None,
        tries=F("tries") + 1,
        next_try_at=at,
    )
    row.refresh_from_db()
    if not put_back:
        raise TooLate(f"This transaction is {row.get_status_display()}; it is not sent once more.")


# --- What operators do --------------------------------------------------------------------------------------


@database.atomic
def retry(row: Transaction, by: Client, reason: str = "") -> Transaction:
    """Try at once what waits; put back what was refused or reverted.

    Raises TooLate for what was carried out, and for what nobody needs any more.
    """
    row = _locked(row)
    if row.status == TransactionStatus.CONFIRMED:
        raise TooLate("This transaction was carried out. Sent once more it would be done twice.")
    now = timezone.now()
    if row.status in DONE:
        if why := reason_to_wait(row):
            raise TooLate(why)
        again(row, at=now, reason="")
    else:
        Transaction.objects.filter(pk=row.pk).update(next_try_at=now)
        row.refresh_from_db()
    _note("retry_transaction", row, by, reason)
    return row


@database.atomic
def bump(row: Transaction, by: Client, reason: str = "") -> Transaction:
    """Have it signed once more with higher fees, in place of what was sent. Raises TooLate unless it is under way."""
    row = _locked(row)
    if row.status not in (TransactionStatus.SIGNED, TransactionStatus.SENT):
        raise TooLate(f"This transaction is {row.get_status_display()}; higher fees change nothing.")
    Transaction.objects.filter(pk=row.pk).update(is_bump_wanted=True, next_try_at=timezone.now())
    row.refresh_from_db()
    _note("bump_transaction", row, by, reason)
    return row


@database.atomic
def cancel(row: Transaction, by: Client | None = None, reason: str = "") -> Transaction:
    """Take back what is not signed yet. Raises TooLate for what is: it may have been sent."""
    row = _locked(row)
    if row.status != TransactionStatus.QUEUED:
        raise TooLate(f"This transaction is {row.get_status_display()}; it cannot be taken back.")
    if by is not None:
        _note("cancel_transaction", row, by, reason)
    end(row, TransactionStatus.CANCELLED, now=timezone.now(), reason=reason or "Taken back.")
    return row


def _locked(row: Transaction) -> Transaction:
    return Transaction.objects.select_for_update().get(pk=row.pk)


def _note(action: str, row: Transaction, by: Client, reason: str) -> None:
    details = {"network": row.network.name, "purpose": row.purpose, "nonce": row.nonce, "hash": row.hash}
    audit.note(by=by, action=action, subject=row, reason=reason, details=details)
