"""clients.credentials.identify: whose secret it is."""

import base64
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from clients import allowances, credentials, devices, keys, lockout
from clients.credentials import identify
from clients.models import ApiKey, Token

NOW = timezone.now()


def device(person: Any) -> str:
    return devices.log_in(person, ip="192.0.2.1", user_agent="test", now=NOW).token


def basic(login: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


def test_secrets_are_long_and_only_their_digest_tells_them_apart():
    secret = credentials.new_secret("sk-")
    assert secret.startswith("sk-")
    assert len(secret) >= 43
    assert secret.isascii()
    assert credentials.digest(secret) != credentials.digest(credentials.new_secret("sk-"))
    assert len(credentials.digest(secret)) == 64


@pytest.mark.parametrize("scheme", ["Token", "token", "Bearer", "BEARER"])
def test_a_device_token_speaks_for_its_account(alice, scheme):
    found = identify(f"{scheme} {device(alice)}", now=NOW)
    assert (found.client_id, found.username, found.via) == (alice.pk, "alice", "device")
    assert found.token_id == Token.objects.get().pk
    assert found.expires_at == Token.objects.get().expires_at


def test_an_api_key_brings_its_limits(alice):
    made = keys.create(alice, name="k", allowed_models=["tiny"], requests_per_minute=7)
    found = identify(f"Bearer {made.key}", now=NOW)
    assert (found.client_id, found.via, found.api_key_id) == (alice.pk, "api_key", made.row.pk)
    assert (found.allowed_models, found.limited) == (("tiny",), True)
    assert (found.ceiling_input, found.ceiling_output, found.ceiling_request) == (None, None, None)


def test_of_two_maximum_prices_the_lower_holds(alice):
    made = keys.create(alice, name="k", max_input_price=5, max_output_price=6)
    allowances.change(
        client_id=alice.pk, limits={"max_input_price": 9, "max_output_price": 0, "max_request_price": 7}
    )
    found = identify(f"Bearer {made.key}", now=NOW)
    assert (found.ceiling_input, found.ceiling_output, found.ceiling_request) == (5, 0, 7)
    own = identify(f"Token {device(alice)}", now=NOW)
    assert (own.ceiling_input, own.ceiling_output, own.ceiling_request) == (9, 0, 7)


def test_limits_of_one_key_are_not_anothers(alice, bob):
    keys.create(alice, name="limited", max_input_price=5)
    other = identify(f"Bearer {keys.create(alice, name='other').key}", now=NOW)
    assert (other.limited, other.ceiling_input) == (True, None)
    assert identify(f"Token {device(bob)}", now=NOW).limited is False


def test_an_access_token_has_the_limits_of_its_key(alice):
    made = keys.create(alice, name="k", allowed_models=["tiny"], max_input_price=7)
    token = keys.exchange(key=made.key, secret=made.secret, now=NOW)
    found = identify(f"Bearer {token}", now=NOW)
    assert (found.via, found.api_key_id, found.allowed_models) == ("access", made.row.pk, ("tiny",))
    assert found.ceiling_input == 7


@pytest.mark.parametrize("name", ["alice@example.com", "ALICE@example.com", "alice"])
def test_basic_takes_the_address_or_the_username(alice, name):
    assert identify(basic(name, "correct horse battery"), now=NOW).via == "basic"


def test_basic_locks_out_whoever_guesses(alice):
    for _ in range(5):
        with pytest.raises((lockout.BadCredentials, lockout.LockedOut)):
            identify(basic("alice", "wrong"), now=NOW, ip="192.0.2.7")
    with pytest.raises(lockout.LockedOut):
        identify(basic("alice", "correct horse battery"), now=NOW, ip="192.0.2.7")
    assert identify(basic("alice", "correct horse battery"), now=NOW, ip="192.0.2.8").client_id == alice.pk


@pytest.mark.parametrize("login", ["x" * 3000, "x" * 2000 + "@example.com", "?", "\u202e", "@"])
def test_odd_names_are_wrong_credentials(db, login):
    with pytest.raises(lockout.BadCredentials):
        identify(basic(login, "wrong"), now=NOW)


def test_nothing_is_a_missing_credential(db):
    with pytest.raises(credentials.MissingCredential):
        identify("  ", now=NOW)


@pytest.mark.parametrize(
    "header",
    [
        "Token",
        "Digest abc",
        "just-a-token",
        "Basic ###",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Basic " + base64.b64encode(b"al\0ice:x").decode(),
        "Token " + "x" * 5000,
    ],
)
def test_what_cannot_be_read_is_named_so(db, header):
    with pytest.raises(credentials.MalformedCredential):
        identify(header, now=NOW)


@pytest.mark.parametrize("header", ["Token mt-nope", "Bearer sk-nope", "Bearer \xe9\xff", "Token a b"])
def test_what_nobody_has_is_unknown(db, header):
    with pytest.raises(credentials.UnknownCredential):
        identify(header, now=NOW)


def test_a_token_ends(alice):
    token = device(alice)
    end = Token.objects.get().expires_at
    identify(f"Token {token}", now=end - timedelta(seconds=1))
    with pytest.raises(credentials.ExpiredCredential):
        identify(f"Token {token}", now=end)


def test_an_api_key_ends(alice):
    made = keys.create(alice, name="k", expires_at=NOW + timedelta(hours=1))
    identify(f"Bearer {made.key}", now=NOW)
    with pytest.raises(credentials.ExpiredCredential):
        identify(f"Bearer {made.key}", now=NOW + timedelta(hours=1))


def test_an_access_token_does_not_outlive_its_key(alice):
    made = keys.create(alice, name="k", expires_at=NOW + timedelta(minutes=5))
    token = keys.exchange(key=made.key, secret=made.secret, now=NOW)
    with pytest.raises(credentials.ExpiredCredential):
        identify(f"Bearer {token}", now=NOW + timedelta(minutes=6))


def test_a_revoked_key_is_gone_with_what_it_was_exchanged_for(alice):
    made = keys.create(alice, name="k")
    token = keys.exchange(key=made.key, secret=made.secret, now=NOW)
    keys.revoke(made.row, now=NOW)
    for value in (made.key, token):
        with pytest.raises(credentials.UnknownCredential):
            identify(f"Bearer {value}", now=NOW)


def test_a_blocked_account_has_no_valid_credential(alice):
    made, token = keys.create(alice, name="k"), device(alice)
    alice.is_active = False
    alice.save()
    for header in (f"Bearer {made.key}", f"Token {token}"):
        with pytest.raises(credentials.InactiveAccount):
            identify(header, now=NOW)
    with pytest.raises(lockout.BadCredentials):
        identify(basic("alice", "correct horse battery"), now=NOW)


def test_last_use_is_written_once_a_minute(alice, django_assert_num_queries):
    made = keys.create(alice, name="k")
    identify(f"Bearer {made.key}", now=NOW)
    assert ApiKey.objects.get().last_used_at == NOW
    with django_assert_num_queries(2):  # the key and its owner; whether they have limits
        identify(f"Bearer {made.key}", now=NOW + timedelta(seconds=59))
    assert ApiKey.objects.get().last_used_at == NOW
    identify(f"Bearer {made.key}", now=NOW + timedelta(seconds=60))
    assert ApiKey.objects.get().last_used_at == NOW + timedelta(seconds=60)


def test_no_secret_is_stored(alice):
    made, token = keys.create(alice, name="k"), device(alice)
    stored = repr(list(ApiKey.objects.values())) + repr(list(Token.objects.values()))
    assert not any(secret in stored for secret in (made.key, made.secret, token))
