"""Orders of tasks, from the ledger to the chain and back: what is held, reused, given back and paid."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from chain import allowances, floats, orders, outbox, outcomes
from chain.models import (
    Log,
    ResponseStatus,
    TaskOrder,
    TaskStatus,
    Transaction,
    TransactionStatus,
    VaultFloat,
)
from clients import accounts, ledger, terms
from clients.models import Transfer
from marketplace.errors import InvalidRequest
from marketplace.money import TOKEN
from tests.chain.api import made
from tests.chain.api.made import carried_out, failed, published
from tests.chain.api.ordering import NOW, broken_checks, free, money_of, order, outside

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("books", "key")]
LATER = NOW + timedelta(hours=2)


def test_an_order_holds_the_payment_and_sends_deposit_and_publication(buyer, source):
    made_ = order(buyer, source)

    assert money_of(buyer) == (9, 1)
    deposit, publication = made_.deposit, made_.publication
    assert (deposit.purpose, deposit.value, deposit.to) == (
        "vault_deposit",
        TOKEN,
        source.network.address("VAULT"),
    )
    assert (publication.purpose, publication.value, publication.after) == ("publish_task", 0, deposit)
    assert publication.to == source.network.address("CONTROLLER")
    assert deposit.expires_at == publication.expires_at == made_.expires_at
    assert deposit.sender == publication.sender == made_.publisher


def test_it_is_published_answered_confirmed_and_paid(buyer, source):
    made_ = order(buyer, source)
    task = published(made_)
    made_.refresh_from_db()
    assert (made_.status, made_.task_address) == ("published", task.address)
    response = made.response(task, payment=TOKEN)
    orders.confirm(made_, response)
    made_.refresh_from_db()
    assert (made_.status, made_.confirmation.purpose) == ("confirming", "confirm")
    assert money_of(buyer) == (9, 1)

    made.confirm(response, block=95)
    carried_out(made_.confirmation)

    made_.refresh_from_db()
    assert (made_.status, made_.paid) == ("finished", TOKEN)
    assert money_of(buyer) == (9, 0)
    assert (outside(), free(source.network)) == (9, 0)
    transfer = Transfer.objects.get(reference=made_.reference)
    assert (transfer.kind, transfer.amount, transfer.fee) == ("onchain", TOKEN, 0)


def test_a_response_that_asks_for_less_leaves_the_rest_for_the_next_order(buyer, source):
    made_ = order(buyer, source)
    response = made.response(published(made_), payment=TOKEN // 4)
    made.confirm(response, block=95)
    outcomes.sweep(now=NOW)

    assert money_of(buyer) == (9.75, 0)
    assert free(source.network) == 0.75
    second = order(buyer, source)
    assert (second.reused, second.deposit.value) == (TOKEN * 3 // 4, TOKEN // 4)
    assert free(source.network) == 0


def test_an_order_that_needs_no_deposit_sends_none(buyer, source):
    VaultFloat.objects.create(network=source.network, address=made.ADDRESS, free=3 * TOKEN)
    first, second = order(buyer, source), order(buyer, source, payment=3 * TOKEN)

    assert (first.deposit, first.publication.after, first.reused) == (None, None, TOKEN)
    assert (second.reused, second.deposit.value) == (2 * TOKEN, TOKEN)
    assert free(source.network) == 0


def test_a_confirmation_counts_only_when_it_is_final(buyer, source):
    made_ = order(buyer, source)
    response = made.response(published(made_), payment=TOKEN)
    made.confirm(response, block=99)
    outcomes.sweep(now=NOW)
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer)) == ("published", (9, 1))

    made.grow(source.network, 1)
    outcomes.sweep(now=NOW)
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer)) == ("finished", (9, 0))
    outcomes.sweep(now=NOW)
    assert outside() == 9


@pytest.mark.parametrize("status", [TransactionStatus.REVERTED, TransactionStatus.REFUSED])
def test_what_could_not_be_published_costs_nothing(buyer, source, status):
    made_ = order(buyer, source)
    carried_out(made_.deposit)
    failed(made_.publication, status, "SourceInactive")

    made_.refresh_from_db()
    assert (made_.status, made_.reason) == ("failed", "The source takes no tasks any more. (SourceInactive)")
    assert money_of(buyer) == (10, 0)
    # It was deposited, and waits there for the next order.
    assert free(source.network) == 1


def test_a_deposit_that_failed_gives_back_only_what_was_there(buyer, source):
    VaultFloat.objects.create(network=source.network, address=made.ADDRESS, free=TOKEN // 2)
    made_ = order(buyer, source)
    failed(made_.deposit, TransactionStatus.REFUSED, "no coins")
    failed(made_.publication, TransactionStatus.REFUSED, "What it was to follow is refused")

    made_.refresh_from_db()
    assert (made_.status, money_of(buyer), free(source.network)) == ("failed", (10, 0), 0.5)


def test_a_deposit_that_arrives_after_its_order_has_ended_is_for_the_next_one(buyer, source):
    made_ = order(buyer, source)
    failed(made_.publication, TransactionStatus.REFUSED, "too late")
    assert free(source.network) == 0
    carried_out(made_.deposit)

    assert (money_of(buyer), free(source.network)) == ((10, 0), 1)


def test_what_was_thought_to_be_in_the_vault_and_is_not_is_deposited_by_the_next_order(buyer, source):
    VaultFloat.objects.create(network=source.network, address=made.ADDRESS, free=5 * TOKEN)
    made_ = order(buyer, source)
    failed(made_.publication, TransactionStatus.REFUSED, "InsufficientBalance")

    assert (money_of(buyer), free(source.network)) == ((10, 0), 0)
    assert order(buyer, source).deposit.value == TOKEN


def test_a_response_gives_the_owner_a_day_more_to_confirm(buyer, source):
    made_ = order(buyer, source)
    task = published(made_)
    made.response(task)
    task.status = TaskStatus.RESPONDED
    task.save()
    outcomes.sweep(now=LATER)
    made_.refresh_from_db()
    assert made_.status == "published"
    outcomes.sweep(now=LATER + timedelta(days=1))
    made_.refresh_from_db()
    assert made_.status == "cancelling"


def test_an_end_on_the_chain_counts_only_when_it_is_final(buyer, source):
    made_ = order(buyer, source)
    task = published(made_)
    made.end(task, TaskStatus.EXPIRED, block=99)
    outcomes.sweep(now=NOW)
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer)) == ("published", (9, 1))
    made.grow(source.network, 1)
    outcomes.sweep(now=NOW)
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer)) == ("expired", (10, 0))


def test_a_confirmation_that_is_refused_leaves_it_open(buyer, source):
    made_ = order(buyer, source)
    response = made.response(published(made_))
    orders.confirm(made_, response)
    made_.refresh_from_db()
    failed(made_.confirmation, TransactionStatus.REVERTED, "Paused")
    made_.refresh_from_db()
    assert (made_.status, money_of(buyer)) == ("published", (9, 1))
    assert "Paused" in made_.reason
    orders.confirm(made_, response)


def test_a_response_is_confirmed_once_at_a_time(buyer, source):
    made_ = order(buyer, source)
    task = published(made_)
    first, second = made.response(task), made.response(task, 22)
    orders.confirm(made_, first)
    for response in (first, second):
        with pytest.raises(orders.NotNow):
            orders.confirm(made_, response)
    assert Transaction.objects.filter(purpose="confirm").count() == 1


def test_only_a_response_to_this_very_task_is_confirmed(buyer, source):
    made_ = order(buyer, source)
    published(made_)
    other = made.response(made.task(source, 55))
    with pytest.raises(orders.NotNow, match="another task"):
        orders.confirm(made_, other)


def test_a_task_that_was_published_unseen_is_found_by_the_sweep(buyer, source):
    """The event may be read after the transaction's end, if somebody has read the chain anew."""
    made_ = order(buyer, source)
    carried_out(made_.deposit)
    carried_out(made_.publication)
    made_.refresh_from_db()
    assert made_.status == "publishing"
    published(made_, ended=True)
    outcomes.sweep(now=NOW)
    made_.refresh_from_db()
    assert made_.status == "published"


