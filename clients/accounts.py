"""Accounts: opening one, changing it, closing it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from clients import devices, house, keys, ledger
from clients.models import Client, ProviderStatus, Wallet
from marketplace import money
from marketplace.bus import announce
from marketplace.errors import Conflict, InvalidRequest


class WeakPassword(InvalidRequest):
    code, message = "weak_password", "This password is too easy to guess."


class Taken(InvalidRequest):
    code, message = "taken", "Somebody else has this already."


class BadUsername(InvalidRequest):
    code, message = "bad_username", "This username cannot be used."


class LastOperator(Conflict):
    code, message = (
        "last_operator",
        "The last operator's account cannot be closed. Make somebody else one first.",
    )


def register(*, username: str, email: str, password: str, **profile: Any) -> Client:
    """Open an account for somebody who chose a password.

    Raises WeakPassword, BadUsername, and Taken for an e-mail address (in any case) or username in use,
    also when two people ask for the same at the same moment.
    """
    check_password(password, Client(username=username, email=email), field="password")
    return create(username=username, email=email, password=password, **profile)


@transaction.atomic
def create(*, username: str, email: str, password: str | None = None, **profile: Any) -> Client:
    """Open an account, with STARTING_CREDIT; without a password it is entered through Google or a password reset only.

    Raises BadUsername, Taken.
    """
    _check_username(username)
    with _taken():
        client = Client.objects.create_user(username=username, email=email, password=password, **profile)
    credit = money.parse(settings.STARTING_CREDIT)
    if credit:
        ledger.grant(
            client_id=client.pk,
            amount=credit,
            reference=f"grant:starting:{client.pk}",
            reason="Starting credit",
            by_id=None,
        )
    return client


def update(client: Client, *, changes: Mapping[str, Any]) -> Client:
    """Write some of `username`, `email`, `phone_no`, `user_image`, `terms_accepted`.

    A new e-mail address has not been confirmed. Raises BadUsername, Taken.
    """
    for name, value in changes.items():
        setattr(client, name, value)
    fields = set(changes)
    if "username" in changes:
        _check_username(client.username)
        client.username = Client.normalize_username(client.username)
    if "email" in changes:
        client.email_confirmed_at = None
        fields.add("email_confirmed_at")
    with _taken():
        client.save(update_fields=fields)
    announce_change(client.pk)
    return client


@transaction.atomic
def close(client: Client, *, now: datetime) -> None:
    """Close an account for good: nobody can enter it, and nothing in it tells whose it was.

    The row stays, since its inferences, receipts and money are other people's history too. Devices are
    logged out, API keys revoked, and its nodes get no more work. Closing again changes nothing.
    Raises LastOperator.
    """
    if client.is_superuser and not _other_operators(client):
        raise LastOperator()
    devices.forget_all(client_id=client.pk)
    keys.revoke_all(client_id=client.pk, reason="The account was closed.", now=now)
    Client.objects.filter(pk=client.pk, closed_at=None).update(
        # With a colon, which nobody can register a name or an address with.
        username=f"closed:{client.pk}",
        email=f"closed:{client.pk}@closed.invalid",
        password="!",  # noqa: S106 - what Django calls an unusable password
        first_name="",
        last_name="",
        phone_no=None,
        user_image=0,
        ip=None,
        profile_image_url=None,
        google_subject=None,
        provider_status=ProviderStatus.NONE,
        provider_reason="",
        is_active=False,
        is_staff=False,
        is_superuser=False,
        email_confirmed_at=None,
        closed_at=now,
    )
    # Whose address it is tells whose account it was; and who has it may link it elsewhere.
    Wallet.objects.filter(client=client).delete()
    announce_change(client.pk)


def check_password(password: str, client: Client, *, field: str) -> None:
    """Raises WeakPassword, with Django's sentences under the name of the request's field."""
    try:
        password_validation.validate_password(password, client)
    except ValidationError as error:
        raise WeakPassword(fields={field: error.messages}) from None


def announce_change(client_id: int) -> None:
    """Once committed, tell all processes to forget what they know of this account."""
    transaction.on_commit(lambda: announce("credentials", f"client:{client_id}"))


def _check_username(username: str) -> None:
    if "@" in username:
        # It would look like somebody's address to a person, and to Basic authentication.
        raise BadUsername(fields={"username": ["A username cannot contain “@”."]})
    if username.strip().lower() == house.USERNAME:
        # Names of models that are trained for chains have it.
        raise BadUsername(fields={"username": ["This username is the marketplace's own."]})


def _other_operators(client: Client) -> bool:
    # Locked, so that the last two operators cannot close their accounts at the same moment.
    operators = Client.objects.select_for_update().filter(is_superuser=True, is_active=True).order_by("pk")
    return any(operator.pk != client.pk for operator in operators)


_TAKEN = {
    "client_email_unique": ("email", "A user with that e-mail address already exists."),
    "clients_client_username_key": ("username", "A user with that username already exists."),
    "clients_client_google_subject_key": ("token", "This Google account belongs to another user."),
}


@contextmanager
def _taken() -> Iterator[None]:
    """Say in our own words which of the database's unique constraints was hit."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        constraint = getattr(getattr(error.__cause__, "diag", None), "constraint_name", None)
        if constraint not in _TAKEN:
            raise
        field, sentence = _TAKEN[constraint]
        raise Taken(sentence, fields={field: [sentence]}) from None
