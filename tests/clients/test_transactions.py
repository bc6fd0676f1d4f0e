"""GET /account/transactions"""

import csv
from datetime import timedelta

import pytest
from django.utils import timezone

from clients import ledger, statements, transfers
from clients.models import AccountKind, Transfer, TransferKind
from clients.statements import Statement
from marketplace.money import TOKEN

PATH = "/account/transactions"


@pytest.fixture
def history(alice, bob, fund):
    """10 for alice; 4 of it for bob's work, 1 for the marketplace; 2 sent to bob; 1 that bob earned made spendable."""
    fund(alice, 10)
    ledger.hold(reference="inference:1", client_id=alice.pk, amount=4 * TOKEN)
    ledger.settle(
        reference="inference:1", amount=4 * TOKEN, fee=TOKEN, payee_id=bob.pk, kind=TransferKind.INFERENCE
    )
    transfers.send(payer=alice, to=bob, amount=2 * TOKEN, memo="thanks")
    transfers.send(payer=bob, to=bob, amount=TOKEN, source=AccountKind.EARNED)


def account_of(person):
    return ledger.account(person.pk, AccountKind.SPENDABLE).name


def shown(reply, *names):
    return [tuple(row[name] for name in names) for row in reply.json()]


def test_it_tells_the_whole_history(api, alice, bob, history):
    names = ("account", "kind", "amount", "fee", "counterparty", "memo")
    assert shown(api(alice).get(PATH), *names) == [
        ("spendable", "transfer", "-2", "0", account_of(bob), "thanks"),
        ("spendable", "inference", "-4", "1", "provider", ""),
        ("spendable", "deposit", "10", "0", "outside", ""),
    ]
    assert shown(api(bob).get(PATH), *names) == [
        ("spendable", "transfer", "1", "0", "own earned", ""),
        ("earned", "transfer", "-1", "0", "own spendable", ""),
        ("spendable", "transfer", "2", "0", account_of(alice), "thanks"),
        ("earned", "inference", "3", "1", "consumer", ""),
    ]


def test_it_adds_up_to_the_balances(api, alice, bob, history):
    for person in (alice, bob):
        entries = Statement(person.accounts.all()).page(limit=100)
        has = transfers.balances(person)
        assert sum(entry.amount for entry in entries) == has.spendable + has.earned


def test_nothing_tells_who_the_others_are(api, alice, bob, history):
    for person, other in ((alice, bob), (bob, alice)):
        text = api(person).get(PATH).content.decode()
        assert other.username not in text.replace(account_of(other), "")
        assert other.email not in text


def test_pages_have_the_lists_of_the_house(api, bob, history):
    whole = api(bob).get(PATH)
    assert whole.headers["X-Total-Count"] == "4"
    pages = [api(bob).get(f"{PATH}?limit=1&offset={offset}") for offset in range(5)]
    assert [row for page in pages for row in page.json()] == whole.json()
    assert {page.headers["X-Total-Count"] for page in pages} == {"4"}
    assert api(bob).get(f"{PATH}?limit=0").status_code == 400


def test_kinds_accounts_and_dates_can_be_chosen(api, alice, bob, history):
    assert shown(api(alice).get(f"{PATH}?kind=inference"), "amount") == [("-4",)]
    both = api(alice).get(f"{PATH}?kind=inference,deposit")
    assert shown(both, "kind") == shown(api(alice).get(f"{PATH}?kind=inference&kind=deposit"), "kind")
    assert shown(api(bob).get(f"{PATH}?account=earned"), "amount") == [("-1",), ("3",)]
    times = list(Transfer.objects.order_by("id").values_list("at", flat=True))
    query = {"since": times[1].isoformat(), "until": times[2].isoformat()}
    assert shown(api(alice).get(PATH, query), "amount") == [("-4",)]
    assert api(alice).get(PATH, {"since": (timezone.now() + timedelta(days=1)).isoformat()}).json() == []


@pytest.mark.parametrize(
    "query", ["kind=theft", "kind=", "account=fees", "since=yesterday", "until=\0", "format=pdf"]
)
def test_what_cannot_be_chosen_is_refused(api, alice, query):
    reply = api(alice).get(f"{PATH}?{query}")
    assert reply.status_code == 400
    assert query.split("=")[0] in reply.json()["error"]["details"]["fields"]


def test_somebody_without_accounts_has_an_empty_statement(api, charlie):
    reply = api(charlie).get(PATH)
    assert (reply.json(), reply.headers["X-Total-Count"]) == ([], "0")


def test_a_table_has_the_same(api, bob, history):
    for reply in (api(bob).get(f"{PATH}?format=csv"), api(bob).get(PATH, HTTP_ACCEPT="text/csv")):
        assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(reply.getvalue().decode().splitlines()))
        assert [row["amount"] for row in rows] == ["1", "-1", "2", "3"]
        assert [row["transaction_id"] for row in rows] == [
            row["transaction_id"] for row in api(bob).get(PATH).json()
        ]


def test_a_long_table_is_read_in_pieces_and_complete(bob, history, fund, monkeypatch):
    whole = Statement(bob.accounts.all()).page(limit=100)
    for size in (3, 4, 5):
        monkeypatch.setattr(statements, "CHUNK", size)
        assert list(Statement(bob.accounts.all()).all()) == whole


def test_a_table_calculates_nothing(api, alice, bob, fund):
    fund(alice, 1)
    transfers.send(payer=alice, to=bob, amount=1, memo='=HYPERLINK("http://example.com")')
    text = api(bob).get(f"{PATH}?format=csv").getvalue().decode()
    assert next(csv.DictReader(text.splitlines()))["memo"].startswith("'=")


def test_the_marketplaces_accounts_have_statements_too(alice, bob, history, fund):
    fees = ledger.account(None, AccountKind.FEES)
    (entry,) = Statement([fees]).page(limit=10)
    assert (entry.amount, entry.transfer.reference) == (TOKEN, "inference:1")
    assert entry.counterparty.client_id == alice.pk
    fund(bob, 1, kind="earned")
    ledger.reverse(entry.transfer, reason="was wrong", by_id=None)
    assert [entry.amount for entry in Statement([fees]).page(limit=10)] == [-TOKEN, TOKEN]
    (back, *_) = Statement([ledger.account(bob.pk, AccountKind.EARNED)]).page(limit=10)
    assert (back.amount, back.counterparty_name) == (-3 * TOKEN, "consumer")


def test_money_for_the_marketplace_itself_is_one_entry(alice, fund):
    fund(alice, 5)
    ledger.hold(reference="h", client_id=alice.pk, amount=5)
    ledger.settle(
        reference="h", amount=5, fee=2, payee_id=None, payee_kind=AccountKind.FEES, kind=TransferKind.TRAINING
    )
    (entry,) = Statement([ledger.account(None, AccountKind.FEES)]).page(limit=10)
    assert entry.amount == 5


def test_without_a_credential_nothing(api, db):
    assert api().get(PATH).status_code == 401
