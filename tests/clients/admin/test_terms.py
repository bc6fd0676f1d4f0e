"""Changing the terms, and freezing payouts."""

import pytest

from clients import terms
from clients.models import (
    AuditEntry,
    Terms,
)
from marketplace.money import TOKEN
from tests.clients.admin.conftest import audited, text_of


@pytest.fixture
def form(browser):
    """`form(fee_bps=5)`: send the page that changes the terms, with what it shows and these changes."""

    def send(**changes):
        fields = browser.get("/admin/clients/terms/add/").context["adminform"].form
        body = {name: fields[name].value() for name in fields.fields}
        body = {name: value for name, value in body.items() if value is not None and value is not False}
        return browser.post("/admin/clients/terms/add/", body | {"reason": "Why not."} | changes)

    return send


def test_the_terms_are_changed_by_a_new_row(form, operator):
    terms.change(by=operator, reason="A start.", fee_bps=100, default_input_price=TOKEN)
    reply = form(fee_bps="250", max_output_price="7.5", reason="A share.")
    assert reply.status_code == 302
    now = terms.current()
    assert (now.fee_bps, now.default_input_price, now.max_output_price) == (
        250,
        TOKEN,
        7_500_000_000_000_000_000,
    )
    assert (now.reason, now.by, Terms.objects.count()) == ("A share.", operator, 2)
    entry = AuditEntry.objects.first()
    assert (entry.action, entry.reason) == ("change_terms", "A share.")
    assert entry.details == {"fee_bps": [100, 250], "max_output_price": [None, "7.5"]}


def test_the_first_terms_are_set(form):
    assert form(fee_bps="100").status_code == 302
    assert terms.current().fee_bps == 100


def test_a_limit_is_taken_away(form, operator):
    terms.change(by=operator, reason="A start.", max_output_price=TOKEN)
    assert form(max_output_price="").status_code == 302
    assert terms.current().max_output_price is None


@pytest.mark.parametrize(
    "changes",
    [
        {"fee_bps": "10001"},
        {"fee_bps": "-1"},
        {"fee_bps": ""},
        {"default_input_price": "-1"},
        {"default_input_price": ""},
        {"max_hour_price": "x"},
        {"min_hour_price": "2", "max_hour_price": "1"},
        {"default_hour_price": "2", "max_hour_price": "1"},
        {"default_input_price": "1", "min_input_price": "2"},
        {"reason": ""},
        {"fee_bps": "5", "based_on": "77"},
        {},
    ],
)
def test_terms_that_make_no_sense_are_a_form_error(form, changes):
    reply = form(**({"fee_bps": "5"} | changes if changes else {}))
    assert reply.status_code == 200
    assert reply.context["adminform"].form.errors
    assert not Terms.objects.exists()


def test_payouts_are_frozen_and_unfrozen_with_a_reason(browser):
    page = text_of(browser.get("/admin/clients/terms/"))
    assert "freeze-payouts/" in page
    assert "unfreeze-payouts/" not in page
    assert 'name="reason"' in text_of(browser.get("/admin/clients/terms/freeze-payouts/"))
    assert not Terms.objects.exists()
    for _ in range(2):
        page = text_of(
            browser.post("/admin/clients/terms/freeze-payouts/", {"reason": "Odd transfers."}, follow=True)
        )
    assert "unfreeze-payouts/" in page
    assert "Payouts are frozen already." in page
    assert terms.current().payouts_frozen
    browser.post("/admin/clients/terms/unfreeze-payouts/", {"reason": "All is well."})
    assert not terms.current().payouts_frozen
    assert audited() == [("change_terms", "Odd transfers."), ("change_terms", "All is well.")]


def test_limits_of_withdrawals_are_set_and_taken_away(form):
    assert (
        form(withdrawal_minimum="0.5", withdrawal_daily="100", withdrawal_approval_above="20").status_code
        == 302
    )
    now = terms.current()
    assert (now.withdrawal_minimum, now.withdrawal_daily, now.withdrawal_approval_above) == (
        TOKEN // 2,
        100 * TOKEN,
        20 * TOKEN,
    )
    assert form(withdrawal_daily="").status_code == 302
    assert terms.current().withdrawal_daily is None
    assert terms.current().withdrawal_minimum == TOKEN // 2
