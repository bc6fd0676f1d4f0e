"""The verbs that move money: what each does, that it does so once, and what it says when it does not."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from clients import ledger
from clients.models import Account, AccountKind, Client, Hold, Transfer, TransferKind
from marketplace.errors import InvalidRequest
from marketplace.money import TOKEN
from tests.clients import ledger_books

SPENDABLE, EARNED, STAKED = AccountKind.SPENDABLE, AccountKind.EARNED, AccountKind.STAKED


@pytest.fixture(autouse=True)
def _books(db: None) -> Iterator[None]:
    yield
    assert ledger_books.wrong() == []


@pytest.fixture
def rich(alice: Client) -> Client:
    """Alice with 10 tokens."""
    ledger.grant(client_id=alice.pk, amount=10 * TOKEN, reference="grant:alice", reason="Welcome", by_id=None)
    return alice


def has(client: Client | None, kind: AccountKind = SPENDABLE) -> tuple[float, float]:
    """(tokens, how many of them are held) of an account."""
    owned = ledger.account(client.pk if client else None, kind)
    balance, held = ledger.balances([owned])[owned.pk]
    return balance / TOKEN, held / TOKEN


def move(
    source: Account, destination: Account, tokens: int = 4, reference: str = "t:1", **more: Any
) -> Transfer:
    return ledger.transfer(
        source=source, destination=destination, amount=tokens * TOKEN, reference=reference,
        kind=TransferKind.TRANSFER, **more,
    )  # fmt: skip


def spendable(client: Client) -> Account:
    return ledger.account(client.pk, SPENDABLE)


def earned(client: Client) -> Account:
    return ledger.account(client.pk, EARNED)


def hold(client: Client, amount: float = 3, reference: str = "h:1", **more: Any) -> Hold:
    return ledger.hold(reference=reference, client_id=client.pk, amount=int(amount * TOKEN), **more)


def settle(client: Client, tokens: float = 2, fee: float = 0, reference: str = "h:1", **more: Any) -> bool:
    return ledger.settle(
        reference=reference, amount=int(tokens * TOKEN), payee_id=client.pk, kind=TransferKind.INFERENCE,
        fee=int(fee * TOKEN), **more,
    )  # fmt: skip


def capture(client: Client, tokens: float, part: str = "h:1:1", **more: Any) -> bool:
    return ledger.capture(
        reference="h:1", amount=int(tokens * TOKEN), transfer_reference=part, payee_id=client.pk,
        kind=TransferKind.ALLOCATION, **more,
    )  # fmt: skip


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


def test_a_failed_verb_leaves_the_surrounding_transaction_usable(rich: Client, bob: Client) -> None:
    with pytest.raises(ledger.InsufficientFunds):
        hold(rich, 11)
    hold(rich, 10)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
