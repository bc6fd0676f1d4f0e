"""What operators have looked into and let stand: payments of the Treasury that the books do not know, and differences
between the ledger and a chain. The audit's entries are the record of it.
"""

from __future__ import annotations

from collections import defaultdict

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.fields.json import KT

from chain.models import Log, Network, Reconciliation, Withdrawal
from clients import audit
from clients.models import AuditEntry, Client
from marketplace import money
from marketplace.errors import Conflict

PAYMENT, DIFFERENCE = "acknowledge_payment", "acknowledge_difference"


class NothingToAcknowledge(Conflict):
    """The sentence says why not."""

    code = "nothing_to_acknowledge"


# --- Payments -----------------------------------------------------------------------------------------------


def unknown_payments(network: Network) -> QuerySet[Log]:
    """Final payments of the Treasury that no withdrawal has asked for and nobody has acknowledged, the oldest first.

    Each has `reference`. Such are there where the database was restored from a backup, where another marketplace uses
    the same Treasury, or where somebody has a key of an operator's.
    """
    # By its index alone: a reference is one withdrawal's on any network.
    asked = Withdrawal.objects.filter(payment_reference=OuterRef("reference"))
    acknowledged = AuditEntry.objects.filter(action=PAYMENT, subject=OuterRef("reference"))
    told = Log.objects.filter(
        network=network,
        name="Withdrawn",
        address=network.address("TREASURY"),
        block_number__lte=network.final_block,
    ).annotate(reference=KT("arguments__reference"))
    return told.filter(~Exists(asked), ~Exists(acknowledged)).order_by("block_number", "log_index")


def described(payment: Log) -> str:
    """A payment in words: reference, amount, receiver."""
    said = payment.arguments
    return f"reference {said['reference']}, {money.named(int(said['amount']))}, to {said['to']}"


def why_not_pay(network: Network) -> str:
    """Why nothing is withdrawn to a network now; empty where all that the Treasury has paid is known here."""
    payment = unknown_payments(network).first()
    if payment is None:
        return ""
    return (
        f"The Treasury has paid something that these books do not know ({described(payment)}). Was the database "
        "restored? Acknowledge it on the reconciliation page."
    )


@transaction.atomic
def acknowledge_payment(network: Network, reference: str, *, by: Client, reason: str) -> Log:
    """Let a payment stand that the books do not know. Raises NothingToAcknowledge."""
    payment = unknown_payments(network).filter(arguments__reference=reference).first()
    if payment is None:
        raise NothingToAcknowledge(f"There is no payment {reference} on {network} to be acknowledged.")
    said = payment.arguments
    details = {"network": network.name, "amount": said["amount"], "to": said["to"]}
    audit.note(by=by, action=PAYMENT, subject=reference, reason=reason, details=details)
    return payment


# --- Differences --------------------------------------------------------------------------------------------


def unexplained(found: Reconciliation) -> dict[str, int]:
    """What a comparison could not explain, in base units by its lines' names."""
    amounts = {line["name"]: int(line["unexplained"]) for line in found.lines}
    return {name: amount for name, amount in amounts.items() if amount}


@transaction.atomic
def acknowledge_difference(found: Reconciliation, *, by: Client, reason: str) -> None:
    """Let stand what a comparison could not explain: later ones count it as explained, line by line.

    Raises NothingToAcknowledge, also where the network's last comparison has found something else.
    """
    network = Network.objects.select_for_update(no_key=True).get(pk=found.network_id)
    last = Reconciliation.objects.filter(network=network).latest("pk")
    amounts = unexplained(found)
    if not amounts:
        raise NothingToAcknowledge("This comparison has left nothing unexplained.")
    if unexplained(last) != amounts:
        raise NothingToAcknowledge(
            f"The last comparison with {network} has found something else. Look at it."
        )
    if _of(network).filter(details__reconciliation__gte=last.pk).exists():
        raise NothingToAcknowledge("This is acknowledged. Compare once more to see what is left.")
    details = {
        "amount": str(found.unexplained),
        "lines": {name: str(amount) for name, amount in amounts.items()},
        "reconciliation": last.pk,
    }
    audit.note(by=by, action=DIFFERENCE, subject=network, reason=reason, details=details)


def acknowledged(network: Network) -> dict[str, list[tuple[str, int]]]:
    """What explains differences because operators say so: sentences and base units, by the lines' names."""
    found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for entry in _of(network).select_related("by").order_by("pk"):
        for name, amount in entry.details["lines"].items():
            found[name].append((f"acknowledged by {entry.by}: {entry.reason}", int(amount)))
    return dict(found)


def _of(network: Network) -> QuerySet[AuditEntry]:
    return AuditEntry.objects.filter(action=DIFFERENCE, subject=str(network)[:200])
