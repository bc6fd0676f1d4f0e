"""What whoever paid for a request can show: its receipt, the marketplace's signature, and where it is sealed."""

from typing import Any

from django.db import connection
from django.db.models import QuerySet

from inference import batches, receipts, signing, verification
from inference.models import Inference, Status
from inference.receipts import PAID, Issuer, Paid, Writer
from inference.records import StillRunning
from marketplace.errors import NotFound


class NoReceipt(NotFound):
    code = "no_receipt"
    message = "This request did cost nothing, so there is no receipt for it."


def visible_to(client_id: int, *, everybody: bool = False) -> QuerySet[Inference]:
    """The requests whose receipts a client may have: also of those whose records it has deleted."""
    return Inference.objects.all() if everybody else Inference.objects.filter(client_id=client_id)


def document(record: Inference) -> dict[str, Any]:
    """{"receipt", "signature", "signer", "inclusion": null until it is sealed}, for `verification.verify`.

    Raises NoReceipt, StillRunning.
    """
    if record.status == Status.RUNNING:
        raise StillRunning
    with connection.cursor() as cursor:
        cursor.execute(f"{PAID} AND t.reference = %s", [f"inference:{record.pk}"])
        row = cursor.fetchone()
    if row is None:
        raise NoReceipt
    paid = Paid._make(row)
    batch = batches.holding(paid.transfer_id)
    issuer = receipts.issuer_now() if batch is None else Issuer(batch.marketplace, batch.currency)
    receipt = Writer(issuer).write(paid)
    leaf = verification.leaf(receipts.canonical(receipt))
    return {
        "receipt": receipt,
        "signature": signing.sign(verification.receipt_message(receipt)),
        "signer": signing.signer(),
        "inclusion": None if batch is None else batches.inclusion(batch, leaf),
    }
