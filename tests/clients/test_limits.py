"""/client/limits/"""

import pytest

from clients import keys, ledger
from clients.models import Allowance
from marketplace.money import TOKEN
from tests.clients.conftest import ODD_VALUES

PATH = "/client/limits/"
NAMES = [
    "max_input_price",
    "max_output_price",
    "max_request_price",
    "budget_day",
    "budget_month",
    "budget_total",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrency",
]


def test_at_first_there_are_none(api, alice):
    assert api(alice).get(PATH).json() == {
        **dict.fromkeys(NAMES),
        "used": None,  # nothing is counted yet
    }


def test_the_owner_sets_them_and_everybody_is_told(api, alice, announced):
    with announced(f"client:{alice.pk}"):
        reply = api(alice).patch(PATH, {"budget_day": "2.5", "concurrency": 3})
    assert reply.status_code == 200
    assert (reply.json()["budget_day"], reply.json()["concurrency"]) == ("2.5", 3)
    assert api(alice).get(PATH).json() == reply.json()


def test_what_is_used_is_shown(api, alice):
    api(alice).patch(PATH, {"budget_day": "10"})
    ledger.grant(client_id=alice.pk, amount=5 * TOKEN, reference="grant:1", reason="test", by_id=None)
    ledger.hold(reference="h", client_id=alice.pk, amount=2 * TOKEN)
    assert api(alice).get(PATH).json()["used"] == {"day": "2", "month": "2", "total": "2"}


def test_taking_all_away_keeps_what_is_counted(api, alice):
    api(alice).patch(PATH, {"budget_day": "10"})
    ledger.grant(client_id=alice.pk, amount=5 * TOKEN, reference="grant:1", reason="test", by_id=None)
    ledger.hold(reference="h", client_id=alice.pk, amount=2 * TOKEN)
    body = api(alice).patch(PATH, {"budget_day": None}).json()
    assert (body["budget_day"], body["used"]["total"]) == (None, "2")


def test_an_api_key_may_look_but_not_raise_its_owners_limits(api, alice, holder):
    made = keys.create(alice, name="k")
    token = keys.exchange(key=made.key, secret=made.secret, now=made.row.created_at)
    for secret in (made.key, token):
        assert holder(f"Bearer {secret}").get(PATH).status_code == 200
        assert holder(f"Bearer {secret}").patch(PATH, {"budget_day": "1000"}).status_code == 403
    assert not Allowance.objects.exists()


def test_nobody_sees_or_sets_anothers(api, alice, bob):
    api(alice).patch(PATH, {"budget_day": "1"})
    api(bob).patch(PATH, {"budget_day": "2"})
    assert api(alice).get(PATH).json()["budget_day"] == "1"
    assert api().get(PATH).status_code == api().patch(PATH, {}).status_code == 401


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, alice, name, value):
    assert api(alice).patch(PATH, {name: value}).status_code in (200, 400)


def test_a_misspelt_limit_is_not_taken_for_one(api, alice):
    reply = api(alice).patch(PATH, {"budget_dai": "1", "concurrency": 3})
    assert (reply.status_code, list(reply.json())) == (400, ["budget_dai"])
    assert api(alice).get(PATH).json()["concurrency"] is None
