"""POST /auth/token"""

from datetime import timedelta

import pytest
from django.utils import timezone

from clients import keys
from clients.models import Client, Token
from tests.clients.conftest import ODD_VALUES

PATH = "/auth/token"


@pytest.fixture
def made(alice):
    return keys.create(alice, name="k")


def test_key_and_secret_become_a_token_for_an_hour(api, made, holder):
    reply = api().post(PATH, {"api_key": made.key, "secret": made.secret})
    assert reply.status_code == 200
    assert set(reply.json()) == {"token", "expires_in"}
    assert reply.json()["expires_in"] == 3600
    assert holder(f"Bearer {reply.json()['token']}").get("/client/list/").status_code == 200
    assert Token.objects.get().expires_at - timezone.now() <= timedelta(hours=1)


def test_everything_that_can_be_wrong_gets_the_same_401(api, made, alice):
    other = keys.create(alice, name="other")
    ended = keys.create(alice, name="ended", expires_at=timezone.now() - timedelta(seconds=1))
    revoked = keys.create(alice, name="revoked")
    keys.revoke(revoked.row, now=timezone.now())
    answers = [
        api().post(PATH, {"api_key": key, "secret": secret})
        for key, secret in [
            (made.key, "wrong"),
            ("sk-wrong", made.secret),
            (made.key, other.secret),
            (made.secret, made.key),
            (ended.key, ended.secret),
            (revoked.key, revoked.secret),
        ]
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["error"]["code"] == "UNAUTHORIZED"
    assert not Token.objects.exists()


def test_a_blocked_account_gets_the_same_401(api, made):
    Client.objects.update(is_active=False)
    assert api().post(PATH, {"api_key": made.key, "secret": made.secret}).status_code == 401


def test_the_token_cannot_manage_the_account(api, made, holder):
    token = api().post(PATH, {"api_key": made.key, "secret": made.secret}).json()["token"]
    assert holder(f"Bearer {token}").post("/client/api-keys/", {"name": "more"}).status_code == 403


@pytest.mark.parametrize("field", ["api_key", "secret"])
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake_in_the_shape_of_this_api(api, made, field, value):
    reply = api().post(PATH, {"api_key": made.key, "secret": made.secret} | {field: value})
    assert reply.status_code in (400, 401)
    assert reply.json()["error"]["code"] in ("INVALID_REQUEST", "UNAUTHORIZED")


def test_other_methods_are_refused_in_the_shape_of_this_api(api, db):
    reply = api().get(PATH)
    assert reply.status_code == 405
    assert reply.json()["error"]["code"] == "METHOD_NOT_ALLOWED"
