"""Giving credit."""

import pytest

from clients import ledger
from clients.models import (
    AccountKind,
    Transfer,
)
from tests.clients.admin.conftest import audited, has, text_of


def test_credit_is_given_once_however_often_the_button_is_pressed(books, browser, alice):
    path = f"/admin/clients/client/{alice.pk}/give-credit/"
    assert path in text_of(browser.get(f"/admin/clients/client/{alice.pk}/change/"))
    token = browser.get(path).context["form"]["token"].value()
    for _ in range(2):
        page = text_of(
            browser.post(path, {"amount": "2.5", "reason": "Welcome.", "token": token}, follow=True)
        )
    assert "alice has 2.5 OMNIT more" in page
    assert has(alice) == 2.5
    assert audited() == [("grant", "Welcome.")]
    given = Transfer.objects.get()
    assert (given.kind, given.memo, given.by.username) == ("grant", "Welcome.", "operator")


@pytest.mark.parametrize("amount", ["", "0", "-1", "1e400", "nan", "0.0000000000000000001", "x", "9" * 90])
def test_an_odd_amount_is_a_form_error(browser, alice, amount):
    path = f"/admin/clients/client/{alice.pk}/give-credit/"
    body = {
        "amount": amount,
        "reason": "Welcome.",
        "token": browser.get(path).context["form"]["token"].value(),
    }
    reply = browser.post(path, body)
    assert reply.context["form"].errors["amount"]
    assert not Transfer.objects.exists()


def test_a_token_that_was_used_for_something_else_is_said(browser, alice, bob):
    body = {"amount": "1", "reason": "Welcome.", "token": "1" * 32}
    browser.post(f"/admin/clients/client/{alice.pk}/give-credit/", body)
    page = text_of(browser.post(f"/admin/clients/client/{bob.pk}/give-credit/", body, follow=True))
    assert "Another movement of money has this reference already." in page
    assert len(audited()) == 1


def test_an_accounts_page_leads_to_giving_credit(browser, wallet, alice):
    path = f"/admin/clients/account/{wallet.pk}/give-credit/"
    assert browser.get(path).url == f"/admin/clients/client/{alice.pk}/give-credit/"
    fees = ledger.account(None, AccountKind.FEES)
    assert browser.get(f"/admin/clients/account/{fees.pk}/give-credit/").status_code == 403
    assert "give-credit" not in text_of(browser.get(f"/admin/clients/account/{fees.pk}/change/"))
