"""Money that is reserved, taken and freed: each verb, once and again, and what it says when it does not."""

from collections.abc import Iterator

import pytest

from clients import ledger
from clients.models import AccountKind, Client, Hold, Transfer, TransferKind
from marketplace.errors import InvalidRequest
from marketplace.money import TOKEN
from tests.clients import ledger_books
from tests.clients.ledger_steps import EARNED, capture, earned, has, hold, move, settle, spendable


@pytest.fixture(autouse=True)
def _books(db: None) -> Iterator[None]:
    yield
    assert ledger_books.wrong() == []


@pytest.fixture
def rich(alice: Client) -> Client:
    """Alice with 10 tokens."""
    ledger.grant(client_id=alice.pk, amount=10 * TOKEN, reference="grant:alice", reason="Welcome", by_id=None)
    return alice


# hold


def test_a_hold_reserves_and_takes_nothing(rich: Client) -> None:
    made = hold(rich, 3)
    assert (made.amount, made.captured, made.ended_at) == (3 * TOKEN, 0, None)
    assert has(rich) == (10, 3)


def test_a_repeated_hold_reserves_once(rich: Client) -> None:
    assert hold(rich, 3) == hold(rich, 3)
    assert has(rich) == (10, 3)


def test_a_hold_may_take_all_but_not_one_unit_more(rich: Client) -> None:
    hold(rich, 10)
    with pytest.raises(ledger.InsufficientFunds) as refused:
        ledger.hold(reference="h:2", client_id=rich.pk, amount=1)
    assert refused.value.details == {"available": "0", "needed": "0.000000000000000001"}
    assert not Hold.objects.filter(reference="h:2").exists()


def test_a_refused_hold_says_what_it_can_cost_and_what_is_there(rich: Client) -> None:
    with pytest.raises(ledger.InsufficientFunds, match="can cost up to 11 OMNIT; 10 OMNIT are available"):
        hold(rich, 11)
    assert has(rich) == (10, 0)


def test_somebody_who_never_had_money_is_told_the_same(charlie: Client) -> None:
    with pytest.raises(ledger.InsufficientFunds) as refused:
        hold(charlie, 1)
    assert refused.value.details == {"available": "0", "needed": "1"}


def test_a_hold_grows(rich: Client) -> None:
    hold(rich, 3, tokens=10)
    grown = hold(rich, 5, tokens=20)
    assert (grown.amount, grown.tokens) == (5 * TOKEN, 20)
    assert has(rich) == (10, 5)


def test_a_hold_does_not_shrink(rich: Client) -> None:
    hold(rich, 3)
    assert hold(rich, 1).amount == 3 * TOKEN
    assert has(rich) == (10, 3)


def test_a_hold_that_cannot_grow_stays_as_it_was(rich: Client) -> None:
    hold(rich, 3)
    with pytest.raises(ledger.InsufficientFunds) as refused:
        hold(rich, 11)
    assert refused.value.details == {"available": "7", "needed": "8"}
    assert has(rich) == (10, 3)


def test_a_hold_that_has_ended_is_not_made_again(rich: Client, bob: Client) -> None:
    hold(rich)
    settle(bob)
    with pytest.raises(ledger.HoldEnded):
        hold(rich)
    assert has(rich) == (8, 0)


def test_earned_money_can_be_held_for_a_payout(rich: Client, bob: Client) -> None:
    hold(rich)
    settle(bob, 2)
    hold(bob, 2, "payout:1", kind=EARNED)
    assert has(bob, EARNED) == (2, 2)
    with pytest.raises(ledger.InsufficientFunds):
        move(earned(bob), spendable(bob), 1)
    ledger.settle(
        reference="payout:1", amount=2 * TOKEN, payee_id=None, payee_kind=AccountKind.OUTSIDE,
        kind=TransferKind.PAYOUT,
    )  # fmt: skip
    assert (has(bob, EARNED), has(None, AccountKind.OUTSIDE)) == ((0, 0), (2, 0))


def test_a_hold_of_nothing_is_a_hold(alice: Client, bob: Client) -> None:
    assert hold(alice, 0).amount == 0
    assert ledger.release("h:1")


# settle