def test_nothing_is_ordered_that_cannot_be_paid(buyer, source):
    with pytest.raises(ledger.InsufficientFunds):
        order(buyer, source, payment=11 * TOKEN)
    assert not TaskOrder.objects.exists()
    assert not Transaction.objects.exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"payment": 10**14}, "at least"), ({"expires_at": NOW + timedelta(seconds=30)}, "at least 60"),
     ({"expires_at": NOW + timedelta(days=2)}, "at most 86400"), ({"expires_at": NOW - timedelta(days=2)}, "at least")],
)  # fmt: skip
def test_what_the_contract_would_refuse_is_refused_before(buyer, source, fields, words):
    with pytest.raises(orders.NotOffered, match=words):
        order(buyer, source, **fields)
    assert money_of(buyer) == (10, 0)


def test_a_source_that_is_closed_takes_no_orders(buyer, source):
    source.status = 1
    with pytest.raises(orders.NotOffered, match="no tasks any more"):
        order(buyer, source)


def test_so_many_may_be_open(buyer, source, monkeypatch):
    monkeypatch.setattr(orders, "MAX_OPEN", 2)
    order(buyer, source)
    second = order(buyer, source)
    with pytest.raises(orders.TooManyOrders):
        order(buyer, source)
    orders.cancel(second)
    order(buyer, source)


