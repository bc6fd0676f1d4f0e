"""POST /account/transfer"""

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest
from django.db import connections
from django.utils import timezone

from clients import accounts, allowances, keys, ledger, transfers
from clients.models import AccountKind, Hold, Transfer, Wallet
from marketplace.money import TOKEN
from tests.clients.conftest import ODD_VALUES

PATH = "/account/transfer"
ADDRESS = "0x" + "ab" * 20


@pytest.fixture(autouse=True)
def _books(books):
    pass


@pytest.fixture
def rich(alice, fund):
    fund(alice, 10)
    return alice


def has(person):
    return transfers.balances(person).spendable / TOKEN


def test_money_moves_at_once(api, rich, bob, settings):
    reply = api(rich).post(PATH, {"recipient": "bob", "amount": "2.5", "memo": "thanks"})
    assert reply.status_code == 200
    body = reply.json()
    assert body.pop("transaction_id") == Transfer.objects.get(kind="transfer").reference
    assert body == {
        "status": "completed",
        "recipient": "bob",
        "amount": "2.5",
        "currency": settings.CURRENCY,
        "memo": "thanks",
        "balance": "7.5",
    }
    assert (has(rich), has(bob)) == (7.5, 2.5)


def test_a_recipient_is_whoever_it_can_mean(api, rich, bob):
    Wallet.objects.create(client=bob, address=ADDRESS)
    bob.email_confirmed_at = timezone.now()
    bob.save()
    account = ledger.account(bob.pk, AccountKind.SPENDABLE).name
    earned = ledger.account(bob.pk, AccountKind.EARNED).name
    names = [
        "bob",
        bob.pk,
        str(bob.pk),
        account,
        earned,
        ADDRESS,
        "0x" + "AB" * 20,
        "BOB@example.com",
        " bob ",
    ]
    for name in names:
        assert api(rich).post(PATH, {"recipient": name, "amount": "0.5"}).status_code == 200, name
    assert has(bob) == len(names) / 2


def test_to_is_the_same_as_recipient(api, rich, bob):
    assert api(rich).post(PATH, {"to": "bob", "amount": 1}).status_code == 200


