"""The marketplace's key, which signs receipts."""

import hmac
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils.crypto import salted_hmac
from eth_account import Account
from eth_account.messages import SignableMessage
from eth_account.signers.local import LocalAccount
from eth_typing import Hash32


def signer() -> str:
    """The address of the key, for everybody to know."""
    return str(_key(settings.RECEIPT_KEY, settings.SECRET_KEY).address)


def sign(message: SignableMessage) -> str:
    """The marketplace's signature, 0x and 130 digits; always the same for the same message (RFC 6979)."""
    made = _key(settings.RECEIPT_KEY, settings.SECRET_KEY).sign_message(message)
    return f"0x{bytes(made.signature).hex()}"


def sign_hash(hashed: bytes) -> bytes:
    """The marketplace's signature of 32 bytes as they are: r, s, and a v of 0 or 1; always the same for the same."""
    made = _key(settings.RECEIPT_KEY, settings.SECRET_KEY).unsafe_sign_hash(Hash32(hashed))
    return bytes(made.signature[:64]) + bytes([made.v - 27])


def secret(purpose: str) -> bytes:
    """32 bytes that only the holder of the key can work out, another value for each purpose."""
    key = bytes(_key(settings.RECEIPT_KEY, settings.SECRET_KEY).key)
    return hmac.digest(key, purpose.encode(), "sha256")


@lru_cache(maxsize=2)
def _key(own: str, secret: str) -> LocalAccount:
    from_key: Callable[[Any], LocalAccount] = Account.from_key
    derived = salted_hmac("inference.signing", "receipts", secret=secret, algorithm="sha256").digest()
    return from_key(own or derived)
