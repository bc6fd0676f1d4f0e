"""Orders whose task is nowhere to be found are released by an operator."""

from __future__ import annotations

from typing import Any

import pytest

from chain.models import Network, Purpose, TaskOrder
from clients import ledger, transfers
from marketplace.money import TOKEN
from tests.chain.admin import made
from tests.chain.admin.conftest import audited, text_of


@pytest.fixture
def order(network: Network, alice: Any, fund: Any, books: None) -> TaskOrder:
    """Alice's, with 2 held: its publication is final, and no task of it was read."""
    fund(alice, 10)
    task = made.task(made.source(network))
    found = made.task_order(task, alice, status="publishing", task_address="")
    ledger.hold(reference=found.reference, client_id=alice.pk, amount=found.payment, tokens=None)
    return found


def held(person: Any) -> float:
    return transfers.balances(person).held / TOKEN


def test_an_order_without_a_task_is_released_with_a_reason(
    browser: Any, clerk: Any, alice: Any, order: TaskOrder
) -> None:
    path = f"/admin/chain/taskorder/{order.pk}"
    assert f"{path}/release/" in text_of(browser.get(f"{path}/change/"))
    assert clerk.post(f"{path}/release/", {"reason": "x"}).status_code == 403
    assert "no task of it is known" in text_of(browser.get(f"{path}/release/"))
    assert held(alice) == 2
    page = text_of(browser.post(f"{path}/release/", {"reason": "The chain has none."}, follow=True))
    assert "is alice&#x27;s to use again" in page
    order.refresh_from_db()
    assert (order.status, order.paid, held(alice)) == ("failed", None, 0)
    assert order.ended_at is not None
    assert "The chain has none." in order.reason
    assert audited() == [("release_order", "The chain has none.")]
    assert f"{path}/release/" not in text_of(browser.get(f"{path}/change/"))


def test_likewise_one_that_was_published_and_whose_task_is_gone(
    browser: Any, alice: Any, order: TaskOrder
) -> None:
    TaskOrder.objects.filter(pk=order.pk).update(status="published", task_address=made.address())
    browser.post(f"/admin/chain/taskorder/{order.pk}/release/", {"reason": "It is gone."})
    order.refresh_from_db()
    assert (order.status, held(alice)) == ("failed", 0)


@pytest.mark.parametrize("what", ["there", "there by its address", "not read", "under way", "confirming"])
def test_no_other_order_is(browser: Any, alice: Any, network: Network, order: TaskOrder, what: str) -> None:
    if what == "there":
        task = made.task(made.source(network))
        type(task).objects.filter(pk=task.pk).update(transaction_hash=order.publication.hash)
    elif what == "there by its address":
        address = made.task(made.source(network)).address
        TaskOrder.objects.filter(pk=order.pk).update(status="published", task_address=address)
    elif what == "not read":
        Network.objects.filter(pk=network.pk).update(cursor_block=900)
    elif what == "under way":
        sent = made.transaction(network, Purpose.PUBLISH_TASK, status="sent", block_number=None)
        TaskOrder.objects.filter(pk=order.pk).update(publication=sent)
    else:
        TaskOrder.objects.filter(pk=order.pk).update(status="confirming", ended_at=None)
    before = TaskOrder.objects.get(pk=order.pk).status
    path = f"/admin/chain/taskorder/{order.pk}"
    assert f"{path}/release/" not in text_of(browser.get(f"{path}/change/"))
    said = text_of(browser.post(f"{path}/release/", {"reason": "Anyway."}, follow=True))
    assert "only where its publication has ended" in said
    order.refresh_from_db()
    assert (order.status, held(alice), audited()) == (before, 2, [])
