"""Every page about money: who sees it, and that nothing is changed by it."""

import re

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import connection
from django.test.utils import CaptureQueriesContext

from clients import keys, ledger, payouts, terms
from clients.models import (
    AccountKind,
    AuditEntry,
    Hold,
    Payout,
    Terms,
    Transfer,
)
from marketplace.money import TOKEN
from tests.clients.admin.conftest import audited, enter, hold_of, text_of


@pytest.fixture
def everything(pay, alice, bob, operator, wallet):
    """One row at least of each kind: the admin's path of it."""
    paid = pay()
    ledger.reverse(paid, reason="Wrong.", by_id=operator.pk)
    told = terms.change(by=operator, reason="A share.", fee_bps=250, max_input_price=7 * TOKEN)
    hold = hold_of(alice)
    payout = Payout.objects.create(client=bob, amount=TOKEN, destination="0x1")
    rows = {
        "account": wallet, "transfer": paid, "hold": hold, "payout": payout, "terms": told,
        "auditentry": AuditEntry.objects.get(),
    }  # fmt: skip
    return {name: row.pk for name, row in rows.items()}


PAGES = ["account", "transfer", "hold", "payout", "terms", "auditentry"]


@pytest.mark.parametrize("name", PAGES)
def test_every_list_and_row_opens_and_shows_tokens_never_base_units(browser, clerk, everything, name):
    quoted = str(everything[name]).replace(":", "_3A")
    for path in ("", "?q=alice", "?q=acc_1", "?q=💥", f"{quoted}/change/"):
        for who in (browser, clerk):
            page = text_of(who.get(f"/admin/clients/{name}/{path}"))
            assert not re.search(
                r"\d{16}", re.sub(r"<script.*?</script>|<svg.*?</svg>", "", page, flags=re.S)
            )


@pytest.mark.parametrize("name", PAGES)
def test_a_row_is_neither_changed_nor_deleted_nor_added(browser, everything, name):
    quoted = str(everything[name]).replace(":", "_3A")
    path = f"/admin/clients/{name}"
    assert browser.post(f"{path}/{quoted}/change/", {"memo": "x", "amount": "1"}).status_code == 403
    assert browser.post(f"{path}/{quoted}/delete/", {"post": "yes"}).status_code == 403
    assert name == "terms" or browser.get(f"{path}/add/").status_code == 403
    assert "delete_selected" not in text_of(browser.get(f"{path}/"))


@pytest.mark.parametrize("name", PAGES)
def test_who_has_no_permission_does_not_get_in(charlie, everything, name):
    charlie.is_staff = True
    charlie.save()
    quoted = str(everything[name]).replace(":", "_3A")
    for path in (f"/admin/clients/{name}/", f"/admin/clients/{name}/{quoted}/change/"):
        assert enter(charlie).get(path).status_code == 403
    assert "/admin/clients/transfer/" not in text_of(enter(charlie).get("/admin/"))


@pytest.mark.parametrize("name", PAGES)
def test_others_do_not_come_in(alice, everything, name):
    assert enter(alice).get(f"/admin/clients/{name}/").status_code == 302


def test_who_may_only_look_does_nothing(clerk, pay, alice, bob, fund):
    paid, hold = pay(), hold_of(alice)
    fund(bob, 5, kind="earned")
    payout = payouts.request(bob, amount=TOKEN, destination="0x1")
    key = keys.create(alice, name="k").row
    reason = {"reason": "Because.", "amount": "1", "token": "0" * 32}
    for path in (
        f"transfer/{paid.pk}/give-back/",
        f"hold/{hold.pk.replace(':', '_3A')}/release/",
        f"payout/{payout.pk}/pay/",
        f"payout/{payout.pk}/refuse/",
        f"client/{alice.pk}/give-credit/",
        f"client/{alice.pk}/limits/",
        f"apikey/{key.pk}/limits/",
        "terms/freeze-payouts/",
        "terms/unfreeze-payouts/",
        "terms/add/",
    ):
        assert clerk.post(f"/admin/clients/{path}", reason).status_code == 403, path
        assert clerk.get(f"/admin/clients/{path}").status_code == 403, path
    for model, action, row in (
        ("transfer", "reverse", paid),
        ("hold", "release", hold),
        ("payout", "pay", payout),
        ("payout", "refuse", payout),
    ):
        clerk.post(f"/admin/clients/{model}/", {"action": action, ACTION_CHECKBOX_NAME: [row.pk], **reason})
    assert (Transfer.objects.filter(kind="reversal").count(), Terms.objects.count(), audited()) == (0, 0, [])
    assert Hold.objects.filter(ended_at=None).count() == 2


def test_lists_take_few_queries_however_long(browser, pay, alice, bob, fund, django_assert_max_num_queries):
    for number in range(30):
        pay(number=number + 1, tokens=2)
        hold_of(alice, reference=f"inference:{number + 100}", tokens=1)
        fund(bob, 1, kind="earned")
    for number in range(15):
        payouts.request(bob, amount=TOKEN + number, destination="0x1")
    earned = ledger.account(bob.pk, AccountKind.EARNED)
    paths = [*PAGES, f"account/{earned.pk}/change", f"client/{alice.pk}/change"]
    for path in paths:
        with django_assert_max_num_queries(26):
            text_of(browser.get(f"/admin/clients/{path}/"))


def test_lists_of_many_rows_count_nothing(browser, pay, alice):
    pay(), hold_of(alice)
    for name in ("account", "transfer", "hold", "auditentry"):
        with CaptureQueriesContext(connection) as queries:
            browser.get(f"/admin/clients/{name}/")
        counted = [q["sql"] for q in queries if "COUNT(" in q["sql"] and f'"clients_{name}"' in q["sql"]]
        assert not counted
