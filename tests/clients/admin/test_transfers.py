"""What moved, and giving it back."""

import pytest

from clients import ledger
from clients.models import (
    AccountKind,
    TransferKind,
)
from marketplace.money import TOKEN
from tests.clients.admin.conftest import audited, has, text_of


@pytest.mark.parametrize("query", [{"q": "inference:1"}, {"q": "alice"}, {"kind__exact": "inference"}])
def test_a_transfer_is_found(browser, pay, query):
    pay()
    assert "A long answer." in text_of(browser.get("/admin/clients/transfer/", query))


def test_a_search_leaves_out_the_rest(browser, pay):
    pay()
    for query in ({"q": "inference:2"}, {"q": "nothing"}, {"kind__exact": "payout"}):
        assert "A long answer." not in text_of(browser.get("/admin/clients/transfer/", query))


def test_a_transfer_is_given_back_with_a_reason(books, act, pay, alice):
    paid = pay()
    assert 'name="reason"' in text_of(act("transfer", "reverse", [paid]))
    assert has(alice) == 95
    act("transfer", "reverse", [paid], reason=" ")
    assert has(alice) == 95
    page = text_of(act("transfer", "reverse", [paid], reason="Wrong answers."))
    assert "5 OMNIT went back to alice spendable." in page
    assert has(alice) == 100
    assert audited() == [("reverse_transfer", "Wrong answers.")]
    assert "given back already" in text_of(act("transfer", "reverse", [paid], reason="Again."))
    assert len(audited()) == 1


def test_the_two_halves_of_a_reversal_name_each_other(browser, pay, operator):
    paid = pay()
    back = ledger.reverse(paid, reason="Wrong.", by_id=operator.pk)
    assert f"/transfer/{back.pk}/change/" in text_of(
        browser.get(f"/admin/clients/transfer/{paid.pk}/change/")
    )
    assert f"/transfer/{paid.pk}/change/" in text_of(
        browser.get(f"/admin/clients/transfer/{back.pk}/change/")
    )


def test_one_is_given_back_on_its_own_page(browser, pay, alice):
    path = f"/admin/clients/transfer/{pay().pk}/give-back/"
    assert path in text_of(browser.get(path.replace("give-back", "change")))
    assert 'name="reason"' in text_of(browser.get(path))
    assert has(alice) == 95
    assert "went back" in text_of(browser.post(path, {"reason": "Wrong answers."}, follow=True))
    assert has(alice) == 100


def test_credit_is_offered_where_the_payee_has_too_little(browser, act, pay, alice, bob, charlie):
    paid = pay()
    ledger.transfer(
        source=ledger.account(bob.pk, AccountKind.EARNED),
        destination=ledger.account(charlie.pk, AccountKind.SPENDABLE),
        amount=TOKEN,
        reference="t:1",
        kind=TransferKind.TRANSFER,
    )
    page = text_of(act("transfer", "reverse", [paid], reason="Wrong answers."))
    offered = f"/admin/clients/client/{alice.pk}/give-credit/?instead_of={paid.pk}"
    assert "no longer has what this paid: 4 are to go back and 3 OMNIT are free" in page
    assert offered in page
    assert (has(alice), audited()) == (95, [])
    form = browser.get(offered).context["form"]
    assert form["amount"].value() == "5"
    body = {"amount": "5", "reason": "Instead.", "token": form["token"].value()}
    for _ in range(2):
        browser.post(offered, body)
    assert has(alice) == 100
    assert audited() == [("grant", "Instead.")]
