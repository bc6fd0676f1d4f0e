"""Orders of tasks depend on nothing that may still go, and keep to the limits of withdrawals."""

from datetime import timedelta

import pytest

from chain import allowances, orders, outcomes
from chain.models import Log, Transaction
from clients import terms
from marketplace.money import TOKEN
from tests.chain.api import made
from tests.chain.api.made import published
from tests.chain.api.ordering import NOW, money_of, order

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books", "key")]


def test_a_response_is_confirmed_only_once_it_is_final(buyer, source):
    """Another one may stand at its address after a reorganisation."""
    made_ = order(buyer, source)
    response = made.response(published(made_), block_number=99)
    with pytest.raises(orders.NotFinal, match="Try again") as refused:
        orders.confirm(made_, response)
    assert refused.value.retry_after
    assert not Transaction.objects.filter(purpose="confirm").exists()
    made.grow(source.network, 1)
    response.network.refresh_from_db()
    orders.confirm(made_, response)


def test_a_source_that_is_not_final_takes_no_orders(buyer, local):
    source = made.source(local, block_number=99)
    with pytest.raises(orders.NotFinal, match="Try again"):
        order(buyer, source)
    assert money_of(buyer) == (10, 0)
    made.grow(local, 1)
    local.refresh_from_db()
    order(buyer, source)


@pytest.mark.parametrize("name", ["SourceUpdated", "SourceStatusChanged"])
def test_a_source_that_has_just_changed_takes_no_orders(buyer, source, name):
    """By an update it may have its tasks answered otherwise: whoever answers first is paid."""
    place = {
        "network": source.network, "block_hash": "0x", "address": made.address(1), "name": name, "at": NOW,
        "transaction_hash": made.digest(5),
    }  # fmt: skip
    Log.objects.create(**place, block_number=98, log_index=1, arguments={"source": source.address})
    Log.objects.create(**place, block_number=99, log_index=1, arguments={"source": made.address(2)})
    order(buyer, source)
    Log.objects.create(**place, block_number=99, log_index=2, arguments={"source": source.address})
    with pytest.raises(orders.NotFinal):
        order(buyer, source)
    made.grow(source.network, 1)
    source.network.refresh_from_db()
    order(buyer, source)


def test_the_days_limit_of_withdrawals_counts_orders_too(buyer, source, operator):
    terms.change(by=operator, reason="x", withdrawal_daily=3 * TOKEN)
    first = order(buyer, source, payment=2 * TOKEN)
    assert allowances.limits_of(buyer, now=NOW).used_today == 2 * TOKEN
    with pytest.raises(allowances.OverDailyLimit):
        order(buyer, source, payment=2 * TOKEN)
    with pytest.raises(allowances.OverDailyLimit):
        allowances.check_day(buyer, 2 * TOKEN, 3 * TOKEN, NOW)
    made.confirm(made.response(published(first), payment=TOKEN), block=95)
    outcomes.sweep(now=NOW)
    # What was paid counts, and what came back does not.
    assert allowances.limits_of(buyer, now=NOW).used_today == TOKEN
    second = order(buyer, source, payment=2 * TOKEN)
    orders.cancel(second)
    order(buyer, source, payment=2 * TOKEN)
    assert allowances.limits_of(buyer, now=NOW + timedelta(days=1)).used_today == 0


def test_what_an_operator_would_have_to_approve_is_not_ordered(buyer, source, operator):
    terms.change(by=operator, reason="x", withdrawal_approval_above=2 * TOKEN)
    with pytest.raises(orders.NeedsApproval, match="at most 2 OMNIT"):
        order(buyer, source, payment=2 * TOKEN + 1)
    assert money_of(buyer) == (10, 0)
    order(buyer, source, payment=2 * TOKEN)
