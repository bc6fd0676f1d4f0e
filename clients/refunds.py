"""Giving back, by an operator, what somebody has paid."""

from typing import Any

from django.db import transaction

from clients import audit, grants, ledger
from clients.models import AuditEntry, Client, Transfer
from marketplace import money
from marketplace.errors import Conflict


class AlreadyReversed(Conflict):
    code, message = "already_refunded", "This was given back already."


class PayeeHasTooLittle(Conflict):
    """Whoever was paid by `original` no longer has it. Details: `available`, `needed`, decimal strings of tokens."""

    code = "payee_has_too_little"
    original: Transfer


@transaction.atomic
def reverse(original: Transfer, *, by: Client, reason: str) -> Transfer:
    """Give back what a transfer took, its fee included. Nothing is edited: further transfers go the other way.

    Raises AlreadyReversed, PayeeHasTooLittle, and CannotReverse for what is a reversal itself.
    """
    if original.reversals.exists():
        raise AlreadyReversed
    _check_no_credit(original)
    try:
        back = ledger.reverse(original, reason=reason, by_id=by.pk)
    except ledger.InsufficientFunds as error:
        raise _too_little(original, error) from None
    # The accounts are locked by now: of two calls at the same time, the second finds what the first did.
    if AuditEntry.objects.filter(action="reverse_transfer", subject=original.reference).exists():
        raise AlreadyReversed
    _check_no_credit(original)
    audit.note(
        by=by,
        action="reverse_transfer",
        subject=original.reference,
        reason=reason,
        details=_details(original),
    )
    return back


@transaction.atomic
def give_credit_instead(original: Transfer, *, amount: int, by: Client, reason: str) -> Transfer:
    """Give the payer credit (base units), once, since whoever was paid no longer has it. Raises AlreadyReversed."""
    assert original.source.client is not None
    given = grants.give(
        client=original.source.client, amount=amount, reference=_instead(original), by=by, reason=reason
    )
    if original.reversals.exists():
        raise AlreadyReversed
    return given


def _instead(original: Transfer) -> str:
    return f"grant:instead:{original.pk}"


def _check_no_credit(original: Transfer) -> None:
    if Transfer.objects.filter(reference=_instead(original)).exists():
        raise AlreadyReversed("The payer was given credit for this already.")


def _too_little(original: Transfer, error: ledger.InsufficientFunds) -> PayeeHasTooLittle:
    numbers: dict[str, Any] = dict(error.details or {})
    # The fee goes back on its own, so that what is too little may be the marketplace's.
    found = PayeeHasTooLittle(
        f"{original.destination} no longer has what this paid: {numbers['needed']} are to go back and "
        f"{money.named(money.parse(numbers['available']))} are free. Give the payer credit instead.",
        details=numbers,
    )
    found.original = original
    return found


def _details(original: Transfer) -> dict[str, str]:
    return {
        "amount": money.render(original.amount),
        "fee": money.render(original.fee),
        "back_to": original.source.name,
        "from": original.destination.name,
    }
