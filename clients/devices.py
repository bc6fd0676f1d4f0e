"""Devices that an account is logged in on: a token each, which ends, and which its own logout revokes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from clients.credentials import digest, new_secret
from clients.models import Client, Token, TokenKind
from marketplace.bus import announce
from marketplace.errors import NotFound

# Whoever logs in without end does not fill the database; the oldest logins make room.
MAX_DEVICES = 50


class UnknownDevice(NotFound):
    code, message = "unknown_device", "You are not logged in on such a device."


@dataclass(frozen=True, slots=True)
class Login:
    """What a device gets, once: `token` speaks for the account, `device_token` names the device at logout."""

    client: Client
    token: str
    device_token: str


@transaction.atomic
def log_in(client: Client, *, ip: str | None, user_agent: str, now: datetime) -> Login:
    """Log a device in for `DEVICE_TOKEN_DAYS` days."""
    token, device_token = new_secret("mt-"), new_secret("md-")
    Token.objects.create(
        client=client,
        kind=TokenKind.DEVICE,
        prefix=token[:10],
        digest=digest(token),
        device_digest=digest(device_token),
        user_agent=user_agent.replace("\0", "")[:200],
        ip=ip,
        expires_at=now + timedelta(days=settings.DEVICE_TOKEN_DAYS),
    )
    _forget(
        Token.objects.filter(
            pk__in=list(_of(client.pk).order_by("-pk")[MAX_DEVICES:].values_list("pk", flat=True))
        )
    )
    client.ip, client.last_login = ip, now
    client.save(update_fields=["ip", "last_login"])
    return Login(client=client, token=token, device_token=device_token)


@transaction.atomic
def log_out(*, client_id: int, device_token: str | None, token_id: int | None) -> None:
    """Log out the device that `device_token` names, or without one the token that made the request.

    Other devices stay logged in. Raises UnknownDevice, also for somebody else's.
    """
    which = Q(device_digest=digest(device_token)) if device_token else Q(pk=token_id)
    if not _forget(_of(client_id).filter(which)):
        raise UnknownDevice()


@transaction.atomic
def forget(*, client_id: int, token_id: int) -> None:
    """Log out one device by its number. Raises UnknownDevice, also for somebody else's."""
    if not _forget(_of(client_id).filter(pk=token_id)):
        raise UnknownDevice()


@transaction.atomic
def forget_all(*, client_id: int) -> int:
    """Log out every device, and end what API keys were exchanged for. Returns how many tokens there were."""
    return _forget(Token.objects.filter(client_id=client_id))


@transaction.atomic
def forget_selected(tokens: QuerySet[Token]) -> int:
    """Revoke these tokens. Returns how many there were."""
    return _forget(tokens)


def of(client: Client, *, now: datetime) -> QuerySet[Token]:
    """The devices that an account is logged in on."""
    return _of(client.pk).filter(expires_at__gt=now)


def sweep(*, now: datetime) -> int:
    """Delete what has expired. Returns how many tokens there were."""
    return Token.objects.filter(expires_at__lte=now).delete()[0]


def _of(client_id: int) -> QuerySet[Token]:
    return Token.objects.filter(client_id=client_id, kind=TokenKind.DEVICE)


def _forget(tokens: QuerySet[Token]) -> int:
    ids = list(tokens.order_by().values_list("pk", flat=True))
    deleted = Token.objects.filter(pk__in=ids).delete()[0] if ids else 0
    for pk in ids:
        transaction.on_commit(partial(announce, "credentials", f"token:{pk}"))
    return deleted
