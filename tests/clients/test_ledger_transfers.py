"""Money that is moved, given and taken back: each verb, once and again, and what it says when it does not."""

from collections.abc import Iterator

import pytest

from clients import ledger
from clients.models import AccountKind, Client, Transfer, TransferKind
from marketplace.errors import InvalidRequest
from marketplace.money import TOKEN
from tests.clients import ledger_books
from tests.clients.ledger_steps import EARNED, STAKED, earned, has, hold, move, settle, spendable


@pytest.fixture(autouse=True)
def _books(db: None) -> Iterator[None]:
    yield
    assert ledger_books.wrong() == []


@pytest.fixture
def rich(alice: Client) -> Client:
    """Alice with 10 tokens."""
    ledger.grant(client_id=alice.pk, amount=10 * TOKEN, reference="grant:alice", reason="Welcome", by_id=None)
    return alice


# Accounts


def test_an_account_is_made_when_it_is_first_asked_for(alice: Client) -> None:
    first = ledger.account(alice.pk, STAKED)
    assert ledger.account(alice.pk, STAKED) == first
    assert has(alice, STAKED) == (0, 0)


def test_the_marketplace_has_one_account_of_each_kind(db: None) -> None:
    assert ledger.account(None, AccountKind.FEES) == ledger.account(None, AccountKind.FEES)


def test_balances_are_of_one_moment_and_count_what_lies_in_stripes(rich: Client, bob: Client) -> None:
    hold(rich)
    settle(bob)
    assert earned(bob).balance == 0
    assert ledger.balance(earned(bob)) == 2 * TOKEN


# transfer


def test_a_transfer_moves_money(rich: Client, bob: Client) -> None:
    moved = move(spendable(rich), spendable(bob), memo="for lunch", by_id=rich.pk)
    assert (has(rich), has(bob)) == ((6, 0), (4, 0))
    assert (moved.amount, moved.fee, moved.memo, moved.by) == (4 * TOKEN, 0, "for lunch", rich)


def test_a_repeated_transfer_returns_the_first_and_moves_nothing(rich: Client, bob: Client) -> None:
    assert move(spendable(rich), spendable(bob)) == move(spendable(rich), spendable(bob))
    assert has(bob) == (4, 0)


def test_a_repeated_transfer_succeeds_when_the_money_is_gone_meanwhile(rich: Client, bob: Client) -> None:
    first = move(spendable(rich), spendable(bob), 10)
    assert move(spendable(rich), spendable(bob), 10) == first


@pytest.mark.parametrize("other", ["amount", "source", "destination"])
def test_a_reference_stands_for_one_transfer_only(
    rich: Client, bob: Client, charlie: Client, other: str
) -> None:
    move(spendable(rich), spendable(bob))
    source = spendable(bob if other == "source" else rich)
    destination = spendable(charlie if other != "amount" else bob)
    with pytest.raises(ledger.ReferenceTaken):
        move(source, destination, 3 if other == "amount" else 4)
    assert (has(rich), has(bob), has(charlie)) == ((6, 0), (4, 0), (0, 0))


def test_a_transfer_is_refused_with_what_is_available_and_what_is_needed(rich: Client, bob: Client) -> None:
    with pytest.raises(ledger.InsufficientFunds) as refused:
        move(spendable(rich), spendable(bob), 11)
    assert refused.value.status == 402
    assert refused.value.details == {"available": "10", "needed": "11"}
    assert "11 OMNIT are needed; 10 OMNIT are available" in refused.value.message
    assert (has(rich), has(bob)) == ((10, 0), (0, 0))
    assert not Transfer.objects.filter(reference="t:1").exists()


def test_what_is_held_cannot_be_transferred(rich: Client, bob: Client) -> None:
    hold(rich, 7)
    with pytest.raises(ledger.InsufficientFunds) as refused:
        move(spendable(rich), spendable(bob), 4)
    assert refused.value.details == {"available": "3", "needed": "4"}
    move(spendable(rich), spendable(bob), 3)


@pytest.mark.parametrize("amount", [0, -1])
def test_nothing_and_less_is_not_transferred(rich: Client, bob: Client, amount: int) -> None:
    with pytest.raises(InvalidRequest):
        move(spendable(rich), spendable(bob), amount)


def test_money_is_not_transferred_to_where_it_is(rich: Client) -> None:
    with pytest.raises(InvalidRequest):
        move(spendable(rich), spendable(rich))


def test_the_outside_world_may_owe(alice: Client) -> None:
    move(ledger.account(None, AccountKind.OUTSIDE), spendable(alice), 5)
    assert has(alice) == (5, 0)
    assert has(None, AccountKind.OUTSIDE) == (-5, 0)


def test_the_fees_may_not(alice: Client) -> None:
    with pytest.raises(ledger.InsufficientFunds):
        move(ledger.account(None, AccountKind.FEES), spendable(alice))


