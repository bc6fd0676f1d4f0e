"""/client/api-keys/"""

from datetime import timedelta

import pytest
from django.utils import timezone

from clients import keys
from clients.models import Allowance, ApiKey
from tests.clients.conftest import ODD_VALUES

PATH = "/client/api-keys/"


def test_a_key_is_shown_once_and_works(api, alice, holder):
    reply = api(alice).post(PATH, {"name": "laptop"})
    assert reply.status_code == 201
    body = reply.json()
    assert body["key"].startswith("sk-")
    assert len(body["secret"]) >= 40
    assert body["prefix"] == body["key"][:10]
    assert holder(f"Bearer {body['key']}").get("/client/list/").json()[0]["user"]["username"] == "alice"
    row = ApiKey.objects.get()
    for text in (api(alice).get(PATH).content.decode(), api(alice).get(f"{PATH}{row.pk}/").content.decode()):
        assert not any(
            secret in text for secret in (body["key"], body["secret"], row.digest, row.secret_digest)
        )


def test_limits_are_taken_and_answered(api, alice):
    end = (timezone.now() + timedelta(days=1)).isoformat()
    body = {"name": "k", "allowed_models": ["tiny"], "requests_per_minute": 5, "expires_at": end}
    answer = api(alice).post(PATH, body).json()
    assert (answer["allowed_models"], answer["requests_per_minute"]) == (["tiny"], 5)
    assert answer["expires_at"]


def test_a_key_is_renamed_and_limited_and_everybody_is_told(api, alice, announced):
    key = keys.create(alice, name="old").row
    with announced(f"key:{key.pk}"):
        reply = api(alice).patch(f"{PATH}{key.pk}/", {"name": "new", "requests_per_minute": 9})
    assert reply.status_code == 200
    key.refresh_from_db()
    assert (key.name, key.allowance.requests_per_minute, key.allowed_models) == ("new", 9, [])
    assert reply.json()["requests_per_minute"] == 9


LIMITS = {
    "max_input_price": "0.5",
    "max_output_price": "1.5",
    "max_request_price": "0",
    "budget_day": "10",
    "budget_month": "100.000000000000000001",
    "budget_total": "1000",
    "requests_per_minute": 60,
    "tokens_per_minute": 100_000,
    "concurrency": 4,
}


def test_every_limit_is_taken_and_answered(api, alice):
    made = api(alice).post(PATH, {"name": "k", **LIMITS}).json()
    key = api(alice).get(f"{PATH}{made['id']}/").json()
    for body in (made, key, api(alice).get(PATH).json()[0]):
        assert {name: body[name] for name in LIMITS} == LIMITS
        assert body["used"] == {"day": "0", "month": "0", "total": "0"}


def test_a_key_without_limits_has_none_and_counts_nothing(api, alice):
    body = api(alice).post(PATH, {"name": "k"}).json()
    assert {body[name] for name in LIMITS} == {None}
    assert body["used"] is None
    assert not Allowance.objects.exists()


def test_a_limit_is_taken_away_by_null_and_others_stay(api, alice):
    made = api(alice).post(PATH, {"name": "k", **LIMITS}).json()
    body = api(alice).patch(f"{PATH}{made['id']}/", {"budget_day": None}).json()
    assert {name: body[name] for name in LIMITS} == LIMITS | {"budget_day": None}


def test_what_is_used_cannot_be_written(api, alice):
    made = api(alice).post(PATH, {"name": "k", "budget_day": "1", "used": {"day": "-5"}}).json()
    assert made["used"]["day"] == "0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget_day", "-1"),
        ("budget_day", "0.0000000000000000001"),
        ("budget_total", "much"),
        ("max_input_price", True),
        ("concurrency", 0),
        ("tokens_per_minute", 2**31),
        ("requests_per_minute", -1),
    ],
)
def test_an_impossible_limit_is_refused_by_name(api, alice, name, value):
    reply = api(alice).post(PATH, {"name": "k", name: value})
    assert (reply.status_code, list(reply.json())) == (400, [name])
    assert not ApiKey.objects.exists()


