"""Orders that are cancelled, or that expire: nothing is charged."""

from datetime import timedelta

import pytest

from chain import orders, outcomes
from chain.models import (
    TaskStatus,
    Transaction,
    TransactionStatus,
)
from tests.chain.api import made
from tests.chain.api.made import carried_out, failed, published
from tests.chain.api.ordering import NOW, free, money_of, order

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books", "key")]
LATER = NOW + timedelta(hours=2)


def test_the_owner_cancels_before_it_is_published(buyer, source):
    made_ = order(buyer, source)
    cancelled = orders.cancel(made_)

    assert cancelled.status == "cancelled"
    assert money_of(buyer) == (10, 0)
    assert Transaction.objects.get(pk=made_.publication_id).status == "cancelled"
    outcomes.sweep(now=NOW)
    assert Transaction.objects.get(pk=made_.deposit_id).status == "cancelled"
    assert free(source.network) == 0


def test_what_is_being_published_cannot_be_cancelled(buyer, source):
    made_ = order(buyer, source)
    Transaction.objects.filter(pk=made_.publication_id).update(status=TransactionStatus.SENT)
    with pytest.raises(orders.NotNow):
        orders.cancel(made_)
    assert money_of(buyer) == (9, 1)


def test_the_owner_cancels_what_nobody_has_begun(buyer, source):
    made_ = order(buyer, source)
    task = published(made_)
    made_.refresh_from_db()
    orders.cancel(made_)
    made_.refresh_from_db()
    assert (made_.status, made_.cancellation.purpose) == ("cancelling", "cancel_task")
    assert money_of(buyer) == (9, 1)

    made.end(task, TaskStatus.CANCELED, block=95)
    carried_out(made_.cancellation)
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer), free(source.network)) == ("cancelled", (10, 0), 1)


def test_what_a_provider_has_begun_is_not_cancelled(buyer, source):
    made_ = order(buyer, source)
    task = published(made_)
    task.status = TaskStatus.ATTEMPTED
    task.save()
    made_.refresh_from_db()
    with pytest.raises(orders.NotNow, match="quicker"):
        orders.cancel(made_)


def test_a_refused_cancellation_leaves_the_task_as_it_was(buyer, source):
    made_ = order(buyer, source)
    published(made_)
    made_.refresh_from_db()
    orders.cancel(made_)
    made_.refresh_from_db()
    failed(made_.cancellation, TransactionStatus.REFUSED, "AlreadyFinalized")
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer)) == ("published", (9, 1))
    assert "AlreadyFinalized" in made_.reason
    again = orders.cancel(made_)
    assert again.cancellation.reference != made_.cancellation.reference


def test_an_expired_task_is_freed_on_the_chain(buyer, source):
    made_ = order(buyer, source)
    task = published(made_)
    outcomes.sweep(now=NOW + timedelta(minutes=59))
    made_.refresh_from_db()
    assert made_.status == "published"

    outcomes.sweep(now=LATER)
    made_.refresh_from_db()
    assert made_.status == "cancelling"
    made.end(task, TaskStatus.EXPIRED, block=95)
    carried_out(made_.cancellation)
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer), free(source.network)) == ("expired", (10, 0), 1)


def test_a_refused_expiry_is_tried_again_a_while_later(buyer, source):
    made_ = order(buyer, source)
    published(made_)
    outcomes.sweep(now=LATER)
    made_.refresh_from_db()
    failed(made_.cancellation, TransactionStatus.REFUSED, "NotDue")
    Transaction.objects.filter(pk=made_.cancellation_id).update(ended_at=LATER)
    for passed, status in ((30, "published"), (61, "cancelling")):
        outcomes.sweep(now=LATER + timedelta(seconds=passed))
        made_.refresh_from_db()
        assert made_.status == status
