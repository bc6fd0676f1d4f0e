"""The page that says whether the ledger and the chains agree."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.utils.html import escape

from chain import networks, reconciliation
from chain.models import Log, Network, Reconciliation
from tests.chain.admin import made
from tests.chain.admin.conftest import audited, text_of


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch, network: Network) -> list[Any]:
    """The network is followed; who has had what compared."""
    found: list[Any] = []

    def run(on: Network, *, now: Any, by: Any = None) -> Reconciliation:
        found.append((on, by))
        return made.reconciliation(on, off_by=len(found) - 1)

    monkeypatch.setattr(networks, "followed", lambda: [network])
    monkeypatch.setattr(reconciliation, "run", run)
    return found


def test_the_latest_of_each_network_is_shown_line_by_line(browser: Any, network: Network) -> None:
    other = made.network("other")
    made.reconciliation(other, off_by=5)
    made.reconciliation(network, off_by=3)
    made.reconciliation(network)
    page = text_of(browser.get("/admin/chain/reconciliation/"))
    latest = [each["row"] for each in browser.get("/admin/chain/reconciliation/").context["latest"]]
    assert [(each.network, each.is_balanced) for each in latest] == [(network, True), (other, False)]
    for shown in (
        *("local: the ledger and the chain agree", "other: the ledger and the chain do not agree"),
        *(
            "nothing explains 0.000000000000000005 OMNIT",
            "What the Treasury holds.",
            "100 OMNIT",
            "110 OMNIT",
        ),
        "10 OMNIT: deposits that nobody has claimed",
    ):
        assert shown in page, shown
    assert "0.000000000000000003 OMNIT" in page  # in the history below


def test_rows_that_are_wrong_are_named_though_the_sums_agree(browser: Any, network: Network) -> None:
    made.reconciliation(network, wrong=["deposit 7: credited <b>twice</b>"])
    page = text_of(browser.get("/admin/chain/reconciliation/"))
    assert "deposit 7: credited &lt;b&gt;twice" in page
    assert "there are rows that should not be so" in page


def test_before_the_first_the_page_says_so(browser: Any) -> None:
    assert "Nothing was compared yet." in text_of(browser.get("/admin/chain/reconciliation/"))


def test_its_own_page_has_the_lines_too(browser: Any, network: Network) -> None:
    row = made.reconciliation(network, off_by=1)
    page = text_of(browser.get(f"/admin/chain/reconciliation/{row.pk}/change/"))
    for shown in ("does not add up", "What the Vault owes us.", "0.000000000000000001 OMNIT", "block"):
        assert shown in page, shown


def test_it_is_run_by_a_button_and_never_by_a_link(
    browser: Any, operator: Any, network: Network, comparisons: list[Any]
) -> None:
    path = "/admin/chain/reconciliation/run/"
    assert path in text_of(browser.get("/admin/chain/reconciliation/"))
    assert "local" in text_of(browser.get(path))
    assert comparisons == []
    assert "local at block 980 adds up." in text_of(browser.post(path, follow=True))
    page = text_of(browser.post(path, follow=True))
    assert "local at block 980 does not add up: nothing explains 0.000000000000000001 OMNIT" in page
    assert comparisons == [(network, operator)] * 2


def test_who_may_only_look_runs_nothing(clerk: Any, comparisons: list[Any]) -> None:
    path = "/admin/chain/reconciliation/run/"
    assert path not in text_of(clerk.get("/admin/chain/reconciliation/"))
    assert clerk.get(path).status_code == clerk.post(path).status_code == 403
    assert comparisons == []


def test_a_real_comparison_is_run_and_shown(browser: Any, sending: Any) -> None:
    sending.deposit(0, 100)
    sending.index()
    page = text_of(browser.post("/admin/chain/reconciliation/run/", follow=True))
    row = Reconciliation.objects.get()
    assert f"{sending.network} at block {row.block_number} adds up." in page
    for line in row.lines:
        assert escape(line["says"]) in page


def test_a_payment_that_the_books_do_not_know_is_acknowledged_with_a_reason(
    browser: Any, clerk: Any, network: Network
) -> None:
    log = made.log(network, "Withdrawn")
    said = {"reference": "0x" + "01" * 32, "amount": "7", "to": made.address(), "sent": True}
    place = {"address": network.address("TREASURY"), "block_number": 950}
    Log.objects.filter(pk=log.pk).update(**place, arguments=said)
    path = "/admin/chain/reconciliation/acknowledge-payments/"
    assert clerk.post(path, {"reason": "x", ACTION_CHECKBOX_NAME: [log.pk]}).status_code == 403
    page = text_of(browser.get(path))
    assert said["reference"] in page
    # One that came later is not acknowledged with those that were shown.
    assert "01" * 32 not in text_of(browser.post(path, {"reason": "Unseen."}, follow=True))
    assert audited() == []
    body = {"reason": "From before the restore.", ACTION_CHECKBOX_NAME: [log.pk]}
    assert "is acknowledged." in text_of(browser.post(path, body, follow=True))
    assert audited() == [("acknowledge_payment", "From before the restore.")]
    assert said["reference"] not in text_of(browser.get(path))


def test_a_difference_is_acknowledged_with_a_reason(browser: Any, clerk: Any, network: Network) -> None:
    fine, off = made.reconciliation(network), made.reconciliation(network, off_by=3)
    path = f"/admin/chain/reconciliation/{off.pk}"
    assert clerk.post(f"{path}/acknowledge/", {"reason": "x"}).status_code == 403
    assert f"{path}/acknowledge/" in text_of(browser.get(f"{path}/change/"))
    assert "/acknowledge/" not in text_of(browser.get(f"/admin/chain/reconciliation/{fine.pk}/change/"))
    assert "treasury: 0.000000000000000003 OMNIT" in text_of(browser.get(f"{path}/acknowledge/"))
    page = text_of(browser.post(f"{path}/acknowledge/", {"reason": "Forced in."}, follow=True))
    assert "is acknowledged" in page
    assert audited() == [("acknowledge_difference", "Forced in.")]
