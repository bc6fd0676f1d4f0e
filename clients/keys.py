"""API keys: made, changed and revoked by their owner, cut off by an operator, exchanged for a token."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from clients import allowances
from clients.credentials import API_KEY_PREFIX, digest, new_secret
from clients.models import ApiKey, Client, Token, TokenKind
from marketplace.bus import announce
from marketplace.errors import Conflict, Unauthenticated

ACCESS_TOKEN_LIFE = timedelta(hours=1)
MAX_KEYS = 100


class TooManyKeys(Conflict):
    code, message = (
        "too_many_keys",
        f"An account can have {MAX_KEYS} API keys. Revoke one that is not needed.",
    )


class BadKeyOrSecret(Unauthenticated):
    code, message = "unauthorized", "The API key or its secret is wrong, expired or revoked."


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment that it can be shown.

    `key` (`sk-…`) speaks for itself; `secret` goes with it to `/auth/token`.
    """

    row: ApiKey
    key: str
    secret: str


@transaction.atomic
def create(
    client: Client,
    *,
    name: str,
    allowed_models: Sequence[str] = (),
    expires_at: datetime | None = None,
    **limits: int | None,
) -> NewKey:
    """Make a key. No `allowed_models` means all, no `expires_at` no end; `limits` are some of `allowances.LIMITS`.

    Raises TooManyKeys.
    """
    # One at a time for each account, so that two at the last place cannot both take it.
    Client.objects.select_for_update(no_key=True).get(pk=client.pk)
    if ApiKey.objects.filter(client=client, revoked_at=None).count() >= MAX_KEYS:
        raise TooManyKeys()
    key, secret = new_secret(API_KEY_PREFIX), new_secret("")
    row = ApiKey.objects.create(
        client=client,
        name=name,
        prefix=key[:10],
        digest=digest(key),
        secret_digest=digest(secret),
        allowed_models=list(allowed_models),
        expires_at=expires_at,
    )
    if limits:
        allowances.change(client_id=client.pk, api_key=row, limits=limits, is_new=True)
    return NewKey(row=row, key=key, secret=secret)


def visible_to(client: Client) -> QuerySet[ApiKey]:
    """The account's keys. What the owner revoked is gone; what an operator cut off stays, with the reason."""
    found = ApiKey.objects.filter(client=client).select_related("allowance")
    return found.exclude(revoked_at__isnull=False, revoked_reason="")


@transaction.atomic
def update(key: ApiKey, *, changes: Mapping[str, Any]) -> ApiKey:
    """Write some of `name`, `allowed_models`, `expires_at`, and of `allowances.LIMITS`."""
    limits = {name: value for name, value in changes.items() if name in allowances.LIMITS}
    if limits:
        # First, since it locks the account.
        allowances.change(client_id=key.client_id, api_key=key, limits=limits)
    own = changes.keys() - limits.keys()
    for name in own:
        setattr(key, name, changes[name])
    key.save(update_fields=own)
    _announce([key.pk])
    return key


@transaction.atomic
def revoke(key: ApiKey, *, now: datetime, reason: str = "") -> bool:
    """End a key and the tokens it was exchanged for, at once and for good. False if it was revoked before."""
    return _revoke(ApiKey.objects.filter(pk=key.pk), reason=reason, now=now) == 1


@transaction.atomic
def revoke_all(*, client_id: int, reason: str, now: datetime) -> int:
    """End every key of an account. Returns how many were still valid."""
    return _revoke(ApiKey.objects.filter(client_id=client_id), reason=reason, now=now)


@transaction.atomic
def cut_off(keys: QuerySet[ApiKey], *, reason: str, now: datetime) -> int:
    """An operator ends these keys; their owners read the reason. Returns how many were still valid."""
    return _revoke(keys, reason=reason, now=now)


def exchange(*, key: str, secret: str, now: datetime) -> str:
    """A token that speaks for the key for `ACCESS_TOKEN_LIFE`.

    Raises BadKeyOrSecret, the same for everything that can be wrong.
    """
    row = ApiKey.objects.select_related("client").filter(digest=digest(key)).first()
    known = hmac.compare_digest(row.secret_digest if row else "", digest(secret))
    if row is None or not known or not row.is_usable(now) or not row.client.is_active:
        raise BadKeyOrSecret()
    token = new_secret("mt-")
    Token.objects.create(
        client=row.client,
        kind=TokenKind.ACCESS,
        api_key=row,
        prefix=token[:10],
        digest=digest(token),
        expires_at=now + ACCESS_TOKEN_LIFE,
    )
    return token


def _revoke(keys: QuerySet[ApiKey], *, reason: str, now: datetime) -> int:
    ids = list(keys.filter(revoked_at=None).order_by().values_list("pk", flat=True))
    revoked = ApiKey.objects.filter(pk__in=ids, revoked_at=None).update(revoked_at=now, revoked_reason=reason)
    Token.objects.filter(api_key_id__in=ids).delete()
    _announce(ids)
    return revoked


def _announce(ids: Sequence[int]) -> None:
    for pk in ids:
        transaction.on_commit(partial(announce, "credentials", f"key:{pk}"))
