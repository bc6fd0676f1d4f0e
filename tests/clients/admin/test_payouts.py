"""Paying and refusing payouts."""

import pytest
from django.utils import timezone

from clients import payouts, terms
from clients.models import (
    AccountKind,
    Payout,
)
from marketplace.money import TOKEN
from tests.clients.admin.conftest import audited, has, text_of

NOW = timezone.now()


@pytest.fixture
def asked(bob, fund):
    fund(bob, 10, kind="earned")
    return [payouts.request(bob, amount=number * TOKEN, destination="0xabc") for number in (1, 2)]


def test_payouts_that_wait_come_first_the_oldest_on_top(browser, asked, bob, operator):
    payouts.refuse(asked[0], by=operator, reason="No.", now=NOW)
    third = payouts.request(bob, amount=TOKEN, destination="0xabc")
    rows = browser.get("/admin/clients/payout/").context["cl"].result_list
    assert [row.pk for row in rows] == [asked[1].pk, third.pk, asked[0].pk]


def test_a_payout_is_paid_with_a_note(books, act, asked, bob):
    assert 'name="reason"' in text_of(act("payout", "pay", asked))
    page = text_of(act("payout", "pay", asked, reason="Bank 17."))
    assert "2 OMNIT for bob: paid." in page
    assert has(bob, AccountKind.EARNED) == 7
    assert {payout.reason for payout in Payout.objects.all()} == {"Bank 17."}
    assert audited() == [("pay_payout", "Bank 17.")] * 2
    assert "already" in text_of(act("payout", "pay", asked, reason="Again."))
    assert has(bob, AccountKind.EARNED) == 7


def test_a_payout_is_refused_with_a_reason_on_its_own_page(books, browser, asked, bob):
    path = f"/admin/clients/payout/{asked[0].pk}/refuse/"
    assert path in text_of(browser.get(path.replace("refuse", "change")))
    browser.post(path, {"reason": "No such wallet."})
    assert Payout.objects.get(pk=asked[0].pk).status == "refused"
    assert audited() == [("refuse_payout", "No such wallet.")]


def test_nothing_is_paid_while_payouts_are_frozen_and_the_pages_say_so(books, act, browser, asked, operator):
    terms.change(by=operator, reason="We are looking into something.", payouts_frozen=True)
    for path in ("", f"{asked[0].pk}/change/"):
        page = text_of(browser.get(f"/admin/clients/payout/{path}"))
        assert "Payouts are frozen" in page
        assert "We are looking into something." in page
    assert "Payouts are frozen at the moment." in text_of(act("payout", "pay", asked, reason="Bank 17."))
    assert set(Payout.objects.values_list("status", flat=True)) == {"requested"}
    act("payout", "refuse", asked, reason="No such wallet.")
    assert set(Payout.objects.values_list("status", flat=True)) == {"refused"}
