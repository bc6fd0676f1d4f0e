"""What is sent to chains: what operators see of it, and what they do about it."""

from __future__ import annotations

from typing import Any

import pytest

from chain.models import Network, Purpose, Signed, Transaction
from tests.chain.admin import made
from tests.chain.admin.conftest import audited, text_of

GWEI = 10**9


def page_of(browser: Any, row: Transaction) -> str:
    return text_of(browser.get(f"/admin/chain/transaction/{row.pk}/change/"))


def test_a_transaction_shows_its_forms_its_fees_and_its_place(browser: Any, network: Network) -> None:
    row = made.transaction(network, Purpose.CONFIRM)
    bumped = made.hash_()
    Signed.objects.create(
        transaction=row, hash=bumped, raw=made.SECRET, nonce=row.nonce, gas=300_000, max_fee=7 * GWEI + 5 * 10**8,
        priority_fee=2 * GWEI, signed_at=row.created_at,
    )  # fmt: skip
    page = page_of(browser, row)
    for shown in (
        *(
            row.reference,
            row.hash,
            row.to,
            row.sender,
            row.block_hash,
            bumped,
            "5 gwei",
            "7.5 gwei",
            "3 gwei",
        ),
        *("confirm a response", "950 (final)", "0.00063 OMNIT", row.data),
    ):
        assert shown in page, shown


def test_what_was_signed_is_nowhere(browser: Any, clerk: Any, network: Network) -> None:
    row = made.transaction(network, Purpose.CONFIRM)
    for who in (browser, clerk):
        assert made.SECRET[2:] not in page_of(who, row)


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        ("queued", {"retry", "cancel"}),
        ("signed", {"retry", "bump"}),
        ("sent", {"retry", "bump"}),
        ("mined", set()),
        ("confirmed", set()),
        ("reverted", {"retry"}),
        ("refused", {"retry"}),
        ("cancelled", {"retry"}),
    ],
)
def test_its_page_offers_what_can_be_done(
    browser: Any, network: Network, status: str, offered: set[str]
) -> None:
    row = made.transaction(network, Purpose.CONFIRM, status=status)
    page = page_of(browser, row)
    assert {name for name in ("retry", "bump", "cancel") if f"{row.pk}/{name}/" in page} == offered


def test_one_that_was_refused_is_put_back(browser: Any, network: Network) -> None:
    row = made.transaction(network, Purpose.CONFIRM, status="refused", reason="NotClient")
    browser.post(f"/admin/chain/transaction/{row.pk}/retry/", {"reason": "It is the client now."})
    row.refresh_from_db()
    assert (row.status, row.nonce) == ("queued", None)
    assert audited() == [("retry_transaction", "It is the client now.")]


def test_one_that_was_carried_out_is_never_sent_again(act: Any, network: Network) -> None:
    row = made.transaction(network, Purpose.CONFIRM)
    assert "would be done twice" in act("transaction", "retry", [row], reason="Please.")
    row.refresh_from_db()
    assert row.status == "confirmed"
    assert audited() == []


def test_the_fees_of_one_under_way_are_raised(act: Any, network: Network) -> None:
    row, other = (made.transaction(network, Purpose.CONFIRM, status=each) for each in ("sent", "queued"))
    page = act("transaction", "bump", [row, other], reason="Too slow.")
    assert "higher fees change nothing" in page
    row.refresh_from_db()
    assert row.is_bump_wanted
    assert audited() == [("bump_transaction", "Too slow.")]


def test_one_that_waits_is_taken_back_and_one_that_is_signed_is_not(act: Any, network: Network) -> None:
    row, sent = (made.transaction(network, Purpose.FUND, status=each) for each in ("queued", "signed"))
    page = act("transaction", "cancel", [row, sent], reason="Not needed.")
    assert "cannot be taken back" in page
    for each, status in ((row, "cancelled"), (sent, "signed")):
        each.refresh_from_db()
        assert each.status == status
    assert audited() == [("cancel_transaction", "Not needed.")]


def test_it_leads_to_what_it_is_for(browser: Any, network: Network, alice: Any) -> None:
    rows = made.everything(network, alice)
    rows.withdrawal.transaction = rows.transaction
    rows.withdrawal.save()
    for row, page in (
        (rows.transaction, f"withdrawal/{rows.withdrawal.pk}"),
        (rows.fulfilment.attempt, f"fulfilment/{rows.fulfilment.pk}"),
        (rows.fulfilment.answer, f"fulfilment/{rows.fulfilment.pk}"),
        (rows.taskorder.publication, f"taskorder/{rows.taskorder.pk}"),
        (rows.sourceorder.publication, f"sourceorder/{rows.sourceorder.pk}"),
        (rows.publishedroot.transaction, f"publishedroot/{rows.publishedroot.pk}"),
    ):
        assert f'href="/admin/chain/{page}/change/"' in page_of(browser, row), page


def test_it_is_found_by_the_hash_of_an_earlier_form(browser: Any, network: Network) -> None:
    row = made.transaction(network, Purpose.CONFIRM, status="sent")
    made.transaction(network, Purpose.CONFIRM)
    earlier, row.hash = row.hash, made.hash_()
    row.save()
    found = browser.get("/admin/chain/transaction/", {"q": earlier}).context["cl"].result_list
    assert [each.pk for each in found] == [row.pk]
