"""Accounts and their statements."""

import pytest

from clients import ledger
from clients.models import (
    AccountKind,
    TransferKind,
)
from marketplace.money import TOKEN
from tests.clients.admin.conftest import hold_of, text_of


@pytest.mark.parametrize("term", ["alice", "ALICE@example.com", "acc_", ""])
def test_an_account_is_found(browser, pay, wallet, term):
    term = wallet.name if term == "acc_" else term
    assert f"/account/{wallet.pk}/change/" in text_of(browser.get("/admin/clients/account/", {"q": term}))


def test_the_list_shows_what_is_in_stripes_too(browser, pay, bob):
    pay()
    page = text_of(browser.get("/admin/clients/account/", {"q": "bob"}))
    assert "4 OMNIT" in page


def test_a_statement_shows_what_was_held_after_each_entry(browser, pay, wallet, alice):
    pay(1), pay(2)
    hold_of(alice)
    page = browser.get(f"/admin/clients/account/{wallet.pk}/change/")
    held = [row[2:4] for row in page.context["statement"]["rows"]]
    assert held == [["-5 OMNIT", "90 OMNIT"], ["-5 OMNIT", "95 OMNIT"], ["100 OMNIT", "100 OMNIT"]]
    assert "inference:99" in text_of(page)
    assert "87 OMNIT" in text_of(page)  # spendable


@pytest.mark.parametrize("kind", ["fees", "earned", "spendable", "outside"])
def test_each_page_of_a_statement_goes_on_where_the_last_ended(browser, pay, alice, bob, monkeypatch, kind):
    monkeypatch.setattr("clients.admin.accounts.PAGE", 3)
    for number in range(4):
        pay(number + 1)
    owner = {"earned": bob.pk, "spendable": alice.pk}.get(kind)
    path = f"/admin/clients/account/{ledger.account(owner, AccountKind(kind)).pk}/change/"
    first, second = browser.get(path), browser.get(path, {"p": 2})
    rows = first.context["statement"]["rows"]
    if first.context["page"].paginator.num_pages > 1:
        rows = rows + second.context["statement"]["rows"]
    amounts = [int(row[2].split()[0]) for row in rows]
    after = [int(row[3].split()[0]) for row in rows]
    assert after == [sum(amounts[index:]) for index in range(len(amounts))]
    assert after[0] == ledger.balance(ledger.account(owner, AccountKind(kind))) / TOKEN


@pytest.mark.parametrize("page", ["x", "0", "-1", "99999999999999999999"])
def test_an_odd_page_of_a_statement_is_some_page(browser, pay, wallet, page):
    text_of(browser.get(f"/admin/clients/account/{wallet.pk}/change/", {"p": page}))


def test_a_statement_is_downloaded(browser, clerk, pay, wallet, charlie, alice):
    pay()
    ledger.transfer(
        source=wallet,
        destination=ledger.account(charlie.pk, AccountKind.SPENDABLE),
        amount=TOKEN,
        reference="t:1",
        kind=TransferKind.TRANSFER,
        memo="=1+1",
    )
    reply = clerk.get(f"/admin/clients/account/{wallet.pk}/statement.csv/")
    lines = b"".join(reply.streaming_content).decode().splitlines()
    assert reply["Content-Disposition"] == f'attachment; filename="{wallet.name}.csv"'
    assert lines[0].startswith("at,kind,amount,fee,currency,counterparty,owner,reference,memo")
    assert ",transfer,-1,0,OMNIT," in lines[1]
    assert lines[1].endswith("charlie spendable,t:1,'=1+1")
    assert ",inference,-5,1,OMNIT," in lines[2]
    assert len(lines) == 4


@pytest.mark.parametrize("path", ["999999/statement.csv/", "x/statement.csv/", "x/give-credit/"])
def test_an_account_that_is_not_there_is_not_found(browser, path):
    assert browser.get(f"/admin/clients/account/{path}").status_code in (403, 404)
