"""Limits of an account and of its keys, as holds meet them: what counts, until when, and what is said."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models import F

from clients import keys, ledger
from clients.models import AccountKind, Allowance, ApiKey, Client, Hold, TransferKind
from marketplace.money import TOKEN
from tests.clients import ledger_books


@pytest.fixture(autouse=True)
def _books(db: None) -> Iterator[None]:
    ledger_books.not_at_the_end_of_a_minute()
    yield
    assert ledger_books.wrong() == []


@pytest.fixture
def rich(alice: Client) -> Client:
    """Alice with 1,000 tokens."""
    ledger.grant(client_id=alice.pk, amount=1000 * TOKEN, reference="grant:alice", reason="", by_id=None)
    return alice


@pytest.fixture
def key(rich: Client) -> ApiKey:
    return keys.create(rich, name="first").row


@pytest.fixture
def other_key(rich: Client) -> ApiKey:
    return keys.create(rich, name="second").row


def limit(client: Client, key: ApiKey | None = None, **limits: int) -> Allowance:
    """Set limits; budgets are in tokens."""
    said = {name: value * TOKEN if "budget" in name else value for name, value in limits.items()}
    return Allowance.objects.create(client=client, api_key=key, **said)


def hold(
    client: Client,
    reference: str,
    amount: float = 0,
    *,
    key: ApiKey | None = None,
    tokens: int | None = 0,
    **more: Any,
) -> Hold:
    return ledger.hold(
        reference=reference, client_id=client.pk, amount=int(amount * TOKEN), tokens=tokens,
        api_key_id=key.pk if key else None, **more,
    )  # fmt: skip


def settle(payee: Client, reference: str, amount: float = 0, tokens: int | None = None) -> bool:
    return ledger.settle(
        reference=reference,
        amount=int(amount * TOKEN),
        payee_id=payee.pk,
        kind=TransferKind.INFERENCE,
        tokens=tokens,
    )


def later(allowance: Allowance, **time: int) -> None:
    """Let so much time pass for what is counted, and for the holds that were counted."""
    passed = timedelta(**time)
    Allowance.objects.filter(pk=allowance.pk).update(
        minute=F("minute") - passed, day=_day(allowance) - passed
    )
    Hold.objects.update(created_at=F("created_at") - passed)


def _day(allowance: Allowance) -> Any:
    allowance.refresh_from_db()
    return allowance.day


def counted(allowance: Allowance) -> tuple[int, int, int]:
    """(requests and tokens of the minute, running)."""
    allowance.refresh_from_db()
    return allowance.minute_requests, allowance.minute_tokens, allowance.running


def spent(allowance: Allowance) -> tuple[float, float, float]:
    """(day, month, total) in tokens."""
    allowance.refresh_from_db()
    return allowance.day_used / TOKEN, allowance.month_used / TOKEN, allowance.total_used / TOKEN


# Requests per minute


def test_requests_beyond_the_minutes_limit_are_refused_until_it_is_over(rich: Client) -> None:
    limit(rich, requests_per_minute=2)
    hold(rich, "h:1")
    hold(rich, "h:2")
    with pytest.raises(ledger.RateLimited) as refused:
        hold(rich, "h:3")
    error = refused.value
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.details == {
        "limit": "requests_per_minute",
        "scope": "account",
        "allowed": 2,
        "used": 2,
        "needed": 1,
    }
    assert "The limit of this account is 2 requests per minute; 2 are used" in error.message
    left = 60 - datetime.now(UTC).second
    assert error.retry_after is not None
    assert left - 2 <= error.retry_after <= left + 1
    assert not Hold.objects.filter(reference="h:3").exists()


def test_the_next_minute_begins_at_nothing(rich: Client) -> None:
    allowance = limit(rich, requests_per_minute=1, tokens_per_minute=10)
    hold(rich, "h:1", tokens=10)
    later(allowance, minutes=1)
    hold(rich, "h:2", tokens=10)
    assert counted(allowance) == (1, 10, 2)


def test_a_refused_request_does_not_count(rich: Client) -> None:
    allowance = limit(rich, requests_per_minute=2, tokens_per_minute=10)
    for number in range(3):
        with pytest.raises(ledger.RateLimited):
            hold(rich, f"h:{number}", tokens=11)
    assert counted(allowance)[:2] == (0, 0)


def test_what_the_account_cannot_pay_does_not_count(rich: Client) -> None:
    allowance = limit(rich, requests_per_minute=2, budget_day=5000)
    with pytest.raises(ledger.InsufficientFunds):
        hold(rich, "h:1", 1001)
    assert (counted(allowance), spent(allowance)) == ((0, 0, 0), (0, 0, 0))


def test_a_repeated_or_growing_hold_is_one_request(rich: Client) -> None:
    allowance = limit(rich, requests_per_minute=1, concurrency=1)
    hold(rich, "h:1", 1)
    hold(rich, "h:1", 1)
    hold(rich, "h:1", 2)
    assert counted(allowance) == (1, 0, 1)


def test_a_request_that_ended_still_counts_in_its_minute(rich: Client) -> None:
    limit(rich, requests_per_minute=1)
    hold(rich, "h:1")
    ledger.release("h:1")
    with pytest.raises(ledger.RateLimited):
        hold(rich, "h:2")


def test_a_limit_of_none_admits_nothing(rich: Client) -> None:
    limit(rich, requests_per_minute=0)
    with pytest.raises(ledger.RateLimited):
        hold(rich, "h:1")


# Tokens per minute


def test_tokens_are_reserved_and_what_was_not_used_is_given_back(rich: Client, bob: Client) -> None:
    allowance = limit(rich, tokens_per_minute=100)
    hold(rich, "h:1", tokens=80)
    with pytest.raises(ledger.RateLimited) as refused:
        hold(rich, "h:2", tokens=21)
    assert refused.value.details == {
        "limit": "tokens_per_minute",
        "scope": "account",
        "allowed": 100,
        "used": 80,
        "needed": 21,
    }
    settle(bob, "h:1", tokens=30)
    assert counted(allowance)[1] == 30
    hold(rich, "h:2", tokens=70)


def test_a_release_gives_all_tokens_back(rich: Client) -> None:
    allowance = limit(rich, tokens_per_minute=100)
    hold(rich, "h:1", tokens=80)
    ledger.release("h:1")
    assert counted(allowance)[1] == 0


def test_tokens_of_the_last_minute_are_not_given_back_to_this_one(rich: Client, bob: Client) -> None:
    allowance = limit(rich, tokens_per_minute=100)
    hold(rich, "h:1", tokens=80)
    later(allowance, minutes=1)
    hold(rich, "h:2", tokens=60)
    settle(bob, "h:1", tokens=10)
    assert counted(allowance) == (1, 60, 1)


def test_more_tokens_than_it_reserved_count_too(rich: Client, bob: Client) -> None:
    allowance = limit(rich, tokens_per_minute=100)
    hold(rich, "h:1", tokens=10)
    settle(bob, "h:1", tokens=90)
    assert counted(allowance)[1] == 90


def test_a_request_that_can_never_fit_is_told_so_and_not_to_come_back(rich: Client) -> None:
    limit(rich, tokens_per_minute=100)
    with pytest.raises(ledger.RateLimited, match="smaller max_tokens") as refused:
        hold(rich, "h:1", tokens=101)
    assert refused.value.retry_after is None


def test_a_growing_hold_needs_its_further_tokens_only(rich: Client) -> None:
    allowance = limit(rich, tokens_per_minute=100)
    hold(rich, "h:1", tokens=60)
    hold(rich, "h:1", tokens=100)
    assert counted(allowance) == (1, 100, 1)
    with pytest.raises(ledger.RateLimited):
        hold(rich, "h:1", tokens=101)
    assert Hold.objects.get().tokens == 100


# Concurrency


def test_only_so_many_run_at_a_time(rich: Client, bob: Client) -> None:
    limit(rich, concurrency=2)
    hold(rich, "h:1")
    hold(rich, "h:2")
    with pytest.raises(ledger.RateLimited, match="2 requests at the same time; 2 are used") as refused:
        hold(rich, "h:3")
    assert refused.value.retry_after == 1
    settle(bob, "h:1")
    hold(rich, "h:3")


def test_a_part_that_is_taken_does_not_end_the_request(rich: Client, bob: Client) -> None:
    allowance = limit(rich, concurrency=1)
    hold(rich, "h:1", 2)
    ledger.capture(
        reference="h:1",
        amount=TOKEN,
        transfer_reference="h:1:1",
        payee_id=bob.pk,
        kind=TransferKind.ALLOCATION,
    )
    assert counted(allowance)[2] == 1


def test_an_end_that_is_repeated_frees_one_place(rich: Client) -> None:
    allowance = limit(rich, concurrency=3)
    hold(rich, "h:1")
    hold(rich, "h:2")
    ledger.release("h:1")
    ledger.release("h:1")
    assert counted(allowance)[2] == 1


# Budgets


@pytest.mark.parametrize(
    ("period", "said"), [("day", " for today (UTC)"), ("month", " for this month (UTC)"), ("total", "")]
)
def test_a_budget_is_never_exceeded_by_one_unit(rich: Client, period: str, said: str) -> None:
    limit(rich, **{f"budget_{period}": 10})
    hold(rich, "h:1", 10)
    with pytest.raises(ledger.BudgetExceeded) as refused:
        ledger.hold(reference="h:2", client_id=rich.pk, amount=1)
    error = refused.value
    assert (error.status, error.code) == (429, "budget_exceeded")
    assert f"The budget of this account{said} is 10 OMNIT; 10 are spent or held" in error.message
    assert error.details == {
        "allowed": "10",
        "used": "10",
        "needed": "0.000000000000000001",
        "limit": f"budget_{period}",
        "scope": "account",
    }


def test_what_costs_nothing_goes_on_when_the_budget_is_used_up(rich: Client) -> None:
    limit(rich, budget_day=0, budget_month=0, budget_total=0)
    hold(rich, "h:1", 0)


def test_what_was_held_and_not_spent_can_be_spent(rich: Client, bob: Client) -> None:
    allowance = limit(rich, budget_day=10, budget_total=10)
    hold(rich, "h:1", 10)
    settle(bob, "h:1", 4)
    assert spent(allowance) == (4, 4, 4)
    hold(rich, "h:2", 6)
    ledger.release("h:2")
    assert spent(allowance) == (4, 4, 4)


def test_parts_that_are_taken_do_not_count_twice(rich: Client, bob: Client) -> None:
    allowance = limit(rich, budget_day=10)
    hold(rich, "h:1", 10)
    ledger.capture(
        reference="h:1",
        amount=3 * TOKEN,
        transfer_reference="h:1:1",
        payee_id=bob.pk,
        kind=TransferKind.ALLOCATION,
    )
    assert spent(allowance) == (10, 10, 10)
    settle(bob, "h:1", 2)
    assert spent(allowance) == (5, 5, 5)


def test_a_new_day_has_its_budget_and_the_total_stays(rich: Client) -> None:
    allowance = limit(rich, budget_day=10, budget_total=15)
    hold(rich, "h:1", 10)
    later(allowance, days=1)
    with pytest.raises(ledger.BudgetExceeded) as refused:
        hold(rich, "h:2", 6)
    assert refused.value.details is not None
    assert refused.value.details["limit"] == "budget_total"
    assert refused.value.retry_after is None
    hold(rich, "h:2", 5)
    assert (spent(allowance)[0], spent(allowance)[2]) == (5, 15)


def test_a_new_month_has_its_budget(rich: Client) -> None:
    allowance = limit(rich, budget_month=10)
    hold(rich, "h:1", 10)
    later(allowance, days=31)
    hold(rich, "h:2", 7)
    assert spent(allowance) == (7, 7, 17)


def test_what_was_held_yesterday_and_is_freed_today_widens_only_the_total(rich: Client) -> None:
    allowance = limit(rich, budget_day=10, budget_total=100)
    hold(rich, "h:1", 8)
    later(allowance, days=31)
    hold(rich, "h:2", 6)
    ledger.release("h:1")
    assert spent(allowance) == (6, 6, 6)


def test_refusals_say_when_the_day_and_the_month_end(rich: Client) -> None:
    limit(rich, budget_day=1)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    with pytest.raises(ledger.BudgetExceeded) as refused:
        hold(rich, "h:1", 2)
    assert refused.value.retry_after == pytest.approx((midnight - datetime.now(UTC)).total_seconds(), abs=5)
    Allowance.objects.update(budget_day=None, budget_month=TOKEN)
    first = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1) if midnight.day != 1 else midnight
    with pytest.raises(ledger.BudgetExceeded) as refused:
        hold(rich, "h:1", 2)
    assert refused.value.retry_after == pytest.approx((first - datetime.now(UTC)).total_seconds(), abs=5)


# Keys


def test_a_keys_limit_binds_that_key(rich: Client, key: ApiKey, other_key: ApiKey) -> None:
    limit(rich, key, budget_day=5)
    with pytest.raises(ledger.BudgetExceeded, match="The budget of this API key") as refused:
        hold(rich, "h:1", 6, key=key)
    assert refused.value.details is not None
    assert refused.value.details["scope"] == "api_key"
    hold(rich, "h:2", 6, key=other_key)
    hold(rich, "h:3", 6)


def test_both_limits_hold_at_once(rich: Client, key: ApiKey, other_key: ApiKey) -> None:
    own, keyed = limit(rich, budget_day=10), limit(rich, key, budget_day=8)
    hold(rich, "h:1", 7, key=key)
    hold(rich, "h:2", 2, key=other_key)
    with pytest.raises(ledger.BudgetExceeded, match="this API key"):
        hold(rich, "h:3", 2, key=key)
    with pytest.raises(ledger.BudgetExceeded, match="this account"):
        hold(rich, "h:3", 2, key=other_key)
    hold(rich, "h:3", 1, key=key)
    assert (spent(own)[0], spent(keyed)[0]) == (10, 8)


def test_what_the_account_refuses_does_not_count_for_the_key(rich: Client, key: ApiKey) -> None:
    limit(rich, requests_per_minute=0)
    keyed = limit(rich, key, requests_per_minute=5)
    with pytest.raises(ledger.RateLimited, match="this account"):
        hold(rich, "h:1", key=key)
    assert counted(keyed) == (0, 0, 0)


def test_the_keys_of_one_account_count_apart(
    rich: Client, bob: Client, key: ApiKey, other_key: ApiKey
) -> None:
    own = limit(rich, concurrency=5)
    first, second = limit(rich, key, concurrency=5), limit(rich, other_key, concurrency=5)
    hold(rich, "h:1", 1, key=key)
    hold(rich, "h:2", 1, key=other_key)
    hold(rich, "h:3", 1, key=key)
    assert [counted(each)[2] for each in (own, first, second)] == [3, 2, 1]
    settle(bob, "h:1", 1)
    assert [counted(each)[2] for each in (own, first, second)] == [2, 1, 1]


# Who is not concerned


def test_limits_do_not_touch_what_was_earned(rich: Client, bob: Client) -> None:
    limit(bob, requests_per_minute=0, budget_total=0)
    hold(rich, "h:1", 5)
    settle(bob, "h:1", 5)
    hold(bob, "payout:1", 5, kind=AccountKind.EARNED)


def test_limits_of_one_client_do_not_bind_another(rich: Client, bob: Client) -> None:
    limit(bob, requests_per_minute=0)
    hold(rich, "h:1", 1)


def test_an_account_knows_whether_it_has_limits(rich: Client, key: ApiKey) -> None:
    def limited() -> bool:
        return ledger.account(rich.pk, AccountKind.SPENDABLE).limited

    assert not limited()
    keyed = limit(rich, key, budget_day=1)
    assert limited()
    own = limit(rich, budget_day=1)
    keyed.delete()
    assert limited()
    own.delete()
    assert not limited()


def test_what_is_no_request_is_bound_by_budgets_alone(rich: Client, bob: Client) -> None:
    allowance = limit(rich, requests_per_minute=1, concurrency=1, budget_total=5)

    hold(rich, "lease:1", 4, tokens=None)
    hold(rich, "inference:1", 1, tokens=7)
    with pytest.raises(ledger.BudgetExceeded):
        hold(rich, "lease:2", 1, tokens=None)
    settle(bob, "lease:1", 4)

    allowance.refresh_from_db()
    assert counted(allowance) == (1, 7, 1)
