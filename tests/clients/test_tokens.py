"""/client/tokens/"""

from datetime import timedelta

from django.utils import timezone

from clients import keys
from clients.models import Token

PATH = "/client/tokens/"


def test_a_person_sees_their_devices_and_which_one_this_is(login, alice, bob, holder):
    login(bob, REMOTE_ADDR="192.0.2.66")
    login(alice, REMOTE_ADDR="192.0.2.1", HTTP_USER_AGENT="phone")
    body = login(alice, REMOTE_ADDR="192.0.2.2", HTTP_USER_AGENT="desk")
    reply = holder(f"Token {body['token']}").get(PATH)
    assert reply.status_code == 200
    assert [(row["user_agent"], row["ip"], row["current"]) for row in reply.json()] == [
        ("desk", "192.0.2.2", True),
        ("phone", "192.0.2.1", False),
    ]


def test_no_secret_is_shown(login, alice, api):
    body = login(alice)
    text = api(alice).get(PATH).content.decode()
    token = Token.objects.get()
    assert body["token"] not in text
    assert token.digest not in text
    assert token.device_digest not in text


def test_what_has_expired_or_is_no_device_is_not_listed(login, alice, api):
    login(alice)
    Token.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    made = keys.create(alice, name="k")
    keys.exchange(key=made.key, secret=made.secret, now=timezone.now())
    assert api(alice).get(PATH).json() == []


def test_deleting_logs_that_device_out(login, alice, api, holder, announced):
    body = login(alice)
    token = Token.objects.get()
    with announced(f"token:{token.pk}"):
        assert api(alice).delete(f"{PATH}{token.pk}/").status_code == 204
    assert holder(f"Token {body['token']}").get(PATH).status_code == 401
    assert api(alice).delete(f"{PATH}{token.pk}/").status_code == 404


def test_somebody_elses_device_does_not_exist(login, alice, bob, operator, api):
    login(bob)
    token = Token.objects.get()
    assert api(alice).delete(f"{PATH}{token.pk}/").status_code == 404
    assert api(operator).delete(f"{PATH}{token.pk}/").status_code == 404
    assert api().delete(f"{PATH}{token.pk}/").status_code == 401
    assert Token.objects.exists()


def test_a_number_that_no_row_has_is_not_found(alice, api):
    for number in ("0", "9" * 18, "9" * 19, "9" * 40):
        assert api(alice).delete(f"{PATH}{number}/").status_code == 404
