"""Forgotten passwords: a link by e-mail, good once."""

from datetime import datetime

from django.conf import settings
from django.contrib.auth.tokens import default_token_generator
from django.core.mail import send_mail
from django.db import transaction
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_decode, urlsafe_base64_encode

from clients import accounts, devices, lockout
from clients.models import Client
from marketplace.errors import InvalidRequest


class BadResetLink(InvalidRequest):
    code = "bad_reset_link"
    message = "This link is not valid: it was used, has expired, or was not copied whole. Ask for a new one."


def send_reset(*, email: str) -> bool:
    """Send the link to the account with this address, if there is one. Says whether there was."""
    client = Client.objects.by_email(email)
    if client is None or not client.is_active:
        return False
    link = settings.PASSWORD_RESET_URL.format(
        uid=_uid(client), token=default_token_generator.make_token(client)
    )
    # To the stored address, not to the typed one: lookalike letters must not redirect it.
    send_mail(
        subject=f"Set a new password for {settings.MARKETPLACE_NAME}",
        message=_MESSAGE.format(name=client.username, link=link, marketplace=settings.MARKETPLACE_NAME),
        from_email=None,
        recipient_list=[client.email],
    )
    return True


@transaction.atomic
def reset(*, uid: str, token: str, password: str, now: datetime) -> Client:
    """Set a new password with the link's two parts; log every device out.

    The address counts as confirmed. Raises BadResetLink, also for the second use; accounts.WeakPassword.
    """
    client = _locked(uid)
    if client is None or not client.is_active or not default_token_generator.check_token(client, token):
        raise BadResetLink()
    accounts.check_password(password, client, field="new_password")
    client.set_password(password)
    client.email_confirmed_at = now
    client.save(update_fields=["password", "email_confirmed_at"])
    devices.forget_all(client_id=client.pk)
    lockout.forgive(username=client.username)
    accounts.announce_change(client.pk)
    return client


_MESSAGE = """Hello {name},

somebody, probably you, asked to set a new password for your account at {marketplace}:

{link}

The link works once. If it was not you, nothing has changed and you need not do anything.
"""


def _uid(client: Client) -> str:
    return urlsafe_base64_encode(force_bytes(client.pk))


def _locked(uid: str) -> Client | None:
    try:
        pk = int(urlsafe_base64_decode(uid))
    except ValueError:
        return None
    # Locked, so that a link used twice at one moment works once.
    return Client.objects.select_for_update(no_key=True).filter(pk=pk).first()
