"""Whose signature it is, and that nobody learns the key."""

import json
import traceback
from pathlib import Path

import pytest
from eth_account import Account

from chain.client import keys
from chain.client.errors import ChainError, InvalidKey, MissingKey

KEY = "0x" + "4f" * 32
ADDRESS = Account.from_key(KEY).address


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    path = tmp_path / "alice.json"
    path.write_text(json.dumps(Account.encrypt(KEY, "open sesame", kdf="pbkdf2", iterations=1000)))
    return path


@pytest.mark.parametrize("key", [KEY, KEY[2:], f"  {KEY}\n", bytes.fromhex(KEY[2:]), Account.from_key(KEY)])
def test_a_key_may_be_given_in_every_common_form(key: keys.PrivateKey) -> None:
    assert keys.account(key).address == ADDRESS


def test_the_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_PRIVATE_KEY", "0x" + "11" * 32)

    assert keys.account(KEY).address == ADDRESS
    assert keys.account(None).address != ADDRESS


def test_roles_have_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_PRIVATE_KEY", KEY)

    assert keys.account(None, role="PROVIDER").address == ADDRESS
    with pytest.raises(MissingKey):
        keys.account(None)


def test_a_keystore_file_is_opened(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_KEYSTORE", str(keystore))
    monkeypatch.setenv("CLIENT_KEYSTORE_PASSWORD", "open sesame")

    assert keys.account(None).address == ADDRESS


def test_a_wrong_password_is_told_without_it(keystore: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_KEYSTORE", str(keystore))
    monkeypatch.setenv("CLIENT_KEYSTORE_PASSWORD", "guess")

    with pytest.raises(InvalidKey) as caught:
        keys.account(None)
    assert "guess" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("content", ["", "[]", '{"version": 3}', "not json"])
def test_a_file_that_is_no_keystore_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "k.json"
    path.write_text(content)

    with pytest.raises(InvalidKey):
        keys.from_keystore(path, "x")
    with pytest.raises(InvalidKey):
        keys.from_keystore(tmp_path / "missing", "x")


@pytest.mark.parametrize("key", ["0xsecret", "0x" + "00" * 32, "0x" + "ff" * 33, b"secret", "0x" + "ff" * 32])
def test_a_key_that_is_none_is_told_without_it(key: str | bytes) -> None:
    with pytest.raises(InvalidKey) as caught:
        keys.account(key)

    text = "".join(traceback.format_exception(caught.value))
    assert "secret" not in text
    assert "ffffff" not in text
    assert isinstance(caught.value, ChainError | ValueError)


def test_an_account_does_not_show_its_key() -> None:
    assert "4f4f4f" not in repr(keys.account(KEY))