def test_an_account_that_pays_gathers_its_stripes_first(rich: Client, bob: Client) -> None:
    for number in range(3):
        hold(rich, 1, f"h:{number}")
        settle(bob, 1, reference=f"h:{number}")
    move(earned(bob), spendable(bob), 3)
    assert (has(bob), has(bob, EARNED)) == ((3, 0), (0, 0))


def test_an_account_with_too_little_in_its_stripes_keeps_them(rich: Client, bob: Client) -> None:
    hold(rich)
    settle(bob, 2)
    with pytest.raises(ledger.InsufficientFunds) as refused:
        move(earned(bob), spendable(bob), 3)
    assert refused.value.details == {"available": "2", "needed": "3"}
    assert has(bob, EARNED) == (2, 0)


# grant


def test_a_grant_says_who_gave_it_and_why(alice: Client, operator: Client) -> None:
    given = ledger.grant(
        client_id=alice.pk, amount=TOKEN, reference="grant:1", reason="A complaint", by_id=operator.pk
    )
    assert (given.kind, given.memo, given.by) == (TransferKind.GRANT, "A complaint", operator)
    assert (has(alice), has(None, AccountKind.GRANTS)) == ((1, 0), (-1, 0))


def test_a_repeated_grant_gives_once(rich: Client) -> None:
    ledger.grant(client_id=rich.pk, amount=10 * TOKEN, reference="grant:alice", reason="Welcome", by_id=None)
    assert has(rich) == (10, 0)


def test_a_grant_with_the_reference_of_another_is_refused(rich: Client, bob: Client) -> None:
    with pytest.raises(ledger.ReferenceTaken):
        ledger.grant(client_id=bob.pk, amount=10 * TOKEN, reference="grant:alice", reason="", by_id=None)


# reverse


def test_a_reversal_gives_back_what_was_paid_and_the_fee(rich: Client, bob: Client, operator: Client) -> None:
    hold(rich)
    settle(bob, 2, fee=0.5)
    original = Transfer.objects.get(reference="h:1")
    back = ledger.reverse(original, reason="It was wrong.", by_id=operator.pk)
    assert (has(rich), has(bob, EARNED), has(None, AccountKind.FEES)) == ((10, 0), (0, 0), (0, 0))
    assert (back.reverses, back.kind, back.memo, back.by) == (
        original,
        TransferKind.REVERSAL,
        "It was wrong.",
        operator,
    )


def test_a_repeated_reversal_returns_the_first(rich: Client, bob: Client) -> None:
    original = move(spendable(rich), spendable(bob))
    first = ledger.reverse(original, reason="Once", by_id=None)
    assert ledger.reverse(original, reason="Twice", by_id=None) == first
    assert (has(rich), has(bob)) == ((10, 0), (0, 0))


def test_a_payment_that_was_all_fee_is_reversed(rich: Client, bob: Client) -> None:
    hold(rich)
    settle(bob, 2, fee=2)
    original = Transfer.objects.get(reference="h:1")
    assert ledger.reverse(original, reason="", by_id=None).reverses == original
    assert (has(rich), has(None, AccountKind.FEES)) == ((10, 0), (0, 0))


def test_what_the_payee_no_longer_has_is_not_reversed(rich: Client, bob: Client, charlie: Client) -> None:
    hold(rich)
    settle(bob, 2, fee=0.5)
    move(earned(bob), spendable(charlie), 1)
    with pytest.raises(ledger.InsufficientFunds):
        ledger.reverse(Transfer.objects.get(reference="h:1"), reason="", by_id=None)
    assert (has(rich), has(bob, EARNED), has(None, AccountKind.FEES)) == ((8, 0), (0.5, 0), (0.5, 0))


def test_what_the_marketplace_no_longer_has_of_its_fee_stops_the_whole_reversal(
    rich: Client, bob: Client, charlie: Client
) -> None:
    hold(rich, 4)
    settle(bob, 4, fee=2)
    move(ledger.account(None, AccountKind.FEES), spendable(charlie), 2)
    with pytest.raises(ledger.InsufficientFunds):
        ledger.reverse(Transfer.objects.get(reference="h:1"), reason="", by_id=None)
    assert has(bob, EARNED) == (2, 0)


def test_a_reversal_is_not_reversed(rich: Client, bob: Client) -> None:
    back = ledger.reverse(move(spendable(rich), spendable(bob)), reason="", by_id=None)
    with pytest.raises(ledger.CannotReverse):
        ledger.reverse(back, reason="", by_id=None)


def test_a_grant_can_be_reversed_as_far_as_it_is_not_held(rich: Client) -> None:
    given = Transfer.objects.get(reference="grant:alice")
    hold(rich, 1)
    with pytest.raises(ledger.InsufficientFunds):
        ledger.reverse(given, reason="", by_id=None)
    ledger.release("h:1")
    ledger.reverse(given, reason="", by_id=None)
    assert (has(rich), has(None, AccountKind.GRANTS)) == ((0, 0), (0, 0))
