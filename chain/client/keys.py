"""Whose signature: a key given, one in the environment, or an encrypted keystore file."""

import json
import os
import threading
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount

from chain.client.errors import InvalidKey, MissingKey

# What may be given as `private_key`: hex with or without 0x, 32 bytes, or an account that web3 made.
PrivateKey = str | bytes | LocalAccount

_lock = threading.Lock()
# Opening a keystore is slow on purpose; done once for each state of the file.
_opened: dict[tuple[str, int, str], LocalAccount] = {}


def account(private_key: PrivateKey | None, *, role: str = "CLIENT") -> LocalAccount:
    """The account that signs.

    Of the argument, else {role}_PRIVATE_KEY, else {role}_KEYSTORE with {role}_KEYSTORE_PASSWORD.

    Raises `MissingKey`, `InvalidKey`; neither says a word of what the key is.
    """
    if isinstance(private_key, LocalAccount):
        return private_key
    given = private_key or os.environ.get(f"{role}_PRIVATE_KEY")
    if given:
        return _from_key(given)
    keystore = os.environ.get(f"{role}_KEYSTORE")
    if keystore:
        return from_keystore(keystore, os.environ.get(f"{role}_KEYSTORE_PASSWORD", ""))
    raise MissingKey(role)


def _from_key(key: str | bytes) -> LocalAccount:
    if not isinstance(key, str | bytes):
        raise InvalidKey(f"A private key is a string or bytes, not {type(key).__name__}.")
    try:
        found: LocalAccount = Account.from_key(key.strip() if isinstance(key, str) else key)
    except Exception:  # noqa: BLE001 — whatever it is, its text may hold the key
        raise InvalidKey("The private key is not a valid one: 32 bytes, or 64 hexadecimal digits.") from None
    return found


def from_keystore(path: str | Path, password: str) -> LocalAccount:
    """The account of an encrypted file as geth and eth-account write them (Web3 Secret Storage, version 3)."""
    try:
        key = (str(Path(path).resolve()), Path(path).stat().st_mtime_ns, password)
        with _lock:
            if key not in _opened:
                _opened[key] = _from_key(Account.decrypt(_keystore(path), password))
            return _opened[key]
    except OSError as error:
        raise InvalidKey(f"The keystore {path} cannot be read ({type(error).__name__}).") from None
    except (ValueError, KeyError, TypeError):
        raise InvalidKey(
            f"The keystore {path} cannot be opened: wrong password, or not a keystore."
        ) from None


def _keystore(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())
