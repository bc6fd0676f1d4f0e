"""Giving back what somebody has paid."""

import threading

import pytest
from django.db import connections

from clients import grants, ledger, refunds
from clients.models import AccountKind, AuditEntry, Transfer, TransferKind
from marketplace.money import TOKEN


@pytest.fixture
def paid(alice, bob, fund):
    """alice has paid bob 5 tokens, one of them the fee."""
    fund(alice, 10)
    ledger.hold(reference="inference:1", client_id=alice.pk, amount=6 * TOKEN)
    ledger.settle(
        reference="inference:1", amount=5 * TOKEN, fee=TOKEN, payee_id=bob.pk, kind=TransferKind.INFERENCE
    )
    return Transfer.objects.get(reference="inference:1")


def has(person, kind=AccountKind.SPENDABLE):
    return ledger.balance(ledger.account(person.pk if person else None, kind)) / TOKEN


def spend_all(bob, charlie):
    ledger.transfer(
        source=ledger.account(bob.pk, AccountKind.EARNED),
        destination=ledger.account(charlie.pk, AccountKind.SPENDABLE),
        amount=4 * TOKEN,
        reference="away",
        kind=TransferKind.TRANSFER,
    )


def test_all_goes_back_and_it_is_written_down(books, paid, alice, bob, operator):
    back = refunds.reverse(paid, by=operator, reason="Wrong answers.")
    assert (back.reverses, back.memo, back.by) == (paid, "Wrong answers.", operator)
    assert (has(alice), has(bob, AccountKind.EARNED), has(None, AccountKind.FEES)) == (10, 0, 0)
    entry = AuditEntry.objects.get()
    assert (entry.by, entry.action, entry.subject) == (operator, "reverse_transfer", "inference:1")
    assert (entry.reason, entry.details["amount"], entry.details["fee"]) == ("Wrong answers.", "5", "1")


def test_it_goes_back_once(books, paid, alice, operator):
    refunds.reverse(paid, by=operator, reason="Once.")
    with pytest.raises(refunds.AlreadyReversed):
        refunds.reverse(paid, by=operator, reason="Twice.")
    assert (has(alice), AuditEntry.objects.count()) == (10, 1)


def test_a_reversal_is_not_reversed(books, paid, operator):
    back = refunds.reverse(paid, by=operator, reason="Wrong answers.")
    with pytest.raises(ledger.CannotReverse):
        refunds.reverse(back, by=operator, reason="After all.")


def test_it_says_when_the_payee_no_longer_has_it(books, paid, alice, bob, charlie, operator):
    spend_all(bob, charlie)
    with pytest.raises(refunds.PayeeHasTooLittle, match="bob earned no longer has") as caught:
        refunds.reverse(paid, by=operator, reason="Wrong answers.")
    assert caught.value.details == {"available": "0", "needed": "4"}
    assert caught.value.original == paid
    assert (has(alice), has(None, AccountKind.FEES)) == (5, 1)
    assert not AuditEntry.objects.exists()


def test_credit_instead_is_given_once_and_then_nothing_goes_back(
    books, paid, alice, bob, charlie, fund, operator
):
    spend_all(bob, charlie)
    for _ in range(2):
        refunds.give_credit_instead(paid, amount=5 * TOKEN, by=operator, reason="The provider is gone.")
    fund(bob, 4, kind="earned")
    with pytest.raises(refunds.AlreadyReversed):
        refunds.reverse(paid, by=operator, reason="He is back.")
    assert (has(alice), has(bob, AccountKind.EARNED)) == (10, 4)
    assert [entry.action for entry in AuditEntry.objects.all()] == ["grant"]


def test_no_credit_is_given_for_what_went_back(books, paid, alice, operator):
    refunds.reverse(paid, by=operator, reason="Wrong answers.")
    with pytest.raises(refunds.AlreadyReversed):
        refunds.give_credit_instead(paid, amount=5 * TOKEN, by=operator, reason="Too.")
    assert has(alice) == 10


def test_credit_is_given_once_for_each_reference(books, alice, operator):
    for _ in range(2):
        grants.give(client=alice, amount=3 * TOKEN, reference="grant:1", by=operator, reason="Welcome.")
    assert (has(alice), AuditEntry.objects.count()) == (3, 1)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.details["amount"], entry.by) == ("grant", "3", operator)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("verb", ["reverse", "grant"])
def test_two_at_the_same_time_do_it_once(verb, alice, bob, operator, fund, request):
    paid = request.getfixturevalue("paid")

    def do():
        try:
            if verb == "grant":
                grants.give(client=alice, amount=TOKEN, reference="grant:1", by=operator, reason="Welcome.")
            else:
                refunds.reverse(paid, by=operator, reason="Wrong answers.")
        except refunds.AlreadyReversed:
            pass
        finally:
            connections.close_all()

    threads = [threading.Thread(target=do) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert has(alice) == (6 if verb == "grant" else 10)
    assert AuditEntry.objects.count() == 1
