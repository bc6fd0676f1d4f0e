"""Money that is reserved: how long already, for what, and freeing it by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from clients import audit, books, ledger
from clients.books import Standing
from clients.models import Client, Hold
from marketplace import money
from marketplace.errors import Conflict

# A hold may be seen before the record of what it is for.
GRACE = timedelta(minutes=1)


class StillNeeded(Conflict):
    code = "hold_still_needed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What may be said of a hold. `free`: it may be released by hand. `late`: it should have ended by itself."""

    says: str
    free: bool
    late: bool


def look(held: Sequence[Hold], *, now: datetime) -> dict[str, Finding]:
    """What there is to say of holds, by reference; one query for each kind of thing that they are for."""
    known = books.standings(hold.reference for hold in held if hold.ended_at is None)
    return {hold.reference: _finding(hold, known.get(hold.reference), now) for hold in held}


@transaction.atomic
def release(hold: Hold, *, by: Client, reason: str, now: datetime) -> None:
    """Free what a hold reserves, where what it was for has ended. Raises StillNeeded, HoldEnded."""
    finding = look([hold], now=now)[hold.reference]
    if not finding.free:
        raise StillNeeded(f"What this money is reserved for has not ended: {finding.says}.")
    if not ledger.release(hold.reference):
        raise ledger.HoldEnded
    audit.note(
        by=by,
        action="release_hold",
        subject=hold.reference,
        reason=reason,
        details={"freed": money.render(hold.amount - hold.captured), "account": hold.account.name},
    )


def _finding(hold: Hold, standing: Standing | None, now: datetime) -> Finding:
    if hold.ended_at is not None:
        return Finding(hold.outcome, free=False, late=False)
    settling = now - hold.created_at < GRACE
    if standing is None:
        if books.purpose_of(hold.reference) is None:
            return Finding("nobody knows what it is for", free=False, late=not settling)
        return Finding("no record", free=not settling, late=not settling)
    if standing.ended:
        return Finding(standing.says, free=True, late=True)
    return Finding(standing.says, free=False, late=standing.due is not None and now > standing.due)
