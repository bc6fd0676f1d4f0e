"""/client/wallets/"""

import re

import pytest
import redis
from django.core.cache import cache
from django.utils import timezone
from eth_account import Account as Signer
from eth_account.messages import encode_defunct

from clients import accounts, keys, wallets
from clients.models import Wallet
from tests.clients.conftest import ODD_VALUES

PATH = "/client/wallets/"
CHALLENGE = "/client/wallets/challenge/"
MINE = Signer.from_key("0x" + "11" * 32)
OTHER = Signer.from_key("0x" + "22" * 32)


def challenge(api, person, signer=MINE):
    reply = api(person).post(CHALLENGE, {"address": signer.address})
    assert reply.status_code == 200, reply.json()
    return reply.json()["message"]


def sign(message, signer=MINE):
    return "0x" + signer.sign_message(encode_defunct(text=message)).signature.hex()


def link(api, person, signer=MINE):
    message = challenge(api, person, signer)
    return api(person).post(PATH, {"message": message, "signature": sign(message, signer)})


def test_the_message_says_what_is_signed(api, alice, settings):
    settings.PUBLIC_URL = "https://market.example:8443"
    reply = api(alice).post(CHALLENGE, {"address": MINE.address.lower(), "chain_id": 137})
    assert reply.json()["expires_in"] == 600
    lines = reply.json()["message"].split("\n")
    assert lines[0] == "market.example:8443 wants you to sign in with your Ethereum account:"
    assert lines[1] == MINE.address
    assert (lines[2], lines[4]) == ("", "")
    assert lines[3].startswith(f"Link this wallet to account {alice.pk} of {settings.MARKETPLACE_NAME}.")
    assert lines[5:8] == ["URI: https://market.example:8443", "Version: 1", "Chain ID: 137"]
    assert [line.split(": ")[0] for line in lines[8:]] == ["Nonce", "Issued At", "Expiration Time"]
    assert lines[9].endswith("Z")


# https://eips.ethereum.org/EIPS/eip-4361: statement = 1*( reserved / unreserved / " " ), as RFC 3986 has these.
STATEMENT = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;= ]+")


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("GPU marketplace", "GPU marketplace"),
        ("Märkte – 100% GPU", "Markte 100 GPU"),
        ('two\nlines "and" <more>', "two lines and more"),
        ("市場", "market.example"),
    ],
)
def test_a_strict_parser_takes_the_message_whatever_the_marketplace_is_called(
    api, alice, settings, name, stated
):
    settings.PUBLIC_URL, settings.MARKETPLACE_NAME = "https://market.example", name
    lines = challenge(api, alice).split("\n")

    assert [line.partition(":")[0] for line in lines[5:]] == [
        "URI", "Version", "Chain ID", "Nonce", "Issued At", "Expiration Time",
    ]  # fmt: skip
    assert (lines[2], lines[4]) == ("", "")
    assert STATEMENT.fullmatch(lines[3])
    assert f"of {stated}. This costs" in lines[3]


def test_an_account_may_have_several_wallets(api, alice):
    for wallet in (MINE, OTHER):
        assert link(api, alice, wallet).status_code == 201
    assert {each["address"] for each in api(alice).get(PATH).json()} == {
        MINE.address.lower(),
        OTHER.address.lower(),
    }


def test_whoever_signs_it_has_the_wallet(api, alice):
    reply = link(api, alice)
    assert reply.status_code == 201
    assert reply.json()["address"] == MINE.address.lower()
    assert api(alice).get(PATH).json() == [reply.json()]
    assert Wallet.objects.get().client == alice


def test_a_message_is_good_once(api, alice):
    message = challenge(api, alice)
    body = {"message": message, "signature": sign(message)}
    assert api(alice).post(PATH, body).status_code == 201
    Wallet.objects.all().delete()
    reply = api(alice).post(PATH, body)
    assert (reply.status_code, reply.json()["code"]) == (400, "unknown_challenge")
    assert not Wallet.objects.exists()


def test_it_does_not_live_long(api, alice):
    message = challenge(api, alice)
    cache.clear()
    reply = api(alice).post(PATH, {"message": message, "signature": sign(message)})
    assert reply.json()["code"] == "unknown_challenge"


def test_a_message_for_one_account_links_to_no_other(api, alice, charlie):
    message = challenge(api, alice)
    reply = api(charlie).post(PATH, {"message": message, "signature": sign(message)})
    assert reply.json()["code"] == "unknown_challenge"
    # Nor has it used up hers.
    assert api(alice).post(PATH, {"message": message, "signature": sign(message)}).status_code == 201


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(MINE.address, OTHER.address),
        lambda text: text.replace("Chain ID: 1", "Chain ID: 2"),
        lambda text: text + "\nResources:\n- https://elsewhere.example",
        lambda text: text.rstrip("Z"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: " " + text,
        lambda text: "no nonce here",
    ],
)
def test_another_text_than_ours_is_not_taken(api, alice, change):
    message = change(challenge(api, alice))
    for signer in (MINE, OTHER):
        reply = api(alice).post(PATH, {"message": message, "signature": sign(message, signer)})
        assert (reply.status_code, reply.json()["code"]) == (400, "unknown_challenge")


