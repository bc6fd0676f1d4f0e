"""Secrets that speak for an account: making them, keeping only digests, and telling whose they are.

Authorization: Token <device token>            from login
Authorization: Bearer <device or access token>
Authorization: Bearer sk-…                     an API key
Authorization: Basic <base64 of e-mail or username:password>
"""

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Min, Q
from django.http import HttpRequest

from clients import lockout
from clients.models import Account, AccountKind, Allowance, ApiKey, Client, Token, TokenKind
from marketplace.errors import Unauthenticated

API_KEY_PREFIX = "sk-"
# A row that is used all the time is not written all the time.
TOUCH_EVERY = timedelta(minutes=1)
MAX_HEADER = 4096


class MissingCredential(Unauthenticated):
    pass


class MalformedCredential(Unauthenticated):
    code = "malformed_credential"
    message = (
        "The Authorization header cannot be read. Send `Token <token>`, `Bearer <token or API key>` "
        "or `Basic <base64 of e-mail:password>`."
    )


class UnknownCredential(Unauthenticated):
    code, message = "unknown_credential", "This token or API key does not exist, or has been revoked."


class ExpiredCredential(Unauthenticated):
    code, message = "expired_credential", "This token or API key has expired. Get a new one."


class InactiveAccount(Unauthenticated):
    code, message = "inactive_account", "This account is closed or blocked."


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, by which credential, and what that credential is limited to."""

    client_id: int
    username: str
    is_staff: bool
    via: str  # "device" | "access" | "api_key" | "basic" | "session" | "house"
    api_key_id: int | None = None
    token_id: int | None = None
    allowed_models: tuple[str, ...] = ()  # empty: all
    expires_at: datetime | None = None
    # Whether the account or any of its keys has an allowance; and of the account's maximum prices and the key's the
    # lower ones, in base units.
    limited: bool = False
    ceiling_input: int | None = None
    ceiling_output: int | None = None
    ceiling_request: int | None = None
    # Not so for the marketplace's own account alone (`clients.house`).
    pays: bool = True


def new_secret(prefix: str) -> str:
    """`prefix` and 43 random characters that are safe in URLs and headers (256 bits)."""
    return prefix + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored in place of a secret. Unsalted and quick, since the secrets are long and random."""
    return hashlib.sha256(secret.encode()).hexdigest()


def identify(authorization: str, *, now: datetime, ip: str | None = None) -> Principal:
    """The caller that an Authorization header's value names; `ip` is where failed passwords are counted.

    Raises MissingCredential, MalformedCredential, UnknownCredential, ExpiredCredential, InactiveAccount,
    and for Basic also lockout.BadCredentials and lockout.LockedOut.
    """
    return recognise(authorization, now=now, ip=ip)[1]


def recognise(authorization: str, *, now: datetime, ip: str | None = None) -> tuple[Client, Principal]:
    """Like `identify`, with the account's row."""
    if not authorization.strip():
        raise MissingCredential()
    scheme, _, value = authorization.strip().partition(" ")
    value = value.strip()
    if not value or len(value) > MAX_HEADER:
        raise MalformedCredential()
    match scheme.lower():
        case "basic":
            return _by_password(value, ip=ip)
        case "bearer" if value.startswith(API_KEY_PREFIX):
            return _by_api_key(value, now=now)
        case "bearer" | "token":
            return _by_token(value, now=now)
    raise MalformedCredential()


def of_session(client: Client) -> Principal:
    """The principal of somebody who is logged in to the web pages."""
    return _principal(client, "session")


def _principal(
    client: Client, via: str, *, key: ApiKey | None = None, token: Token | None = None
) -> Principal:
    return Principal(
        client_id=client.pk,
        username=client.username,
        is_staff=client.is_staff,
        via=via,
        api_key_id=key.pk if key else None,
        token_id=token.pk if token else None,
        allowed_models=tuple(key.allowed_models) if key else (),
        expires_at=token.expires_at if token else key.expires_at if key else None,
        **_limits(client.pk, key),
    )


def _limits(client_id: int, key: ApiKey | None) -> dict[str, Any]:
    if not Account.objects.filter(client_id=client_id, kind=AccountKind.SPENDABLE, limited=True).exists():
        return {}
    whose = Q(api_key=None) if key is None else Q(api_key=None) | Q(api_key=key)
    allowances = Allowance.objects.filter(whose, client_id=client_id)
    lowest = allowances.aggregate(
        ceiling_input=Min("max_input_price"),
        ceiling_output=Min("max_output_price"),
        ceiling_request=Min("max_request_price"),
    )
    return {
        "limited": True,
        **{name: None if price is None else int(price) for name, price in lowest.items()},
    }


def _by_api_key(value: str, *, now: datetime) -> tuple[Client, Principal]:
    key = ApiKey.objects.select_related("client").filter(digest=digest(value)).first()
    if key is None:
        raise UnknownCredential()
    _check_key(key, now=now)
    _check_active(key.client)
    _touch(key, now=now)
    return key.client, _principal(key.client, "api_key", key=key)


def _by_token(value: str, *, now: datetime) -> tuple[Client, Principal]:
    token = Token.objects.select_related("client", "api_key").filter(digest=digest(value)).first()
    if token is None:
        raise UnknownCredential()
    if token.expires_at <= now:
        raise ExpiredCredential()
    if token.api_key is not None:
        _check_key(token.api_key, now=now)
    _check_active(token.client)
    _touch(token, now=now)
    return token.client, _principal(token.client, TokenKind(token.kind).value, key=token.api_key, token=token)


def _by_password(value: str, *, ip: str | None) -> tuple[Client, Principal]:
    try:
        login, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise MalformedCredential() from None
    if not (login and colon) or "\0" in login:
        raise MalformedCredential()
    request = HttpRequest()
    request.META["REMOTE_ADDR"] = ip
    client = lockout.authenticate(request=request, login=login, password=password)
    return client, _principal(client, "basic")


def _check_key(key: ApiKey, *, now: datetime) -> None:
    if key.revoked_at is not None:
        raise UnknownCredential()
    if not key.is_usable(now):
        raise ExpiredCredential()


def _check_active(client: Client) -> None:
    if not client.is_active:
        raise InactiveAccount()


def _touch(row: ApiKey | Token, *, now: datetime) -> None:
    before = now - TOUCH_EVERY
    if row.last_used_at is None or row.last_used_at <= before:
        stale = Q(last_used_at=None) | Q(last_used_at__lte=before)
        type(row)._default_manager.filter(stale, pk=row.pk).update(last_used_at=now)