def test_an_operator_cannot_have_it_published_after_all_once_it_has_ended(buyer, source, operator):
    """Its money is free again, and somebody else's may be in the Vault."""
    made_ = order(buyer, source)
    failed(made_.publication, TransactionStatus.REFUSED, "SourceInactive")
    for row in (made_.publication, made_.deposit):
        row.refresh_from_db()
        assert "Nobody needs it any more" in outbox.reason_to_wait(row)
    with pytest.raises(outbox.TooLate):
        outbox.retry(made_.publication, operator)


def test_what_is_under_way_may_be_sent(buyer, source):
    made_ = order(buyer, source)
    assert outbox.reason_to_wait(made_.deposit) == outbox.reason_to_wait(made_.publication) == ""


def test_other_peoples_transactions_are_left_alone(buyer, source):
    made_ = order(buyer, source)
    row = outbox.queue(
        network=source.network, purpose="vault_deposit", reference="stake:1", to=made.address(1), data="0x"
    )
    carried_out(row)
    made_.refresh_from_db()
    assert (made_.status, outbox.reason_to_wait(row)) == ("publishing", "")


def test_what_lies_in_the_vault_is_known(buyer, source):
    def lies():
        return floats.in_vault(source.network, address=made.ADDRESS) / TOKEN

    VaultFloat.objects.create(network=source.network, address=made.ADDRESS, free=TOKEN * 3 // 2)
    first, second = order(buyer, source), order(buyer, source)
    assert lies() == 1.5
    carried_out(second.deposit)
    assert lies() == 2
    published(first)
    assert lies() == 1
    published(second, deposited=True)
    assert lies() == 0


def test_one_order_that_cannot_go_on_stops_no_other(buyer, source, monkeypatch):
    broken, fine = order(buyer, source), order(buyer, source)
    for number, each in enumerate((broken, fine)):
        made.confirm(made.response(published(each, 31 + number), 41 + number), block=95)
    follow = outcomes._follow

    def breaks(found, now):
        if found.pk == broken.pk:
            raise InvalidRequest("no")
        follow(found, now)

    monkeypatch.setattr(outcomes, "_follow", breaks)
    outcomes.sweep(now=NOW)
    assert TaskOrder.objects.get(pk=fine.pk).status == "finished"
    assert TaskOrder.objects.get(pk=broken.pk).status == "published"


def test_a_closed_accounts_order_still_ends(buyer, source):
    made_ = order(buyer, source)
    response = made.response(published(made_))
    accounts.close(buyer, now=NOW)
    made.confirm(response, block=95)
    outcomes.sweep(now=NOW)
    made_.refresh_from_db()
    assert made_.status == "finished"


def test_responses_are_paid_at_most_what_was_ordered(buyer, source):
    made_ = order(buyer, source)
    made.confirm(made.response(published(made_), payment=9 * TOKEN), block=95)
    outcomes.sweep(now=NOW)
    assert (money_of(buyer), free(source.network)) == ((9, 0), 0)


def test_logs_of_another_transaction_do_not_name_the_task(buyer, source):
    made_ = order(buyer, source)
    other = made.task(source, 77)
    Log.objects.create(
        network=source.network, block_number=20, log_index=3, transaction_hash=made.digest(123), block_hash="0x",
        address=made.address(1), name="TaskPublished", arguments={"task": other.address}, at=NOW,
    )  # fmt: skip
    carried_out(made_.deposit)
    carried_out(made_.publication)
    made_.refresh_from_db()
    assert (made_.status, made_.task_address) == ("publishing", "")
    assert made.response(other).status == ResponseStatus.SUBMITTED


def test_the_trial_balance_knows_orders(buyer, source):
    open_, paid = order(buyer, source), order(buyer, source)
    made.confirm(made.response(published(paid), payment=TOKEN // 2), block=95)
    outcomes.sweep(now=NOW)
    assert broken_checks() == []

    TaskOrder.objects.filter(pk=paid.pk).update(paid=TOKEN)
    TaskOrder.objects.filter(pk=open_.pk).update(payment=2 * TOKEN)
    assert sorted(broken_checks()) == [open_.reference, paid.reference]


@pytest.mark.django_db(transaction=True)
def test_what_lies_in_the_vault_is_given_to_nobody_twice(settings, buyer, source):
    """Eight orders of 1 at the same time, where 3.5 are free."""
    VaultFloat.objects.create(network=source.network, address=made.ADDRESS, free=TOKEN * 7 // 2)

    def one(_number):
        try:
            return order(buyer, source).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        made_ = TaskOrder.objects.filter(pk__in=list(pool.map(one, range(8))))
    reused = sum(each.reused for each in made_)
    deposited = sum(each.deposit.value for each in made_ if each.deposit)
    assert (made_.count(), reused, deposited) == (8, TOKEN * 7 // 2, TOKEN * 9 // 2)
    assert (free(source.network), money_of(buyer)) == (0, (2, 8))


@pytest.mark.django_db(transaction=True)
def test_orders_and_their_ends_at_the_same_time_keep_the_books(settings, buyer, source):
    """Half of the threads order and cancel, the others sweep: neither deadlocks nor loses a coin."""
    VaultFloat.objects.create(network=source.network, address=made.ADDRESS, free=TOKEN * 2)

    def one(number):
        try:
            for _ in range(3):
                if number % 2:
                    outcomes.sweep(now=NOW)
                else:
                    orders.cancel(order(buyer, source))
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    outcomes.sweep(now=NOW)
    assert set(TaskOrder.objects.values_list("status", flat=True)) == {"cancelled"}
    assert (free(source.network), money_of(buyer)) == (2, (10, 0))
    assert not Transaction.objects.exclude(status="cancelled").exists()


def test_granted_credit_does_not_leave_as_coins(buyer, source):
    """A task's payment goes to whatever wallet answers, and that may be the buyer's own."""
    ledger.grant(client_id=buyer.pk, amount=100 * TOKEN, reference="grant:1", reason="x", by_id=None)
    with pytest.raises(allowances.NotWithdrawable):
        order(buyer, source, payment=11 * TOKEN)
    order(buyer, source, payment=6 * TOKEN)
    assert allowances.withdrawable(buyer) == 4 * TOKEN
    with pytest.raises(allowances.NotWithdrawable):
        order(buyer, source, payment=5 * TOKEN)
    with pytest.raises(ledger.InsufficientFunds):
        order(buyer, source, payment=200 * TOKEN)
    assert TaskOrder.objects.count() == 1


def test_what_a_task_was_paid_cannot_be_withdrawn_a_second_time(buyer, source):
    ledger.grant(client_id=buyer.pk, amount=100 * TOKEN, reference="grant:1", reason="x", by_id=None)
    made_ = order(buyer, source, payment=6 * TOKEN)
    task = published(made_)
    assert allowances.withdrawable(buyer) == 4 * TOKEN
    made.confirm(made.response(task, payment=5 * TOKEN), block=50)
    outcomes.follow(made_, now=NOW)
    made_.refresh_from_db()
    assert made_.status == "finished"
    assert allowances.withdrawable(buyer) == 5 * TOKEN


def test_nothing_is_paid_while_withdrawals_are_frozen(buyer, source, operator):
    made_ = order(buyer, source)
    terms.change(by=operator, reason="x", payouts_frozen=True)
    for sent in (made_.deposit, made_.publication):
        assert "frozen" in outbox.reason_to_wait(sent)
    terms.change(by=operator, reason="x", payouts_frozen=False)
    assert outbox.reason_to_wait(made_.deposit) == ""


def test_a_publication_that_no_event_tells_of_is_told_once(buyer, source, caplog):
    """As where the manifest's Controller is no contract."""
    made_ = order(buyer, source)
    carried_out(made_.deposit)
    carried_out(made_.publication)
    for _ in range(4):
        outcomes.sweep(now=NOW)
    made_.refresh_from_db()
    assert (made_.status, "an operator has to look" in made_.reason) == ("publishing", True)
    assert len([each for each in caplog.records if "its event is not known" in each.message]) == 1
