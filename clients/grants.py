"""Credit that an operator gives."""

from django.db import transaction

from clients import audit, ledger
from clients.models import AuditEntry, Client, Transfer
from marketplace import money


@transaction.atomic
def give(*, client: Client, amount: int, reference: str, by: Client, reason: str) -> Transfer:
    """Give a client credit (base units) that nobody has paid for; once for each reference, however often it is asked.

    Raises ReferenceTaken when something else has the reference.
    """
    given = ledger.grant(client_id=client.pk, amount=amount, reference=reference, reason=reason, by_id=by.pk)
    # The accounts are locked by now: of two calls at the same time, the second finds the entry of the first.
    if not AuditEntry.objects.filter(action="grant", details__reference=reference).exists():
        audit.note(
            by=by,
            action="grant",
            subject=f"client {client.pk} {client}",
            reason=reason,
            details={"amount": money.render(amount), "to": given.destination.name, "reference": reference},
        )
    return given
