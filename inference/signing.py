"""The marketplace's key, which signs receipts."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils.crypto import salted_hmac
from eth_account import Account
from eth_account.messages import SignableMessage
from eth_account.signers.local import LocalAccount


def signer() -> str:
    """The address of the key, for everybody to know."""
    return str(_key(settings.RECEIPT_KEY, settings.SECRET_KEY).address)


def sign(message: SignableMessage) -> str:
    """The marketplace's signature, 0x and 130 digits; always the same for the same message (RFC 6979)."""
    made = _key(settings.RECEIPT_KEY, settings.SECRET_KEY).sign_message(message)
    return f"0x{bytes(made.signature).hex()}"


@lru_cache(maxsize=2)
def _key(own: str, secret: str) -> LocalAccount:
    from_key: Callable[[Any], LocalAccount] = Account.from_key
    derived = salted_hmac("inference.signing", "receipts", secret=secret, algorithm="sha256").digest()
    return from_key(own or derived)
