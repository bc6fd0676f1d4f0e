"""Keys stay where they are: nothing shows them, and a wrong setting is told without repeating it."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from chain import keys

SECRET = "0x" + "5d" * 32
ADDRESS = Account.from_key(SECRET).address


@pytest.fixture(autouse=True)
def _no_keys(settings: Any) -> None:
    settings.CHAIN_KEY = settings.CHAIN_PROVIDER_KEY = ""
    settings.CHAIN_KEYSTORE_PASSWORD = settings.CHAIN_PROVIDER_KEYSTORE_PASSWORD = ""
    keys._loaded.cache_clear()


def _transaction(**changed: Any) -> dict[str, Any]:
    return {
        "type": 2, "chainId": 5, "nonce": 0, "to": ADDRESS, "value": 1, "data": "0x", "gas": 21_000,
        "maxFeePerGas": 10, "maxPriorityFeePerGas": 1,
    } | changed  # fmt: skip


def _everything_said(error: BaseException) -> str:
    """The error with all that a debugger or an error report would show: its chain, and the variables of all frames."""
    shown, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        shown += [str(error), repr(error), repr(error.args), repr(vars(error))]
        shown += traceback.format_exception(error)
        # The test itself knows the key.
        frame = error.__traceback__.tb_next if error.__traceback__ else None
        while frame is not None:
            shown += [repr(value) for value in frame.tb_frame.f_locals.values()]
            frame = frame.tb_next
        error = error.__context__ or error.__cause__
    return "\n".join(shown)


@pytest.mark.parametrize("value", [SECRET, SECRET[2:], f" {SECRET}\n"])
def test_a_plain_key(settings: Any, value: str) -> None:
    settings.CHAIN_KEY = value
    assert keys.operator_address() == ADDRESS
    assert keys.provider_address() == ADDRESS
    assert keys.addresses() == [ADDRESS]


def test_an_encrypted_keystore_is_opened_once(settings: Any, tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps(Account.encrypt(SECRET, "secret words", kdf="pbkdf2", iterations=2)))
    settings.CHAIN_PROVIDER_KEY, settings.CHAIN_PROVIDER_KEYSTORE_PASSWORD = str(file), "secret words"
    opened: list[int] = []
    real = Account.decrypt
    monkeypatch.setattr(Account, "decrypt", lambda *given: opened.append(1) or real(*given))
    for _ in range(3):
        assert keys.provider_address() == ADDRESS
    assert opened == [1]
    with pytest.raises(keys.NoKey, match="Set CHAIN_KEY"):
        keys.operator_address()


def test_no_key_says_what_to_set() -> None:
    with pytest.raises(keys.NoKey, match="CHAIN_KEY"):
        keys.operator_address()
    with pytest.raises(keys.NoKey):
        keys.provider_address()
    assert keys.addresses() == []


@pytest.mark.parametrize(
    "value",
    [
        "0x" + "5d" * 31,
        "0x" + "5d" * 31 + "5",
        "0x" + "00" * 32,
        "0x" + "ff" * 32,
        "/nowhere/key.json",
        "5d" * 5000,
    ],
)
def test_a_wrong_value_is_told_without_repeating_it(settings: Any, value: str) -> None:
    settings.CHAIN_KEY = value
    with pytest.raises(keys.BadKey, match="CHAIN_KEY") as refused:
        keys.operator_address()
    assert value not in _everything_said(refused.value)


def test_a_file_that_is_no_keystore_and_a_wrong_password_are_told_apart(
    settings: Any, tmp_path: Path
) -> None:
    file = tmp_path / "key.json"
    file.write_text("not JSON")
    settings.CHAIN_KEY = str(file)
    with pytest.raises(keys.BadKey, match="not an encrypted keystore"):
        keys.operator_address()
    other = tmp_path / "other.json"
    other.write_text(json.dumps(Account.encrypt(SECRET, "right", kdf="pbkdf2", iterations=2)))
    settings.CHAIN_KEY, settings.CHAIN_KEYSTORE_PASSWORD = str(other), "wrong words"
    with pytest.raises(keys.BadKey, match="CHAIN_KEYSTORE_PASSWORD does not open") as refused:
        keys.operator_address()
    assert "wrong words" not in _everything_said(refused.value)


def test_what_is_signed_is_signed_by_the_right_key(settings: Any) -> None:
    settings.CHAIN_KEY, settings.CHAIN_PROVIDER_KEY = "0x" + "11" * 32, SECRET
    made = keys.sign(ADDRESS.lower(), _transaction())
    assert Account.recover_transaction(made.raw) == ADDRESS
    assert made.hash == "0x" + bytes(Account.from_key(SECRET).sign_transaction(_transaction()).hash).hex()
    with pytest.raises(keys.NoKey):
        keys.sign("0x" + "22" * 20, _transaction())


@pytest.mark.parametrize("changed", [{"value": -1}, {"gas": None}, {"to": "rubbish"}, {"nonce": "x"}])
def test_what_cannot_be_signed_does_not_show_the_key(settings: Any, changed: dict[str, Any]) -> None:
    settings.CHAIN_KEY = SECRET
    with pytest.raises(keys.CannotSign) as refused:
        keys.sign(ADDRESS, _transaction(**changed))
    said = _everything_said(refused.value)
    assert "5d5d5d5d" not in said
    assert repr(bytes.fromhex(SECRET[2:])) not in said


def test_the_signer_and_what_the_module_keeps_do_not_show_the_key(settings: Any) -> None:
    settings.CHAIN_KEY = SECRET
    keys.operator_address()
    shown = repr(keys._signer("CHAIN_KEY")) + repr(vars(keys)) + repr(keys._Hidden(SECRET))
    assert "5d5d5d5d" not in shown