@pytest.mark.parametrize(
    "name", ["nobody", "acc_999999999", "999999999", ADDRESS, "no@example.com", "acc_", "💥"]
)
def test_an_unknown_recipient_is_not_found(api, rich, name):
    reply = api(rich).post(PATH, {"recipient": name, "amount": "1"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "UNKNOWN_RECIPIENT")
    assert has(rich) == 10


def test_an_address_that_nobody_has_confirmed_gets_no_money(api, rich, bob):
    assert api(rich).post(PATH, {"recipient": bob.email, "amount": "1"}).status_code == 404


def test_a_closed_or_blocked_account_gets_no_money(api, rich, bob, charlie):
    account = ledger.account(bob.pk, AccountKind.SPENDABLE).name
    Wallet.objects.create(client=bob, address=ADDRESS)
    accounts.close(bob, now=timezone.now())
    charlie.is_active = False
    charlie.save()
    for name in (account, bob.pk, ADDRESS, "charlie"):
        assert api(rich).post(PATH, {"recipient": name, "amount": "1"}).status_code == 404


def test_the_marketplaces_own_accounts_get_none_either(api, rich):
    for kind in (AccountKind.FEES, AccountKind.GRANTS, AccountKind.OUTSIDE):
        name = ledger.account(None, kind).name
        assert api(rich).post(PATH, {"recipient": name, "amount": "1"}).status_code == 404


@pytest.mark.parametrize("kind", ["number", "account", "wallet"])
def test_nobody_gets_anothers_money_by_a_clever_username(api, rich, bob, charlie, kind):
    Wallet.objects.create(client=bob, address=ADDRESS)
    name = {
        "number": str(bob.pk),
        "account": ledger.account(bob.pk, AccountKind.SPENDABLE).name,
        "wallet": ADDRESS,
    }[kind]
    charlie.username = name
    charlie.save()
    reply = api(rich).post(PATH, {"recipient": name, "amount": "1"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "AMBIGUOUS_RECIPIENT")
    assert has(charlie) == has(bob) == 0


def test_to_oneself_nothing_moves(api, rich):
    for name in ("alice", ledger.account(rich.pk, AccountKind.SPENDABLE).name):
        reply = api(rich).post(PATH, {"recipient": name, "amount": "1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "SELF_TRANSFER")


@pytest.mark.parametrize(
    "amount", ["0", "-1", "0.0000000000000000001", "much", "", None, "NaN", "1e99", True, [1]]
)
def test_an_impossible_amount_is_refused(api, rich, bob, amount):
    reply = api(rich).post(PATH, {"recipient": "bob", "amount": amount})
    assert reply.status_code == 400
    assert "amount" in reply.json()["error"]["details"]["fields"]
    assert has(rich) == 10


def test_every_decimal_counts(api, rich, bob):
    body = api(rich).post(PATH, {"recipient": "bob", "amount": "0.000000000000000001"}).json()
    assert (body["amount"], body["balance"]) == ("0.000000000000000001", "9.999999999999999999")


def test_more_than_there_is_does_not_move(api, rich, bob):
    ledger.hold(reference="h", client_id=rich.pk, amount=4 * TOKEN)
    reply = api(rich).post(PATH, {"recipient": "bob", "amount": "6.5"})
    assert reply.status_code == 402
    assert reply.json()["error"]["code"] == "INSUFFICIENT_BALANCE"
    assert reply.json()["error"]["details"] == {"available": "6", "needed": "6.5"}
    assert reply.headers["X-Should-Retry"] == "false"
    assert (has(rich), has(bob)) == (6, 0)


def test_what_was_received_can_be_sent_on(api, rich, bob, holder):
    key = keys.create(rich, name="k").key
    assert holder(f"Bearer {key}").post(PATH, {"recipient": "bob", "amount": "3"}).status_code == 200
    assert api(bob).post(PATH, {"recipient": "alice", "amount": "3"}).status_code == 200
    assert (has(rich), has(bob)) == (10, 0)


def test_a_memo_has_an_end(api, rich, bob):
    assert api(rich).post(PATH, {"recipient": "bob", "amount": "1", "memo": "x" * 1024}).status_code == 200
    assert api(rich).post(PATH, {"recipient": "bob", "amount": "1", "memo": "x" * 1025}).status_code == 400


@pytest.mark.parametrize("exchanged", [False, True])
def test_what_an_api_key_sends_counts_against_its_budget(rich, bob, holder, exchanged):
    made = keys.create(rich, name="k", budget_day=3 * TOKEN)
    secret = made.key
    if exchanged:
        secret = keys.exchange(key=made.key, secret=made.secret, now=timezone.now())
    caller = holder(f"Bearer {secret}")
    assert caller.post(PATH, {"recipient": "bob", "amount": "2"}).json()["balance"] == "8"
    reply = caller.post(PATH, {"recipient": "bob", "amount": "1.5"})
    assert reply.status_code == 429
    error = reply.json()["error"]
    assert error["code"] == "RATE_LIMITED"
    assert error["details"] == {
        "code": "budget_exceeded", "limit": "budget_day", "scope": "api_key",
        "allowed": "3", "used": "2", "needed": "1.5",
    }  # fmt: skip
    assert (reply.headers["X-Should-Retry"], int(reply.headers["Retry-After"]) <= 86_400) == ("false", True)
    made.row.refresh_from_db()
    allowance = made.row.allowance
    assert (allowance.day_used, allowance.running) == (2 * TOKEN, 0)
    assert (has(rich), has(bob)) == (8, 2)
    assert not Hold.objects.filter(ended_at=None).exists()


def test_the_accounts_budget_binds_its_keys_but_not_its_owner(api, rich, bob, holder):
    allowances.change(client_id=rich.pk, limits={"budget_total": TOKEN})
    key = keys.create(rich, name="k").key
    assert holder(f"Bearer {key}").post(PATH, {"recipient": "bob", "amount": "2"}).status_code == 429
    assert api(rich).post(PATH, {"recipient": "bob", "amount": "2"}).status_code == 200


def test_earnings_become_spendable(api, bob, fund):
    fund(bob, 5, kind="earned")
    reply = api(bob).post(PATH, {"from": "earned", "amount": "2"})
    assert reply.status_code == 200
    assert reply.json()["recipient"] == ledger.account(bob.pk, AccountKind.SPENDABLE).name
    assert reply.json()["balance"] == "2"
    assert transfers.balances(bob).earned == 3 * TOKEN


def test_earnings_that_wait_for_a_payout_stay(api, bob, fund):
    fund(bob, 5, kind="earned")
    ledger.hold(reference="payout:1", client_id=bob.pk, amount=4 * TOKEN, kind=AccountKind.EARNED)
    assert api(bob).post(PATH, {"from": "earned", "amount": "2"}).status_code == 402


def test_a_key_moves_earnings_to_its_own_account_only(api, bob, alice, fund, holder):
    fund(bob, 5, kind="earned")
    caller = holder(f"Bearer {keys.create(bob, name='k', budget_day=0).key}")
    assert caller.post(PATH, {"from": "earned", "recipient": "alice", "amount": "1"}).status_code == 403
    assert caller.post(PATH, {"from": "earned", "amount": "1"}).status_code == 200
    assert api(bob).post(PATH, {"from": "earned", "recipient": "alice", "amount": "1"}).status_code == 200
    assert (has(alice), has(bob)) == (1, 1)


def test_staked_money_stays(api, rich):
    assert api(rich).post(PATH, {"from": "staked", "recipient": "bob", "amount": "1"}).status_code == 400


@pytest.mark.parametrize("field", ["recipient", "amount", "memo", "from", "to"])
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, rich, field, value):
    reply = api(rich).post(PATH, {"amount": "1", field: value})
    assert reply.status_code in (400, 404)
    assert has(rich) == 10


def test_without_a_credential_nothing(api, bob):
    assert api().post(PATH, {"recipient": "bob", "amount": "1"}).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_transfers_in_all_directions_at_once_neither_block_each_other_nor_lose_money(
    alice, bob, charlie, fund
):
    people = [alice, bob, charlie]
    for person in people:
        fund(person, 1)
    pairs = [(payer, to, keys.create(payer, name="k").row.pk) for payer, to in permutations(people, 2)]

    def send(payer, to, key):
        try:
            for number in range(10):
                transfers.send(payer=payer, to=to, amount=TOKEN // 20, api_key_id=key if number % 2 else None)
        except ledger.InsufficientFunds:
            pass
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(pairs)) as pool:
        for each in [pool.submit(send, *pair) for pair in pairs]:
            each.result()
    assert sum(transfers.balances(person).spendable for person in people) == 3 * TOKEN


@pytest.mark.parametrize("wrong", [{"to": "carol"}, {"currency": "USD"}])
def test_what_contradicts_itself_is_not_sent(api, rich, bob, wrong):
    reply = api(rich).post(PATH, {"recipient": "bob", "amount": "1", **wrong})
    assert (reply.status_code, list(reply.json()["error"]["details"]["fields"])) == (400, list(wrong))
    assert has(rich) == 10


@pytest.mark.parametrize(
    ("header", "query"), [({"X-Dry-Run": "true"}, ""), ({}, "?dry_run=1"), ({"X-Dry-Run": "maybe"}, "")]
)
def test_who_only_wants_to_try_sends_nothing(api, rich, bob, header, query):
    reply = api(rich).post(f"{PATH}{query}", {"recipient": "bob", "amount": "1"}, headers=header)
    assert reply.status_code == 400
    assert has(rich) == 10