def test_a_settlement_takes_what_it_did_cost_and_frees_the_rest(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    assert settle(bob, 2, by_id=rich.pk, memo="two")
    assert (has(rich), has(bob, EARNED)) == ((8, 0), (2, 0))
    ended, moved = Hold.objects.get(), Transfer.objects.get(reference="h:1")
    assert (ended.captured, ended.outcome) == (2 * TOKEN, "settled")
    assert ended.ended_at is not None
    assert (moved.amount, moved.source, moved.destination) == (2 * TOKEN, spendable(rich), earned(bob))
    assert (moved.memo, moved.by) == ("two", rich)


def test_the_marketplace_has_its_fee_of_it(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    settle(bob, 2, fee=0.5)
    assert (has(rich), has(bob, EARNED), has(None, AccountKind.FEES)) == ((8, 0), (1.5, 0), (0.5, 0))
    moved = Transfer.objects.get(reference="h:1")
    assert (moved.amount, moved.fee) == (2 * TOKEN, TOKEN // 2)


def test_the_fee_may_be_all_of_it(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    settle(bob, 2, fee=2)
    assert (has(bob, EARNED), has(None, AccountKind.FEES)) == ((0, 0), (2, 0))


def test_nothing_taken_means_no_fee_whatever_was_said(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    assert settle(bob, 0, fee=1)
    assert (has(rich), has(None, AccountKind.FEES)) == ((10, 0), (0, 0))
    assert not Transfer.objects.filter(reference="h:1").exists()


def test_a_repeated_settlement_changes_nothing(rich: Client, bob: Client) -> None:
    hold(rich)
    assert settle(bob, 2, fee=0.5)
    assert not settle(bob, 2, fee=0.5)
    assert not settle(bob, 3)
    assert (has(rich), has(bob, EARNED)) == ((8, 0), (1.5, 0))


def test_what_was_never_held_is_not_settled(bob: Client) -> None:
    assert not settle(bob)
    assert has(bob, EARNED) == (0, 0)


def test_more_than_is_held_is_not_taken(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    with pytest.raises(InvalidRequest, match="4 OMNIT is more than the 3 OMNIT that are held"):
        settle(bob, 4)
    assert has(rich) == (10, 3)


def test_all_that_is_held_can_be_taken_though_nothing_is_free(rich: Client, bob: Client) -> None:
    hold(rich, 10)
    assert settle(bob, 10)
    assert (has(rich), has(bob, EARNED)) == ((0, 0), (10, 0))


def test_many_holds_end_together(rich: Client, bob: Client, charlie: Client) -> None:
    ledger.grant(client_id=charlie.pk, amount=TOKEN, reference="grant:charlie", reason="", by_id=None)
    hold(rich, 1, "h:1")
    hold(rich, 1, "h:2")
    hold(charlie, 1, "h:3")
    assert ledger.release_all(["h:1", "h:3", "h:never"]) == 2
    assert (has(rich), has(charlie)) == ((10, 1), (1, 0))


# capture


def test_a_part_is_taken_and_the_rest_stays_held(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    assert capture(bob, 1, fee=TOKEN // 4)
    assert (has(rich), has(bob, EARNED), has(None, AccountKind.FEES)) == ((9, 2), (0.75, 0), (0.25, 0))
    assert Hold.objects.get().ended_at is None


def test_a_part_is_taken_once(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    assert capture(bob, 1)
    assert not capture(bob, 1)
    assert capture(bob, 1, "h:1:2")
    assert (has(rich), has(bob, EARNED)) == ((8, 1), (2, 0))


def test_the_parts_are_not_more_than_the_whole(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    capture(bob, 2)
    with pytest.raises(InvalidRequest, match="2 OMNIT is more than the 1 OMNIT that are held"):
        capture(bob, 2, "h:1:2")
    assert (has(rich), has(bob, EARNED)) == ((8, 1), (2, 0))


def test_the_last_part_ends_it(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    capture(bob, 2)
    assert settle(bob, 0.5)
    assert (has(rich), has(bob, EARNED)) == ((7.5, 0), (2.5, 0))
    assert Hold.objects.get().captured == 2.5 * TOKEN


def test_a_hold_that_parts_were_taken_of_is_settled_even_if_the_rest_is_freed(
    rich: Client, bob: Client
) -> None:
    hold(rich, 3)
    capture(bob, 2)
    assert ledger.release("h:1")
    assert (has(rich), has(bob, EARNED)) == ((8, 0), (2, 0))
    assert Hold.objects.get().outcome == "settled"


def test_nothing_is_taken_of_a_hold_that_has_ended(rich: Client, bob: Client) -> None:
    hold(rich, 3)
    ledger.release("h:1")
    assert not capture(bob, 1)
    assert (has(rich), has(bob, EARNED)) == ((10, 0), (0, 0))


def test_a_hold_grows_by_what_it_lacks_of_the_whole_though_a_part_was_taken(
    rich: Client, bob: Client
) -> None:
    hold(rich, 3)
    capture(bob, 2)
    hold(rich, 5)
    assert has(rich) == (8, 3)


# release


def test_a_release_frees_all(rich: Client) -> None:
    hold(rich)
    assert ledger.release("h:1")
    assert has(rich) == (10, 0)
    assert Hold.objects.get().outcome == "released"


def test_a_repeated_release_changes_nothing(rich: Client, bob: Client) -> None:
    hold(rich)
    ledger.release("h:1")
    assert not ledger.release("h:1")
    assert not settle(bob)
    assert has(rich) == (10, 0)


def test_a_failed_verb_leaves_the_surrounding_transaction_usable(rich: Client) -> None:
    with pytest.raises(ledger.InsufficientFunds):
        hold(rich, 11)
    hold(rich, 10)
