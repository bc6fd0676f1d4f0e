"""Giving back, by an operator, what a request did cost."""

from clients import refunds
from clients.models import Client, Transfer
from inference.models import Inference
from marketplace.errors import Conflict


class NothingCharged(Conflict):
    code, message = "nothing_charged", "This request did cost nothing, so there is nothing to give back."


def refund(inference: Inference, *, by: Client, reason: str) -> Transfer:
    """Give back all that a request did cost, from its provider and from the marketplace's fees.

    Raises NothingCharged, AlreadyReversed, PayeeHasTooLittle.
    """
    paid = charge_of(inference)
    if paid is None:
        raise NothingCharged
    return refunds.reverse(paid, by=by, reason=reason)


def charge_of(inference: Inference) -> Transfer | None:
    """The transfer by which a request was paid."""
    return Transfer.objects.filter(reference=f"inference:{inference.pk}").first()