def test_what_is_not_the_callers_to_change_stays(api, alice):
    key = keys.create(alice, name="k").row
    body = {
        "digest": "x",
        "prefix": "sk-other",
        "client": 1,
        "revoked_at": None,
        "last_used_at": "2020-01-01T00:00Z",
    }
    for name, value in body.items():
        reply = api(alice).patch(f"{PATH}{key.pk}/", {name: value})
        # What is only read may be sent back as it came; what there is not is a mistake.
        assert reply.status_code == (200 if name in ("prefix", "last_used_at", "revoked_at") else 400), name
    assert list(ApiKey.objects.values()) == list(
        ApiKey.objects.filter(digest=key.digest, prefix=key.prefix).values()
    )


def test_a_deleted_key_is_revoked_at_once(api, alice, holder, announced):
    made = keys.create(alice, name="k")
    with announced(f"key:{made.row.pk}"):
        assert api(alice).delete(f"{PATH}{made.row.pk}/").status_code == 204
    assert holder(f"Bearer {made.key}").get("/client/list/").status_code == 401
    assert api(alice).get(f"{PATH}{made.row.pk}/").status_code == 404
    assert api(alice).delete(f"{PATH}{made.row.pk}/").status_code == 404
    assert api(alice).get(PATH).json() == []
    assert ApiKey.objects.get().revoked_at is not None


def test_a_key_that_an_operator_cut_off_stays_with_the_reason(api, alice):
    made = keys.create(alice, name="k")
    keys.cut_off(ApiKey.objects.all(), reason="It was published.", now=timezone.now())
    body = api(alice).get(f"{PATH}{made.row.pk}/").json()
    assert body["revoked_reason"] == "It was published."


def test_revoking_again_keeps_the_first_time_and_reason(alice):
    key = keys.create(alice, name="k").row
    now = timezone.now()
    assert keys.revoke(key, reason="first", now=now) is True
    assert keys.revoke(key, reason="second", now=now + timedelta(days=1)) is False
    key.refresh_from_db()
    assert (key.revoked_at, key.revoked_reason) == (now, "first")


def test_somebody_elses_key_does_not_exist(api, alice, bob, operator):
    key = keys.create(bob, name="k").row
    for person in (alice, operator):
        assert api(person).get(PATH).json() == []
        for method in ("get", "patch", "delete"):
            assert getattr(api(person), method)(f"{PATH}{key.pk}/").status_code == 404
    key.refresh_from_db()
    assert key.revoked_at is None


def test_without_a_credential_nothing(api, db):
    assert api().get(PATH).status_code == api().post(PATH, {"name": "k"}).status_code == 401


def test_there_is_an_end_to_how_many(api, alice, monkeypatch):
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    answers = [api(alice).post(PATH, {"name": "k"}).status_code for _ in range(3)]
    assert answers == [201, 201, 409]
    keys.revoke(ApiKey.objects.first(), now=timezone.now())
    assert api(alice).post(PATH, {"name": "k"}).status_code == 201


@pytest.mark.parametrize("field", ["name", "allowed_models", "expires_at", "used", *LIMITS])
@pytest.mark.parametrize(
    "value",
    [*ODD_VALUES, [None], [["x"]], "2020-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"],
)
def test_odd_values_are_the_callers_mistake(api, alice, field, value):
    key = keys.create(alice, name="k").row
    assert api(alice).post(PATH, {"name": "k"} | {field: value}).status_code in (201, 400)
    assert api(alice).patch(f"{PATH}{key.pk}/", {field: value}).status_code in (200, 400)


def test_a_key_cannot_end_in_the_past(api, alice):
    reply = api(alice).post(PATH, {"name": "k", "expires_at": "2020-01-01T00:00:00Z"})
    assert reply.json() == {"expires_at": ["This is in the past."]}
