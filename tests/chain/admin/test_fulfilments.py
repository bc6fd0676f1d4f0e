"""Our work on tasks: what operators see of it, trying it again, and giving it up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from chain.fulfilment import rows as held
from chain.models import Fulfilment, Network, Purpose
from marketplace.money import TOKEN
from tests.chain.admin import made
from tests.chain.admin.conftest import audited, text_of


@pytest.fixture
def work(network: Network) -> Any:
    """`work(status="failed")` is a fulfilment of a task of its own."""
    source = made.source(network)
    return lambda **fields: made.fulfilment(made.task(source), **fields)


def page_of(browser: Any, row: Fulfilment) -> str:
    return text_of(browser.get(f"/admin/chain/fulfilment/{row.pk}/change/"))


def test_it_shows_what_was_asked_who_does_it_and_what_it_brought(
    browser: Any, work: Any, network: Network, bob: Any
) -> None:
    sent = made.transaction(network, Purpose.ATTEMPT)
    row = work(
        status="confirmed", code="", reason="", provider=bob, paid=2 * TOKEN, fee=TOKEN // 10, attempt=sent,
        config={"function_name": "chat", "data": {"text": "<i>Hello</i>"}},
    )  # fmt: skip
    page = page_of(browser, row)
    for shown in (
        *(
            row.task_address,
            row.source_address,
            "confirmed and paid",
            "bob",
            "2 OMNIT",
            "0.1 OMNIT",
            "1.9 OMNIT",
        ),
        *(f"{sent.reference}: done", "&lt;i&gt;Hello"),
    ):
        assert shown in page, shown
    assert "<i>Hello" not in page


def test_its_token_is_not_shown(browser: Any, work: Any) -> None:
    row = work(status="found")
    taken = held.claim(row.pk, now=timezone.now() + timedelta(seconds=1))
    assert taken is not None
    assert str(taken.token) not in page_of(browser, row)


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        ("found", {"try-now", "give-up"}),
        ("working", {"try-now", "give-up"}),
        ("answering", set()),
        ("answered", set()),
        ("confirmed", set()),
        ("lost", set()),
        ("expired", set()),
        ("declined", {"try-now"}),
        ("failed", {"try-now"}),
    ],
)
def test_its_page_offers_what_can_be_done(browser: Any, work: Any, status: str, offered: set[str]) -> None:
    row = work(status=status)
    page = page_of(browser, row)
    assert {name for name in ("try-now", "give-up") if f"{row.pk}/{name}/" in page} == offered


def test_what_waits_is_tried_at_once(browser: Any, work: Any) -> None:
    row = work(status="checked", next_try_at=timezone.now() + timedelta(minutes=9), tries=4)
    browser.post(f"/admin/chain/fulfilment/{row.pk}/try-now/", {"reason": "The node is back."})
    row.refresh_from_db()
    assert row.next_try_at <= timezone.now()
    assert (row.status, row.tries) == ("checked", 4)
    assert audited() == [("try_fulfilment", "The node is back.")]


def test_what_has_failed_begins_again(act: Any, work: Any) -> None:
    row = work(status="declined", code="not_fetched", reason="Nobody answers there.", tries=3)
    act("fulfilment", "try_now", [row], reason="It answers now.")
    row.refresh_from_db()
    assert (row.status, row.code, row.tries) == ("found", "", 0)
    assert row.reason == "An operator has it tried once more: It answers now."
    assert held.claim(row.pk, now=timezone.now()) is not None


@pytest.mark.parametrize("answer", ["queued", "sent", "mined", "confirmed"])
def test_what_may_be_answered_does_not_begin_again(
    act: Any, work: Any, network: Network, answer: str
) -> None:
    sent = made.transaction(network, Purpose.RESPONSE, status=answer)
    row = work(status="failed", answer=sent)
    assert "nothing to try any more" in act("fulfilment", "try_now", [row], reason="Please.")
    row.refresh_from_db()
    assert row.status == "failed"
    assert audited() == []


def test_what_the_chain_has_refused_begins_again(act: Any, work: Any, network: Network) -> None:
    row = work(status="failed", answer=made.transaction(network, Purpose.RESPONSE, status="refused"))
    act("fulfilment", "try_now", [row], reason="Please.")
    row.refresh_from_db()
    assert row.status == "found"


def test_what_has_expired_does_not_begin_again(act: Any, work: Any) -> None:
    row = work(status="failed", expires_at=timezone.now() - timedelta(seconds=1))
    assert "nothing to try any more" in act("fulfilment", "try_now", [row], reason="Please.")


def test_it_is_given_up_and_who_works_on_it_writes_nothing_more(
    browser: Any, work: Any, network: Network
) -> None:
    waiting = made.transaction(network, Purpose.ATTEMPT, status="queued", nonce=None)
    row = work(status="found", attempt=waiting)
    taken = held.claim(row.pk, now=timezone.now() + timedelta(seconds=1))
    assert taken is not None
    browser.post(f"/admin/chain/fulfilment/{row.pk}/give-up/", {"reason": "It is spam."})
    with pytest.raises(held.TakenAway):
        held.note(taken, reason="Nearly done.")
    row.refresh_from_db()
    assert (row.status, row.code, row.reason) == (
        "failed",
        "given_up",
        "An operator has given it up: It is spam.",
    )
    waiting.refresh_from_db()
    assert waiting.status == "cancelled"
    assert audited() == [("give_up_fulfilment", "It is spam.")]


def test_what_is_answered_is_not_given_up(act: Any, work: Any) -> None:
    row = work(status="answering")
    assert "cannot be given up" in act("fulfilment", "give_up", [row], reason="Please.")
    row.refresh_from_db()
    assert row.status == "answering"
