"""The marketplace's own account: what chains want done is asked of our nodes in its name.

Nobody can log in to it: it has no password and no address, and is blocked. Its token follows from SECRET_KEY, so that
this marketplace's processes know it, and nobody else. What it asks for is placed, metered and recorded like everything
else, and costs nothing at that moment: the chain pays for it when it has confirmed the answer.
"""

from __future__ import annotations

import secrets

from django.db import IntegrityError, transaction
from django.utils.crypto import constant_time_compare, salted_hmac

from clients.credentials import Principal
from clients.models import Client

# Nobody else may call themselves so (`accounts`).
USERNAME = "onchain"
# What the account is known by: with a colon, which nobody can register an address with.
_EMAIL = "house:onchain@house.invalid"
_PREFIX = "house-"
VIA = "house"


def account() -> Client:
    """The account's row, made where it is missing."""
    found = Client.objects.filter(email=_EMAIL).first()
    # Somebody may have had the name before it was reserved.
    for username in (USERNAME, f"{USERNAME}-{secrets.token_hex(4)}"):
        found = found or _made(username)
    assert found is not None
    return found


def _made(username: str) -> Client | None:
    try:
        with transaction.atomic():
            return Client.objects.create_user(username, _EMAIL, password=None, is_active=False)
    except IntegrityError:
        # The name is taken, or another process was quicker.
        return Client.objects.filter(email=_EMAIL).first()


def is_house(client: Client) -> bool:
    return client.email == _EMAIL


def token() -> str:
    """What speaks for the account in this marketplace's own API, as `Authorization: Bearer …`."""
    return _PREFIX + salted_hmac("clients.house", "token", algorithm="sha256").hexdigest()


def recognise(authorization: str) -> Principal | None:
    """The account's principal, where a header's value is its token."""
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not constant_time_compare(value.strip(), token()):
        return None
    house = account()
    return Principal(client_id=house.pk, username=house.username, is_staff=False, via=VIA, pays=False)
