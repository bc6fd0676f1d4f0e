"""What is reserved, and freeing it."""

from datetime import timedelta

import pytest

from clients import ledger
from clients.models import (
    AccountKind,
    AuditEntry,
)
from inference.models import Inference
from tests.clients.admin.conftest import audited, hold_of, text_of


def request_of(person, status):
    return Inference.objects.create(
        client=person, face="/inference/", kind="chat", desired_model="toy", status=status
    )


def test_open_holds_come_oldest_first_and_say_what_is_late(browser, alice, fund):
    fund(alice, 100)
    failed, running = request_of(alice, "failed"), request_of(alice, "running")
    hold_of(alice, f"inference:{running.pk}", age=timedelta(seconds=5))
    hold_of(alice, f"inference:{failed.pk}", age=timedelta(hours=2))
    hold_of(alice, "inference:998", age=timedelta(minutes=10))
    ended = hold_of(alice, "training:1", age=timedelta(days=2))
    ledger.release(ended.pk)
    page = browser.get("/admin/clients/hold/")
    rows = page.context["cl"].result_list
    findings = [(row.pk, row.finding.says, row.finding.late) for row in rows]
    assert findings == [
        (f"inference:{failed.pk}", "failed", True),
        ("inference:998", "no record", True),
        (f"inference:{running.pk}", "running", False),
    ]
    assert "overdue" in text_of(page)
    assert f"/admin/inference/inference/{failed.pk}/change/" in text_of(page)
    assert [row.pk for row in browser.get("/admin/clients/hold/?state=ended").context["cl"].result_list] == [
        ended.pk
    ]
    everything = browser.get("/admin/clients/hold/?state=all").context["cl"].result_list
    assert [row.pk for row in everything] == [*(pk for pk, _, _ in findings), ended.pk]
    older = browser.get("/admin/clients/hold/?older=1h").context["cl"].result_list
    assert [row.pk for row in older] == [f"inference:{failed.pk}"]


def test_a_hold_is_released_by_hand_once_what_it_was_for_has_ended(books, act, alice, fund):
    fund(alice, 10)
    hold = hold_of(alice, f"inference:{request_of(alice, 'failed').pk}")
    assert 'name="reason"' in text_of(act("hold", "release", [hold]))
    assert "are free again" in text_of(act("hold", "release", [hold], reason="Stuck."))
    account = ledger.account(alice.pk, AccountKind.SPENDABLE)
    account.refresh_from_db()
    assert account.held == 0
    assert audited() == [("release_hold", "Stuck.")]
    assert AuditEntry.objects.get().details["freed"] == "3"
    act("hold", "release", [hold], reason="Again.")
    assert len(audited()) == 1


@pytest.mark.parametrize("what", ["running", "new", "unknown"])
def test_a_hold_that_may_be_needed_is_not_released(books, browser, alice, fund, what):
    fund(alice, 10)
    reference, age = {
        "running": (f"inference:{request_of(alice, 'running').pk}", timedelta(days=1)),
        "new": ("inference:998", timedelta(0)),
        "unknown": ("something:7", timedelta(days=1)),
    }[what]
    hold = hold_of(alice, reference, age=age)
    path = f"/admin/clients/hold/{reference.replace(':', '_3A')}/release/"
    page = text_of(browser.post(path, {"reason": "Stuck."}, follow=True))
    assert "has not ended" in page
    hold.refresh_from_db()
    assert (hold.ended_at, audited()) == (None, [])
