"""The only module that holds the keys which the marketplace signs transactions with.

A key comes from the settings, as it is or as an encrypted keystore file, and stays in this process: nothing here shows
it, stores it, or lets it stand in an error or a traceback.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils import to_checksum_address

from marketplace.errors import Unavailable

_PLAIN = re.compile(r"(?:0x)?[0-9a-fA-F]{64}")


class NoKey(Unavailable):
    """There is no key for this address, or no key at all; the sentence says what to set."""

    code = "no_chain_key"
    message = "This marketplace has no key to send transactions with. Set CHAIN_KEY."


class BadKey(NoKey):
    """A setting holds something that is no key. What it holds is not repeated."""

    code = "bad_chain_key"


class CannotSign(ValueError):
    """A transaction that no chain can have, such as one with a negative value."""


@dataclass(frozen=True, slots=True)
class SignedForm:
    """A signed transaction: its bytes, and the hash that chains know it by (0x…, lower case)."""

    raw: bytes
    hash: str


def operator_address() -> str:
    """Of CHAIN_KEY, with its checksum. Raises NoKey, BadKey."""
    return str(_signer("CHAIN_KEY").address)


def provider_address() -> str:
    """Of CHAIN_PROVIDER_KEY, else the operator's. Raises NoKey, BadKey."""
    return str(_signer(_provider_setting()).address)


def addresses() -> list[str]:
    """All that this process can sign for, the operator's first. Raises BadKey."""
    names = [name for name in ("CHAIN_KEY", "CHAIN_PROVIDER_KEY") if getattr(settings, name)]
    return list(dict.fromkeys(str(_signer(name).address) for name in names))


def sign(address: str, transaction: dict[str, Any]) -> SignedForm:
    """Sign a transaction (with its nonce, fees and chainId) for one of `addresses`. Raises NoKey, CannotSign."""
    signer = _of(address)
    problem = ""
    try:
        made = signer.sign_transaction(transaction)
        return SignedForm(bytes(made.raw_transaction), "0x" + bytes(made.hash).hex())
    except Exception as error:  # noqa: BLE001 - whatever it is, the key stands in its frames
        problem = type(error).__name__
    # Outside of the handler: what the library was doing, with the key in its hands, is no part of this error.
    raise CannotSign(f"This transaction cannot be signed: {problem}.")


def _of(address: str) -> LocalAccount:
    wanted = to_checksum_address(address)
    for name in ("CHAIN_KEY", "CHAIN_PROVIDER_KEY"):
        if getattr(settings, name):
            signer = _signer(name)
            if signer.address == wanted:
                return signer
    raise NoKey(f"The key of {wanted} is neither CHAIN_KEY nor CHAIN_PROVIDER_KEY.")


def _provider_setting() -> str:
    return "CHAIN_PROVIDER_KEY" if settings.CHAIN_PROVIDER_KEY else "CHAIN_KEY"


def _signer(name: str) -> LocalAccount:
    """The signer of a setting. No frame of what is raised here holds a key."""
    if not getattr(settings, name):
        raise NoKey()
    found = _loaded(name, _Hidden(getattr(settings, name)), _Hidden(getattr(settings, _password_of(name))))
    if isinstance(found, LocalAccount):
        return found
    raise BadKey(f"{name} {found}")


def _password_of(name: str) -> str:
    return name.replace("_KEY", "_KEYSTORE_PASSWORD")


class _Hidden(str):
    """A text that does not show itself where it is printed as a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"


@lru_cache(maxsize=8)
def _loaded(name: str, value: _Hidden, password: _Hidden) -> LocalAccount | str:
    """The signer, or what is wrong in words. Once per process: opening a keystore takes a second."""
    if _PLAIN.fullmatch(value.strip()):
        return _from_bytes(bytes.fromhex(value.strip().removeprefix("0x")))
    if "\n" in value or len(value) > 4096:
        return _EXPECTED
    try:
        keystore = json.loads(Path(value.strip()).read_text(encoding="utf-8"))
    except OSError:
        return f"{_EXPECTED} If it is a path: there is no such file, or it cannot be read."
    except ValueError:
        return "is the path of a file that is not an encrypted keystore (JSON)."
    try:
        return _from_bytes(bytes(Account.decrypt(keystore, password)))
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"is a keystore that {_password_of(name)} does not open."


_EXPECTED = "is neither 0x and 64 hexadecimal digits nor the path of an encrypted keystore file."


def _from_bytes(secret: bytes) -> LocalAccount | str:
    try:
        signer: LocalAccount = Account.from_key(secret)
    except ValueError:  # 0, or beyond the order of the curve
        return "is 32 bytes that cannot be a key."
    return signer
