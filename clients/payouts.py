"""Earnings paid out: asked for by who earned them, paid or refused by an operator.

Until somebody decides, the money is held on the account of what was earned.
"""

from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from clients import audit, ledger, terms
from clients.models import AccountKind, Client, Payout, PayoutStatus, TransferKind
from marketplace import money
from marketplace.errors import Conflict, InvalidRequest

MAX_OPEN = 20


class TooManyPayouts(Conflict):
    code, message = "too_many_payouts", f"{MAX_OPEN} payouts wait for an operator already."


class PayoutsFrozen(Conflict):
    code = "payouts_frozen"
    message = "Payouts are frozen at the moment. The request stays; pay it when the terms allow it again."


class PayoutDecided(Conflict):
    code = "payout_decided"


class ReasonMissing(InvalidRequest):
    code, message = "reason_missing", "Say why; the provider reads it."


def of(client: Client) -> QuerySet[Payout]:
    """A client's payouts, newest first."""
    return Payout.objects.filter(client=client)


@transaction.atomic
def request(client: Client, *, amount: int, destination: str) -> Payout:
    """Ask for earned base units to be paid to `destination`; they are held from now on.

    Raises ledger.InsufficientFunds for more than was earned and is free, TooManyPayouts.
    """
    # One at a time for each account, so that two cannot both be the last.
    Client.objects.select_for_update(no_key=True).get(pk=client.pk)
    if of(client).filter(status=PayoutStatus.REQUESTED).count() >= MAX_OPEN:
        raise TooManyPayouts()
    payout = Payout.objects.create(client=client, amount=amount, destination=destination)
    ledger.hold(
        reference=payout.reference, client_id=client.pk, amount=amount, kind=AccountKind.EARNED, tokens=None
    )
    payout.refresh_from_db()
    return payout


@transaction.atomic
def cancel(payout: Payout, *, now: datetime) -> Payout:
    """Its owner takes a request back; the money is free again. Raises PayoutDecided."""
    _decide(payout, PayoutStatus.CANCELLED, reason="", by=None, now=now)
    ledger.release(payout.reference)
    return payout


@transaction.atomic
def pay(payout: Payout, *, by: Client, note: str, now: datetime) -> Payout:
    """An operator has paid it; `note` says how. The money leaves the books. Raises PayoutsFrozen, PayoutDecided."""
    if terms.current().payouts_frozen:
        raise PayoutsFrozen()
    _decide(payout, PayoutStatus.PAID, reason=_said(note), by=by, now=now)
    ledger.settle(
        reference=payout.reference,
        amount=payout.amount,
        payee_id=None,
        payee_kind=AccountKind.OUTSIDE,
        kind=TransferKind.PAYOUT,
        memo=payout.reason,
        by_id=by.pk,
    )
    _note("pay_payout", payout, by)
    return payout


@transaction.atomic
def refuse(payout: Payout, *, by: Client, reason: str, now: datetime) -> Payout:
    """An operator does not pay it, and says why; the money is free again. Raises ReasonMissing, PayoutDecided."""
    _decide(payout, PayoutStatus.REFUSED, reason=_said(reason), by=by, now=now)
    ledger.release(payout.reference)
    _note("refuse_payout", payout, by)
    return payout


def _decide(payout: Payout, status: PayoutStatus, *, reason: str, by: Client | None, now: datetime) -> None:
    """Change the status if nobody has before, and read what is true now."""
    waiting = Payout.objects.filter(pk=payout.pk, status=PayoutStatus.REQUESTED)
    decided = waiting.update(status=status, reason=reason, decided_by=by, decided_at=now)
    payout.refresh_from_db()
    if not decided:
        raise PayoutDecided(f"This payout is {payout.get_status_display()} already.")


def _said(reason: str) -> str:
    if not reason.strip():
        raise ReasonMissing(fields={"reason": [ReasonMissing.message]})
    return reason.strip()[:500]


def _note(action: str, payout: Payout, by: Client) -> None:
    details = {
        "client": payout.client_id,
        "amount": money.render(payout.amount),
        "destination": payout.destination,
    }
    audit.note(by=by, action=action, subject=payout, reason=payout.reason, details=details)
