"""POST /client/logout/"""

import pytest

from clients import keys
from tests.clients.conftest import ODD_VALUES

PATH = "/client/logout/"


def test_only_this_device_is_logged_out(login, alice, holder, announced):
    here, there = login(alice), login(alice)
    client = holder(f"Token {here['token']}")
    token_id = alice.tokens.order_by("pk").first().pk
    with announced(f"token:{token_id}"):
        assert client.post(PATH, {"device_token": here["device_token"]}).status_code == 201
    assert client.get("/client/list/").status_code == 401
    assert holder(f"Token {there['token']}").get("/client/list/").status_code == 200


def test_without_a_name_it_is_the_device_that_asks(login, alice, holder):
    client = holder(f"Token {login(alice)['token']}")
    assert client.post(PATH).status_code == 201
    assert client.post(PATH).status_code == 401


def test_nobody_logs_out_somebody_elses_device(login, alice, bob, holder):
    theirs = login(bob)
    client = holder(f"Token {login(alice)['token']}")
    assert client.post(PATH, {"device_token": theirs["device_token"]}).status_code == 404
    assert holder(f"Token {theirs['token']}").get("/client/list/").status_code == 200


def test_the_token_itself_is_not_the_devices_name(login, alice, holder):
    body = login(alice)
    reply = holder(f"Token {body['token']}").post(PATH, {"device_token": body["token"]})
    assert reply.status_code == 404
    assert reply.json()["code"] == "unknown_device"


def test_a_stranger_cannot_log_anybody_out(api, db):
    assert api().post(PATH, {"device_token": "x"}).status_code == 401


def test_an_api_key_is_not_a_device(alice, holder):
    client = holder(f"Bearer {keys.create(alice, name='k').key}")
    assert client.post(PATH).status_code == 404


@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, alice, value):
    assert api(alice).post(PATH, {"device_token": value}).status_code in (400, 404)
