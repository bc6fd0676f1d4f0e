"""Signing in with Google: an ID token is verified, and becomes an account.

https://developers.google.com/identity/gsi/web/guides/verify-google-id-token
"""

import functools
import logging
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests
from django.conf import settings
from django.db import transaction
from google.auth import exceptions, jwt

from clients import accounts, devices, keys
from clients.credentials import InactiveAccount
from clients.models import Client
from marketplace.errors import InvalidRequest, Unauthenticated, Unavailable

logger = logging.getLogger(__name__)

ISSUERS = ("accounts.google.com", "https://accounts.google.com")
CLOCK_SKEW_S = 10
# Not fetched again sooner, also for tokens that name a certificate nobody knows.
REFETCH_AFTER_S = 60
RETRY_AFTER_S = 10


class GoogleNotSetUp(InvalidRequest):
    code, message = "google_not_set_up", "Signing in with Google is not set up here. Use e-mail and password."


class BadGoogleToken(Unauthenticated):
    code, message = "bad_google_token", "Google's ID token is not valid. Sign in with Google again."


class GoogleAway(Unavailable):
    code, message = "google_away", "Google's certificates cannot be read at the moment."


class EmailNotVerified(Unauthenticated):
    code = "email_not_verified"
    message = "Google has not verified this e-mail address. Verify it there, or use e-mail and password."


@dataclass(frozen=True, slots=True)
class Identity:
    """Who Google says it is; the address is verified."""

    subject: str
    email: str
    picture: str | None


class Certificates:
    """Google's signing certificates by key id, read from a URL and kept as long as it says."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._found: dict[str, str] = {}
        self._fetched = self._stale = self._failed = -float("inf")

    def for_key(self, key_id: str) -> dict[str, str]:
        """All certificates, fetched anew if they are old or do not know `key_id`. Raises GoogleAway."""
        with self._lock:
            now = time.monotonic()
            unknown = key_id not in self._found and now - self._fetched > REFETCH_AFTER_S
            if unknown or now > self._stale:
                self._fetch(now)
            return self._found

    def _fetch(self, now: float) -> None:
        # Callers wait here one behind the other: not each for a timeout of its own.
        if now - self._failed < RETRY_AFTER_S:
            raise GoogleAway(retry_after=RETRY_AFTER_S)
        try:
            response = requests.get(self._url, timeout=5)
            response.raise_for_status()
            self._found = {str(key): str(value) for key, value in response.json().items()}
        except (requests.RequestException, ValueError, AttributeError) as error:
            logger.warning("Could not read Google's certificates: %s", error)
            self._failed = now
            raise GoogleAway(retry_after=RETRY_AFTER_S) from None
        age = re.search(r"max-age=(\d+)", response.headers.get("Cache-Control", ""))
        self._fetched, self._stale = now, now + (int(age.group(1)) if age else REFETCH_AFTER_S)


# One for each address, in tests another one than Google's.
certificates = functools.cache(Certificates)


def verify(token: str) -> Identity:
    """Check an ID token's signature, audience (`GOOGLE_CLIENT_IDS`), issuer, time and verified address.

    Raises GoogleNotSetUp, BadGoogleToken, EmailNotVerified, GoogleAway.
    """
    if not settings.GOOGLE_CLIENT_IDS:
        raise GoogleNotSetUp()
    claims = _claims(token)
    subject, email = claims.get("sub"), claims.get("email")
    if claims.get("iss") not in ISSUERS or not (isinstance(subject, str) and isinstance(email, str)):
        raise BadGoogleToken()
    if claims.get("email_verified") is not True:
        raise EmailNotVerified()
    picture = claims.get("picture")
    shown = isinstance(picture, str) and picture.startswith("https://") and len(picture) <= 500
    return Identity(subject=subject, email=email, picture=picture if shown else None)


def sign_in(token: str, *, now: datetime) -> Client:
    """The account of whoever holds this ID token, opened at the first time.

    An account with the same e-mail address is theirs. If nobody had ever confirmed that address, a stranger
    may have opened the account to lie in wait for its owner: its password, devices and API keys end then.
    Raises what `verify` does, and InactiveAccount.
    """
    identity = verify(token)
    client = Client.objects.filter(google_subject=identity.subject).first() or _first_time(identity, now=now)
    if not client.is_active:
        raise InactiveAccount()
    if identity.picture and identity.picture != client.profile_image_url:
        client.profile_image_url = identity.picture
        client.save(update_fields=["profile_image_url"])
    return client


def _claims(token: str) -> Mapping[str, Any]:
    try:
        key_id = jwt.decode_header(token).get("kid")
        if not isinstance(key_id, str):
            raise BadGoogleToken()
        return jwt.decode(
            token,
            certs=certificates(settings.GOOGLE_CERTS_URL).for_key(key_id),
            audience=settings.GOOGLE_CLIENT_IDS,
            clock_skew_in_seconds=CLOCK_SKEW_S,
        )
    except (ValueError, exceptions.GoogleAuthError) as error:
        logger.info("An ID token was refused: %s", error)
        raise BadGoogleToken() from None


def _first_time(identity: Identity, *, now: datetime) -> Client:
    """Link or open an account.

    Somebody else may do the same at this moment: the database says so, and we look again.
    """
    name = re.sub(r"[^\w.+-]", "", identity.email.split("@")[0])[:130] or "google"
    for username in (name, *(f"{name}-{secrets.token_hex(3)}" for _ in range(3))):
        try:
            return _link(identity, now=now) or accounts.create(
                username=username,
                email=identity.email,
                google_subject=identity.subject,
                email_confirmed_at=now,
            )
        except accounts.Taken:
            continue
    raise Unavailable(retry_after=1)


@transaction.atomic
def _link(identity: Identity, *, now: datetime) -> Client | None:
    found = Client.objects.by_email(identity.email)
    if found is None:
        return Client.objects.filter(google_subject=identity.subject).first()
    client = Client.objects.select_for_update(no_key=True).get(pk=found.pk)
    if client.google_subject not in (None, identity.subject):
        # The address moved to another Google account; its holder is not who signed in here before.
        raise BadGoogleToken("Another Google account is linked to the account with this e-mail address.")
    if client.email_confirmed_at is None:
        client.set_unusable_password()
        devices.forget_all(client_id=client.pk)
        keys.revoke_all(
            client_id=client.pk, reason="The e-mail address was confirmed by somebody else.", now=now
        )
    client.google_subject = identity.subject
    client.email_confirmed_at = now
    client.save(update_fields=["google_subject", "email_confirmed_at", "password"])
    accounts.announce_change(client.pk)
    return client
