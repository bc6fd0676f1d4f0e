"""POST /client/login/"""

from datetime import timedelta

import pytest
from django.contrib.auth.hashers import MD5PasswordHasher
from django.utils import timezone

from clients import devices
from clients.models import Client, Token
from tests.clients.conftest import ODD_VALUES, PASSWORD

PATH = "/client/login/"


def test_the_answer_has_exactly_the_keys_of_the_documents_client(api, alice):
    reply = api().post(PATH, {"email": "Alice@example.com", "password": PASSWORD})
    assert reply.status_code == 201
    body = reply.json()
    assert set(body) == {"token", "device_token", "username", "user_id", "profile_image"}
    assert (body["username"], body["user_id"], body["profile_image"]) == ("alice", alice.pk, None)


def test_each_device_has_a_token_of_its_own(login, alice, holder):
    first, second = login(alice), login(alice)
    assert first["token"] != second["token"]
    for body in (first, second):
        assert holder(f"Token {body['token']}").get("/client/list/").status_code == 200


def test_it_is_remembered_where_from_and_until_when(login, alice, settings):
    settings.DEVICE_TOKEN_DAYS = 3
    login(alice, REMOTE_ADDR="192.0.2.9", HTTP_USER_AGENT="a browser" * 100)
    token = Token.objects.get()
    assert (token.ip, len(token.user_agent)) == ("192.0.2.9", 200)
    assert timedelta(days=2.9) < token.expires_at - timezone.now() <= timedelta(days=3)
    alice.refresh_from_db()
    assert alice.ip == "192.0.2.9"
    assert alice.last_login is not None


def test_a_wrong_address_and_a_wrong_password_get_the_same_answer(api, alice):
    wrong = api().post(PATH, {"email": "alice@example.com", "password": "wrong"})
    nobody = api().post(PATH, {"email": "nobody@example.com", "password": PASSWORD})
    assert wrong.status_code == nobody.status_code == 401
    assert wrong.json() == nobody.json()


@pytest.mark.parametrize("email", ["alice@example.com", "nobody@example.com", "blocked@example.com"])
def test_every_failure_hashes_once_and_so_takes_the_same_time(api, alice, monkeypatch, email):
    Client.objects.create_user("blocked", "blocked@example.com", "other password", is_active=False)
    hashed = []
    encode = MD5PasswordHasher.encode
    monkeypatch.setattr(MD5PasswordHasher, "encode", lambda *args: hashed.append(1) or encode(*args))
    api().post(PATH, {"email": email, "password": "wrong"})
    assert len(hashed) == 1


def test_a_blocked_account_answers_like_a_wrong_password(api, alice):
    Client.objects.update(is_active=False)
    reply = api().post(PATH, {"email": alice.email, "password": PASSWORD})
    assert reply.status_code == 401
    assert reply.json()["code"] == "bad_credentials"


def test_a_username_is_not_taken_for_an_address(api, alice):
    assert api().post(PATH, {"email": "alice", "password": PASSWORD}).status_code == 400


class TestWhoeverGuesses:
    def guess(self, api, email="alice@example.com", password="wrong", ip="192.0.2.1"):
        return api().post(PATH, {"email": email, "password": password}, REMOTE_ADDR=ip)

    def lock(self, api, **who):
        return [self.guess(api, **who).status_code for _ in range(5)]

    def test_is_locked_out_for_a_while_even_with_the_right_password(self, api, alice):
        assert self.lock(api) == [401] * 4 + [429]
        reply = self.guess(api, password=PASSWORD)
        assert reply.status_code == 429
        assert 800 < int(reply["Retry-After"]) <= 900
        assert reply.json()["code"] == "locked_out"

    def test_does_not_learn_whether_the_account_exists(self, api, alice):
        assert self.lock(api) == self.lock(api, email="nobody@example.com")
        known, unknown = self.guess(api), self.guess(api, email="nobody@example.com")
        assert known.json() == unknown.json()

    def test_cannot_get_around_it_by_another_spelling_or_browser(self, api, alice):
        self.lock(api)
        assert self.guess(api, email="ALICE@EXAMPLE.COM", password=PASSWORD).status_code == 429
        reply = api().post(
            PATH,
            {"email": "alice@example.com", "password": PASSWORD},
            REMOTE_ADDR="192.0.2.1",
            HTTP_USER_AGENT="another",
            HTTP_X_FORWARDED_FOR="203.0.113.5",
        )
        assert reply.status_code == 429

    def test_does_not_lock_others_out(self, api, alice, bob):
        self.lock(api)
        assert self.guess(api, password=PASSWORD, ip="192.0.2.2").status_code == 201
        assert self.guess(api, email="bob@example.com", password=PASSWORD).status_code == 201

    def test_trying_on_does_not_prolong_it(self, api, alice, monkeypatch):
        self.lock(api)
        before = timezone.now()
        for _ in range(3):
            self.guess(api)
        later = before + timedelta(minutes=15, seconds=1)
        monkeypatch.setattr("axes.handlers.proxy.now", lambda: later)
        assert self.guess(api, password=PASSWORD).status_code == 201

    def test_a_success_forgets_the_failures_before_it(self, api, alice):
        for _ in range(2):
            assert [self.guess(api).status_code for _ in range(4)] == [401] * 4
            assert self.guess(api, password=PASSWORD).status_code == 201


def test_endless_logins_do_not_fill_the_database(alice, monkeypatch):
    monkeypatch.setattr(devices, "MAX_DEVICES", 3)
    for _ in range(5):
        devices.log_in(alice, ip=None, user_agent="", now=timezone.now())
    assert alice.tokens.count() == 3


@pytest.mark.parametrize("field", ["email", "password"])
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, alice, field, value):
    reply = api().post(PATH, {"email": alice.email, "password": PASSWORD} | {field: value})
    assert reply.status_code in (400, 401)
