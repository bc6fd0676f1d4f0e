"""GET /account/balance"""

from clients import ledger
from clients.models import AccountKind, TransferKind
from marketplace.money import TOKEN

PATH = "/account/balance"


def test_everybody_begins_with_nothing(api, alice, settings):
    body = api(alice).get(PATH).json()
    assert body == {
        "balance": "0",
        "currency": settings.CURRENCY,
        "held": "0",
        "earned": "0",
        "earned_held": "0",
        "staked": "0",
        "account_id": ledger.account(alice.pk, AccountKind.SPENDABLE).name,
    }


def test_what_is_held_cannot_be_spent(api, alice, fund, books):
    fund(alice, 10)
    fund(alice, 5, kind="earned")
    ledger.hold(reference="h", client_id=alice.pk, amount=TOKEN // 2)
    ledger.hold(reference="payout:1", client_id=alice.pk, amount=2 * TOKEN, kind=AccountKind.EARNED)
    body = api(alice).get(PATH).json()
    assert (body["balance"], body["held"]) == ("9.5", "0.5")
    assert (body["earned"], body["earned_held"]) == ("3", "2")


def test_what_other_processes_have_credited_counts(api, alice, bob, fund, books):
    fund(alice, 10)
    ledger.hold(reference="h", client_id=alice.pk, amount=4 * TOKEN)
    ledger.settle(reference="h", amount=4 * TOKEN, fee=TOKEN, payee_id=bob.pk, kind=TransferKind.INFERENCE)
    assert api(bob).get(PATH).json()["earned"] == "3"


def test_nobody_sees_anothers(api, alice, bob, fund):
    fund(alice, 10)
    assert api(bob).get(PATH).json()["balance"] == "0"
    assert api().get(PATH).status_code == 401
