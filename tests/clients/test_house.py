"""The marketplace's own account: nobody gets in, nobody gets its token, nobody takes its name."""

import base64
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from clients import accounts, credentials, devices, house, keys, lockout, passwords, transfers
from clients.credentials import InactiveAccount, Principal, UnknownCredential
from clients.models import Client, Token, TokenKind

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def identify(authorization: str) -> Principal:
    """As the hot path does."""
    return house.recognise(authorization) or credentials.identify(authorization, now=NOW)


def test_it_is_one_account_however_often_it_is_asked_for() -> None:
    assert house.account() == house.account()
    assert house.account().username == "onchain"
    assert Client.objects.count() == 1


def test_its_token_speaks_for_it_on_the_hot_path_and_is_not_charged() -> None:
    found = identify(f"Bearer {house.token()}")
    assert (found.client_id, found.via, found.pays, found.is_staff) == (
        house.account().pk,
        "house",
        False,
        False,
    )


def test_everybody_else_pays(alice: Client) -> None:
    key = keys.create(alice, name="mine").key
    login = devices.log_in(alice, ip=None, user_agent="", now=NOW)
    basic = base64.b64encode(b"alice:correct horse battery").decode()
    for authorization in (f"Bearer {key}", f"Bearer {login.token}", f"Token {login.token}", f"Basic {basic}"):
        found = identify(authorization)
        assert found.pays
        assert found.client_id == alice.pk
    assert credentials.of_session(alice).pays


def test_django_views_do_not_know_its_token(api: Any) -> None:
    with pytest.raises(UnknownCredential):
        credentials.recognise(f"Bearer {house.token()}", now=NOW)
    client = api()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {house.token()}")
    assert client.get("/client/api-keys/").status_code == 401
    assert client.post("/client/api-keys/", {"name": "x"}).status_code == 401


@pytest.mark.parametrize("wrong", ["", "house-", "house-00", house._PREFIX + "0" * 64])
def test_no_other_token_is_taken_for_it(wrong: str) -> None:
    assert house.recognise(f"Bearer {wrong}") is None


def test_only_bearer_is_taken() -> None:
    assert house.recognise(f"Token {house.token()}") is None
    assert house.recognise(f"Basic {house.token()}") is None
    assert house.recognise("") is None


def test_another_secret_key_has_another_token(settings: Any) -> None:
    before = house.token()
    settings.SECRET_KEY = "another-another-another-another-another-another"
    assert house.token() != before
    assert house.recognise(f"Bearer {before}") is None


def test_a_token_of_the_kind_in_the_database_pays_all_the_same(alice: Client) -> None:
    """Whatever somebody writes into the rows of tokens, no row makes a caller that does not pay."""
    Token.objects.create(
        client=house.account(), kind=TokenKind.DEVICE, prefix="house-", expires_at=NOW + timedelta(days=1),
        digest=credentials.digest("house-mine"),
    )  # fmt: skip
    with pytest.raises(InactiveAccount):
        identify("Bearer house-mine")


def test_nobody_can_log_in_to_it() -> None:
    own = house.account()
    assert not own.is_active
    assert not own.has_usable_password()
    for login in (own.username, own.email):
        basic = base64.b64encode(f"{login}:".encode() + b"x").decode()
        with pytest.raises(lockout.BadCredentials):
            credentials.recognise(f"Basic {basic}", now=NOW)
    assert not passwords.send_reset(email=own.email)


@pytest.mark.parametrize("name", ["onchain", "OnChain", " onchain "])
def test_its_name_is_reserved(name: str, alice: Client) -> None:
    with pytest.raises(accounts.BadUsername):
        accounts.create(username=name, email="x@example.com")
    with pytest.raises(accounts.BadUsername):
        accounts.update(alice, changes={"username": name})


def test_who_had_its_name_before_keeps_it_and_goes_on_paying() -> None:
    before = Client.objects.create_user("onchain", "early@example.com", "correct horse battery")
    own = house.account()
    assert own.pk != before.pk
    assert own.username.startswith("onchain-")
    assert not house.is_house(before)


def test_its_address_is_none_that_anybody_can_register(api: Any) -> None:
    said = {"username": "mallory", "email": house._EMAIL, "password": "correct horse battery"}
    assert api().post("/client/register/", said).status_code == 400
    assert not Client.objects.filter(username="mallory").exists()


def test_nobody_sends_it_money() -> None:
    with pytest.raises(transfers.UnknownRecipient):
        transfers.recipient(house.account().username)


def test_operators_cannot_change_it(client: Any, operator: Client) -> None:
    client.force_login(operator)
    page = f"/admin/clients/client/{house.account().pk}/change/"
    assert client.post(page, {"is_active": "on", "username": "x"}).status_code == 403
    own = house.account()
    assert (own.username, own.is_active) == ("onchain", False)
