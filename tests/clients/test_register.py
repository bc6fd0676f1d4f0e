"""POST /client/register/"""

import threading

import pytest
from django.db import connections
from rest_framework.test import APIClient

from clients.models import Client
from tests.clients.conftest import ODD_VALUES

PATH = "/client/register/"
BODY = {
    "username": "dora",
    "email": "dora@example.com",
    "password": "correct horse battery",
    "confirm_password": "correct horse battery",
    "terms_accepted": True,
}


def test_an_account_is_opened(api, db):
    reply = api().post(PATH, BODY)
    assert reply.status_code == 201
    dora = Client.objects.get(username="dora")
    assert reply.json() == {"user_id": dora.pk, "username": "dora", "email": "dora@example.com"}
    assert dora.check_password("correct horse battery")
    assert dora.terms_accepted is True
    assert not dora.is_staff
    assert dora.provider_status == "none"


@pytest.mark.parametrize("field", BODY)
def test_every_field_is_needed(api, db, field):
    reply = api().post(PATH, {key: value for key, value in BODY.items() if key != field})
    assert reply.status_code == 400
    assert list(reply.json()) == [field]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "ALICE@Example.com"),
        ("username", "alice"),
    ],
)
def test_what_somebody_has_is_a_field_error(api, alice, field, value):
    reply = api().post(PATH, BODY | {field: value})
    assert reply.status_code == 400
    assert "already exists" in reply.json()[field][0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"password": "12345678", "confirm_password": "12345678"}, "password"),
        ({"password": "short", "confirm_password": "short"}, "password"),
        ({"password": "dora@example.com", "confirm_password": "dora@example.com"}, "password"),
        ({"confirm_password": "correct horse batterie"}, "confirm_password"),
        ({"terms_accepted": False}, "terms_accepted"),
        ({"email": "no address"}, "email"),
        ({"username": "alice@example.com"}, "username"),
        ({"username": "do ra"}, "username"),
    ],
)
def test_what_is_wrong_is_said_under_its_field(api, db, changes, field):
    reply = api().post(PATH, BODY | changes)
    assert reply.status_code == 400
    assert reply.json()[field][0]
    assert not Client.objects.exists()


@pytest.mark.parametrize("field", BODY)
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, db, settings, field, value):
    settings.REST_FRAMEWORK = settings.REST_FRAMEWORK | {"DEFAULT_THROTTLE_CLASSES": []}
    reply = api().post(PATH, BODY | {field: value})
    assert reply.status_code in (201, 400)


@pytest.mark.parametrize("body", ["[]", "null", "1", '"x"', "{", "", "\0", '{"username": "\\ud800"}'])
def test_odd_bodies_are_the_callers_mistake(api, db, body):
    reply = api().post(PATH, data=body, content_type="application/json")
    assert reply.status_code == 400


def test_other_content_types_are_named_so(api, db):
    reply = api().post(PATH, data="username=x", content_type="application/x-www-form-urlencoded")
    assert reply.status_code == 415


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("field", ["email", "username"])
def test_of_two_at_the_same_moment_one_gets_it(field):
    answers, together = [], threading.Barrier(2)

    def register(number):
        other = {"email": "dora2@example.com", "username": "dora2"} if number else {}
        other.pop(field, None)
        together.wait()
        answers.append(APIClient().post(PATH, BODY | other))
        connections.close_all()

    threads = [threading.Thread(target=register, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [201, 400]
    refused = next(answer for answer in answers if answer.status_code == 400)
    assert field in refused.json()
