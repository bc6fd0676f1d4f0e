"""/account/payouts, and what an operator decides about them."""

import pytest
from django.utils import timezone

from clients import accounts, keys, ledger, payouts, terms, transfers
from clients.models import AccountKind, AuditEntry, Payout, Transfer
from clients.statements import Statement
from marketplace.money import TOKEN
from tests.clients.conftest import ODD_VALUES

PATH = "/account/payouts"
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _books(books):
    pass


@pytest.fixture
def earner(bob, fund):
    fund(bob, 10, kind="earned")
    return bob


@pytest.fixture
def payout(earner):
    return payouts.request(earner, amount=4 * TOKEN, destination="0xabc")


def earned(person):
    has = transfers.balances(person)
    return has.earned / TOKEN, has.earned_held / TOKEN


def test_a_request_holds_what_it_asks_for(api, earner):
    reply = api(earner).post(PATH, {"amount": "4", "destination": "0xabc"})
    assert reply.status_code == 201
    body = reply.json()
    assert (body["amount"], body["destination"], body["status"], body["reason"]) == (
        "4",
        "0xabc",
        "requested",
        "",
    )
    assert body["requested_at"]
    assert body["decided_at"] is None
    assert api(earner).get(f"{PATH}/{body['payout_id']}").json() == body
    assert api(earner).get(PATH).json() == [body]
    assert earned(earner) == (6, 4)


def test_nobody_is_paid_more_than_was_earned(api, earner, fund):
    fund(earner, 100)
    reply = api(earner).post(PATH, {"amount": "10.5", "destination": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (402, "INSUFFICIENT_BALANCE")
    assert not Payout.objects.exists()
    assert earned(earner) == (10, 0)


def test_all_requests_together_are_within_what_was_earned(api, earner):
    answers = [api(earner).post(PATH, {"amount": "4", "destination": "x"}).status_code for _ in range(3)]
    assert answers == [201, 201, 402]


def test_so_many_may_wait(api, earner, monkeypatch):
    monkeypatch.setattr(payouts, "MAX_OPEN", 2)
    answers = [api(earner).post(PATH, {"amount": "1", "destination": "x"}).status_code for _ in range(3)]
    assert answers == [201, 201, 409]


def test_its_owner_takes_it_back(api, earner, payout):
    assert api(earner).delete(f"{PATH}/{payout.pk}").status_code == 204
    assert api(earner).get(f"{PATH}/{payout.pk}").json()["status"] == "cancelled"
    assert earned(earner) == (10, 0)
    reply = api(earner).delete(f"{PATH}/{payout.pk}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "PAYOUT_DECIDED")


def test_an_operator_pays_it(earner, payout, operator):
    payouts.pay(payout, by=operator, note="bank transfer 77", now=NOW)
    payout.refresh_from_db()
    assert (payout.status, payout.reason, payout.decided_by) == ("paid", "bank transfer 77", operator)
    assert payout.decided_at == NOW
    assert earned(earner) == (6, 0)
    made = Transfer.objects.get(reference=payout.reference)
    assert (made.kind, made.amount, made.memo, made.by) == ("payout", 4 * TOKEN, "bank transfer 77", operator)
    assert ledger.balance(ledger.account(None, AccountKind.OUTSIDE)) == -6 * TOKEN
    (entry, _) = Statement([ledger.account(earner.pk, AccountKind.EARNED)]).page(limit=5)
    assert (entry.amount, entry.counterparty_name) == (-4 * TOKEN, "outside")


def test_an_operator_refuses_it_and_says_why(api, earner, payout, operator):
    with pytest.raises(payouts.ReasonMissing):
        payouts.refuse(payout, by=operator, reason=" ", now=NOW)
    payouts.refuse(payout, by=operator, reason="No such bank.", now=NOW)
    body = api(earner).get(f"{PATH}/{payout.pk}").json()
    assert (body["status"], body["reason"]) == ("refused", "No such bank.")
    assert earned(earner) == (10, 0)


def test_what_operators_do_leaves_a_row(earner, payout, operator):
    payouts.pay(payout, by=operator, note="by hand", now=NOW)
    other = payouts.request(earner, amount=TOKEN, destination="y")
    payouts.refuse(other, by=operator, reason="no", now=NOW)
    paid, refused = AuditEntry.objects.order_by("id")
    assert (paid.action, paid.by, paid.reason) == ("pay_payout", operator, "by hand")
    assert paid.details == {"client": earner.pk, "amount": "4", "destination": "0xabc"}
    assert (refused.action, refused.subject) == ("refuse_payout", f"payout {other.pk}")


@pytest.mark.parametrize("first", ["pay", "refuse", "cancel"])
def test_only_one_decides(earner, payout, operator, first):
    do = {
        "pay": lambda: payouts.pay(payout, by=operator, note="n", now=NOW),
        "refuse": lambda: payouts.refuse(payout, by=operator, reason="r", now=NOW),
        "cancel": lambda: payouts.cancel(payout, now=NOW),
    }
    do[first]()
    for name in do:
        with pytest.raises(payouts.PayoutDecided):
            do[name]()
    assert AuditEntry.objects.count() == (first != "cancel")


def test_nothing_is_paid_while_payouts_are_frozen(earner, payout, operator):
    terms.change(by=operator, reason="an incident", payouts_frozen=True)
    with pytest.raises(payouts.PayoutsFrozen):
        payouts.pay(payout, by=operator, note="n", now=NOW)
    payout.refresh_from_db()
    assert payout.status == "requested"
    assert earned(earner) == (6, 4)
    terms.change(by=operator, reason="it is over", payouts_frozen=False)
    payouts.pay(payout, by=operator, note="n", now=NOW)


def test_somebody_elses_payout_does_not_exist(api, payout, charlie, operator):
    for person in (charlie, operator):
        assert api(person).get(PATH).json() == []
        for method in ("get", "delete"):
            assert getattr(api(person), method)(f"{PATH}/{payout.pk}").status_code == 404
    payout.refresh_from_db()
    assert payout.status == "requested"


def test_an_api_key_may_only_look(earner, payout, holder):
    caller = holder(f"Bearer {keys.create(earner, name='k').key}")
    assert caller.get(PATH).status_code == caller.get(f"{PATH}/{payout.pk}").status_code == 200
    assert caller.post(PATH, {"amount": "1", "destination": "mine"}).status_code == 403
    assert caller.delete(f"{PATH}/{payout.pk}").status_code == 403


def test_without_a_credential_nothing(api, payout):
    assert api().get(PATH).status_code == api().post(PATH, {}).status_code == 401
    assert api().delete(f"{PATH}/{payout.pk}").status_code == 401


@pytest.mark.parametrize("field", ["amount", "destination"])
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, earner, field, value):
    reply = api(earner).post(PATH, {"amount": "1", "destination": "x", field: value})
    assert reply.status_code in (201, 400, 402)


def test_a_closed_accounts_payout_can_still_be_decided(earner, payout, operator):
    accounts.close(earner, now=NOW)
    payouts.pay(payout, by=operator, note="the last one", now=NOW)
    assert earned(earner) == (6, 0)