@pytest.mark.parametrize(
    "signature",
    [
        "0x",
        "0x" + "00" * 65,
        "0x" + "ff" * 65,
        "0x" + "11" * 64 + "05",
        "zz",
        "0x" + "11" * 66,
        sign("another text"),
    ],
)
def test_a_wrong_signature_links_nothing(api, alice, signature):
    reply = api(alice).post(PATH, {"message": challenge(api, alice), "signature": signature})
    assert reply.status_code == 400
    assert not Wallet.objects.exists()


def test_another_wallets_signature_links_nothing(api, alice):
    message = challenge(api, alice)
    reply = api(alice).post(PATH, {"message": message, "signature": sign(message, OTHER)})
    assert (reply.status_code, reply.json()["code"]) == (400, "wrong_signature")


def test_linking_again_changes_nothing(api, alice):
    assert link(api, alice).json() == link(api, alice).json()
    assert Wallet.objects.count() == 1


def test_a_wallet_belongs_to_one_account_at_a_time(api, alice, bob):
    link(api, alice)
    reply = link(api, bob)
    assert (reply.status_code, reply.json()["code"]) == (409, "wallet_taken")
    api(alice).delete(f"{PATH}{Wallet.objects.get().pk}/")
    assert link(api, bob).status_code == 201


def test_so_many_can_be_linked(api, alice, monkeypatch):
    monkeypatch.setattr(wallets, "MAX_WALLETS", 1)
    assert link(api, alice).status_code == 201
    assert link(api, alice, OTHER).status_code == 409
    assert link(api, alice).status_code == 201


def test_a_wallet_is_unlinked(api, alice):
    link(api, alice)
    pk = Wallet.objects.get().pk
    assert api(alice).delete(f"{PATH}{pk}/").status_code == 204
    assert api(alice).delete(f"{PATH}{pk}/").status_code == 404
    assert api(alice).get(PATH).json() == []


def test_somebody_elses_wallet_does_not_exist(api, alice, bob, operator):
    link(api, alice)
    for person in (bob, operator):
        assert api(person).get(PATH).json() == []
        assert api(person).delete(f"{PATH}{Wallet.objects.get().pk}/").status_code == 404


def test_an_api_key_may_only_look(api, alice, holder):
    link(api, alice)
    caller = holder(f"Bearer {keys.create(alice, name='k').key}")
    assert len(caller.get(PATH).json()) == 1
    assert caller.post(CHALLENGE, {"address": OTHER.address}).status_code == 403
    assert caller.post(PATH, {}).status_code == 403
    assert caller.delete(f"{PATH}{Wallet.objects.get().pk}/").status_code == 403


def test_a_closed_account_leaves_its_wallets(api, alice, bob):
    link(api, alice)
    accounts.close(alice, now=timezone.now())
    assert link(api, bob).status_code == 201


def test_without_the_cache_it_says_so(api, alice, monkeypatch):
    message = challenge(api, alice)

    def away(*args, **kwargs):
        raise redis.ConnectionError

    for name in ("get", "set"):
        monkeypatch.setattr(type(cache._connections["default"]), name, away)
    assert api(alice).post(CHALLENGE, {"address": MINE.address}).status_code == 503
    reply = api(alice).post(PATH, {"message": message, "signature": sign(message)})
    assert (reply.status_code, reply.json()["code"]) == (503, "cache_unavailable")


@pytest.mark.parametrize("value", [*ODD_VALUES, "0x" + "g" * 40, MINE.address[2:], MINE.address + "\n"])
def test_odd_values_are_the_callers_mistake(api, alice, value):
    assert api(alice).post(CHALLENGE, {"address": value}).status_code in (200, 400)
    assert api(alice).post(PATH, {"message": value, "signature": "0x"}).status_code == 400
    assert api(alice).post(PATH, {"message": "m", "signature": value}).status_code == 400
    chain = api(alice).post(CHALLENGE, {"address": MINE.address, "chain_id": value})
    assert chain.status_code in (200, 400)


def test_without_a_credential_nothing(api, db):
    assert api().get(PATH).status_code == api().post(PATH, {}).status_code == 401
    assert api().post(CHALLENGE, {}).status_code == api().delete(f"{PATH}1/").status_code == 401
