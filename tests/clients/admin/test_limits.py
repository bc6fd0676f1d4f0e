"""Limits of accounts and API keys."""

import pytest

from clients import keys, ledger
from clients.models import (
    Allowance,
    AuditEntry,
)
from marketplace.money import TOKEN
from tests.clients.admin.conftest import audited, text_of


def test_the_limits_of_an_account_are_changed_with_a_reason(browser, alice):
    path = f"/admin/clients/client/{alice.pk}/limits/"
    assert path in text_of(browser.get(f"/admin/clients/client/{alice.pk}/change/"))
    body = {"budget_day": "2.5", "requests_per_minute": "60", "reason": "She asked for it."}
    assert browser.post(path, body).status_code == 302
    allowance = Allowance.objects.get(client=alice, api_key=None)
    assert (allowance.budget_day, allowance.requests_per_minute) == (2_500_000_000_000_000_000, 60)
    assert audited() == [("change_limits", "She asked for it.")]
    assert AuditEntry.objects.get().details == {
        "budget_day": ["no limit", "2.5 OMNIT"],
        "requests_per_minute": ["no limit", 60],
    }
    page = text_of(browser.get(f"/admin/clients/client/{alice.pk}/change/"))
    assert "Budget per day (UTC): 0 OMNIT of 2.5 OMNIT used" in page


def test_the_limits_of_a_key_say_what_is_used_and_keep_it(browser, alice, fund):
    fund(alice, 10)
    key = keys.create(alice, name="k", budget_total=5 * TOKEN, budget_day=5 * TOKEN).row
    ledger.hold(reference="inference:5", client_id=alice.pk, amount=2 * TOKEN, api_key_id=key.pk)
    page = text_of(browser.get(f"/admin/clients/apikey/{key.pk}/change/"))
    assert "Budget altogether: 2 OMNIT of 5 OMNIT used" in page
    path = f"/admin/clients/apikey/{key.pk}/limits/"
    form = browser.get(path)
    assert "2 OMNIT today" in text_of(form)
    assert form.context["form"]["budget_total"].value() == "5"
    browser.post(path, {"budget_total": "3", "reason": "Too much."})
    allowance = Allowance.objects.get(api_key=key)
    assert (allowance.budget_total, allowance.budget_day, allowance.total_used) == (
        3 * TOKEN,
        None,
        2 * TOKEN,
    )
    assert audited() == [("change_limits", "Too much.")]


@pytest.mark.parametrize(
    "body", [{"budget_day": "-1"}, {"concurrency": "0"}, {"concurrency": str(2**31)}, {"reason": ""}]
)
def test_odd_limits_are_a_form_error(browser, alice, body):
    reply = browser.post(f"/admin/clients/client/{alice.pk}/limits/", {"reason": "Why not."} | body)
    assert reply.status_code == 200
    assert not Allowance.objects.exists()


def test_limits_that_stay_leave_no_trace(browser, alice):
    browser.post(f"/admin/clients/client/{alice.pk}/limits/", {"reason": "Why not."})
    assert audited() == []
