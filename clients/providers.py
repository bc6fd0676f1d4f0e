"""Becoming a provider: a person asks, an operator decides, and the person reads why.

none ──ask──▶ pending ──approve──▶ approved ──suspend──▶ suspended
                 │  ▲                 ▲                      │
              refuse ask           approve ◀────approve──────┘
                 ▼  │                 │
               refused ───────────────┘
"""

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction

from clients.models import Client, ProviderStatus
from marketplace.bus import announce
from marketplace.errors import Conflict, Forbidden, InvalidRequest


class ProviderSuspended(Forbidden):
    code = "provider_suspended"


class CannotDecide(Conflict):
    code = "cannot_decide"


class ReasonMissing(InvalidRequest):
    code, message = "reason_missing", "Say why; the person reads it."


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands as a provider: a machine code, a sentence, and what to do about it."""

    code: str
    message: str
    fix: str


def ask(client: Client, *, now: datetime) -> Client:
    """Ask to become a provider, for the first time or after a refusal. Asking again changes nothing.

    Approved at once where `OPEN_PROVIDER_REGISTRATION` is on.
    Raises ProviderSuspended with the operator's reason.
    """
    status, decided = ProviderStatus.PENDING, None
    from_ = [ProviderStatus.NONE, ProviderStatus.REFUSED]
    if settings.OPEN_PROVIDER_REGISTRATION:
        status, decided = ProviderStatus.APPROVED, now
        from_.append(ProviderStatus.PENDING)
    _move(client, from_, status, reason="", asked=now, decided=decided, by=None)
    if client.provider_status == ProviderStatus.SUSPENDED:
        raise ProviderSuspended(f"You are suspended as a provider: {client.provider_reason}")
    return client


def approve(client: Client, *, by: Client | None, now: datetime) -> Client:
    """Let this person's nodes get work. Approving again changes nothing.

    Raises CannotDecide for somebody who never asked.
    """
    from_ = [ProviderStatus.PENDING, ProviderStatus.REFUSED, ProviderStatus.SUSPENDED]
    _move(client, from_, ProviderStatus.APPROVED, reason="", decided=now, by=by)
    return _decided(client, ProviderStatus.APPROVED)


def refuse(client: Client, *, reason: str, by: Client | None, now: datetime) -> Client:
    """Say no to a request. Refusing again changes nothing. Raises ReasonMissing, CannotDecide."""
    reason = _reason(reason)
    _move(client, [ProviderStatus.PENDING], ProviderStatus.REFUSED, reason=reason, decided=now, by=by)
    return _decided(client, ProviderStatus.REFUSED)


def suspend(client: Client, *, reason: str, by: Client | None, now: datetime) -> Client:
    """Take an approval back. Suspending again changes nothing. Raises ReasonMissing, CannotDecide."""
    reason = _reason(reason)
    _move(client, [ProviderStatus.APPROVED], ProviderStatus.SUSPENDED, reason=reason, decided=now, by=by)
    return _decided(client, ProviderStatus.SUSPENDED)


def standing(client: Client) -> Standing:
    """The state as the person should read it."""
    code, message, fix = _STANDINGS[ProviderStatus(client.provider_status)]
    return Standing(code, message.format(reason=client.provider_reason), fix)


_STANDINGS: dict[ProviderStatus, tuple[str, str, str]] = {
    ProviderStatus.NONE: (
        "not_a_provider",
        "You are not a provider.",
        "POST to /client/provider/ to ask.",
    ),
    ProviderStatus.PENDING: (
        "waits_for_approval",
        "You asked to become a provider; an operator has not decided yet.",
        "Nothing to do: nodes that you register start to get work when an operator approves.",
    ),
    ProviderStatus.APPROVED: (
        "approved",
        "You are a provider. Your nodes get work.",
        "",
    ),
    ProviderStatus.REFUSED: (
        "refused",
        "An operator refused your request: {reason}",
        "Settle what the reason names, then POST to /client/provider/ to ask again.",
    ),
    ProviderStatus.SUSPENDED: (
        "suspended",
        "An operator suspended you as a provider: {reason}",
        "Get in touch with the operator; your nodes get no work until then.",
    ),
}


@transaction.atomic
def _move(
    client: Client,
    from_: list[ProviderStatus],
    to: ProviderStatus,
    *,
    reason: str,
    by: Client | None,
    decided: datetime | None,
    asked: datetime | None = None,
) -> None:
    """Change the state if it is still one of `from_`; then read what is true now."""
    fields = {"provider_registration_date": asked} if asked else {}
    moved = Client.objects.filter(pk=client.pk, provider_status__in=from_, closed_at=None).update(
        provider_status=to,
        provider_reason=reason,
        provider_decided_at=decided,
        provider_decided_by=by,
        **fields,
    )
    if moved:
        transaction.on_commit(lambda: announce("credentials", f"client:{client.pk}"))
    client.refresh_from_db()


def _decided(client: Client, wanted: ProviderStatus) -> Client:
    if client.provider_status != wanted:
        now = ProviderStatus(client.provider_status)
        raise CannotDecide(f"{client.username} is “{now.label}” and cannot become “{wanted.label}”.")
    return client


def _reason(reason: str) -> str:
    if not reason.strip():
        raise ReasonMissing(fields={"reason": [ReasonMissing.message]})
    return reason.strip()
