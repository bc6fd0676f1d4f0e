"""What operators did to money, written down for good."""

from typing import Any

from clients.models import AuditEntry, Client


def note(
    *, by: Client, action: str, subject: object, reason: str, details: dict[str, Any] | None = None
) -> AuditEntry:
    """Add an entry, in the transaction of what it tells of."""
    return AuditEntry.objects.create(
        by=by, action=action, subject=str(subject)[:200], reason=reason[:500], details=details or {}
    )
