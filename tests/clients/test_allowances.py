"""clients.allowances.change: limits, and counters that begin with what was spent before."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections

from clients import allowances, keys, ledger
from clients.models import Account, Allowance, Hold, TransferKind
from clients.models.ledger import AccountKind
from inference.models import Inference, Running


@pytest.fixture
def key(alice):
    ledger.grant(client_id=alice.pk, amount=10_000, reference="grant:1", reason="test", by_id=None)
    return keys.create(alice, name="k").row


def hold(person, amount, *, reference, key=None, tokens=0):
    key_id = key.pk if key else None
    return ledger.hold(
        reference=reference, client_id=person.pk, amount=amount, api_key_id=key_id, tokens=tokens
    )


def settle(reference, amount):
    ledger.settle(
        reference=reference,
        amount=amount,
        payee_id=None,
        payee_kind=AccountKind.FEES,
        kind=TransferKind.TRAINING,
    )


def request(person, charged, *, key=None, tokens=0):
    """A request that has ended, as the hot path leaves it: its hold is gone."""
    return Inference.objects.create(
        client=person, api_key=key, face="t", kind="chat", desired_model="m", status="finished",
        charged=charged, prompt_tokens=tokens, completion_tokens=tokens,
    )  # fmt: skip


def counters(allowance):
    allowance.refresh_from_db()
    return (
        allowance.running,
        allowance.minute_requests,
        allowance.minute_tokens,
        allowance.day_used,
        allowance.month_used,
        allowance.total_used,
    )


def test_a_first_limit_counts_what_was_spent_and_what_is_held(alice, key):
    hold(alice, 50, reference="ended", key=key, tokens=5)
    settle("ended", 30)
    hold(alice, 20, reference="open", key=key, tokens=7)
    hold(alice, 100, reference="by a login", tokens=11)
    hold(alice, 40, reference="captured", key=key)
    ledger.capture(
        reference="captured",
        amount=10,
        transfer_reference="part",
        payee_id=None,
        payee_kind=AccountKind.FEES,
        kind=TransferKind.ALLOCATION,
    )

    of_key = allowances.change(client_id=alice.pk, api_key=key, limits={"budget_day": 500})
    of_account = allowances.change(client_id=alice.pk, limits={"budget_day": 500})

    assert counters(of_key) == (2, 3, 12, 90, 90, 90)
    assert counters(of_account) == (3, 4, 23, 190, 190, 190)


def test_from_there_on_the_ledger_counts_as_if_it_had_always_been_there(alice, key):
    hold(alice, 60, reference="open", key=key, tokens=7)
    allowance = allowances.change(
        client_id=alice.pk, api_key=key, limits={"budget_total": 100, "concurrency": 2}
    )
    with pytest.raises(ledger.BudgetExceeded):
        hold(alice, 41, reference="too much", key=key)
    hold(alice, 40, reference="fits", key=key)
    with pytest.raises(ledger.RateLimited):
        hold(alice, 0, reference="a third", key=key)
    settle("open", 15)
    ledger.release("fits")
    assert counters(allowance)[0] == 0
    assert counters(allowance)[3:] == (15, 15, 15)


def test_requests_count_though_their_holds_are_gone(alice, bob, key):
    request(alice, 5, key=key, tokens=2)
    request(alice, 7)
    request(bob, 1000)
    Running.objects.create(
        inference=request(alice, 0, key=key), client_id=alice.pk, created_at=datetime.now(UTC)
    )
    of_key = allowances.change(client_id=alice.pk, api_key=key, limits={"budget_day": 500})
    of_account = allowances.change(client_id=alice.pk, limits={"budget_day": 500})
    assert counters(of_key) == (0, 1, 4, 5, 5, 5)
    assert counters(of_account) == (0, 2, 4, 12, 12, 12)


def test_what_was_spent_counts_in_its_own_day_and_month(alice, key, monkeypatch):
    moment = datetime(2031, 5, 3, 12, 0, 30, tzinfo=UTC)
    monkeypatch.setattr(allowances, "_clock", lambda: moment)
    held = [moment, moment.replace(second=1), moment - timedelta(minutes=1), moment.replace(hour=0, minute=0)]
    for number, began in enumerate(held):
        hold(alice, 10**number, reference=str(number), key=key, tokens=1)
        settle(str(number), 10**number)
        Hold.objects.filter(pk=str(number)).update(created_at=began)
    earlier = [moment - timedelta(days=1), moment.replace(day=1, hour=0), moment.replace(month=4, day=30)]
    for number, began in enumerate(earlier, start=len(held)):
        Inference.objects.filter(pk=request(alice, 10**number, key=key).pk).update(created_at=began)
    allowance = allowances.change(client_id=alice.pk, api_key=key, limits={"budget_day": 1})
    assert counters(allowance) == (0, 2, 2, 1_111, 111_111, 1_111_111)


def test_other_kinds_of_accounts_do_not_count(alice, key):
    earned = ledger.account(alice.pk, AccountKind.EARNED)
    outside = ledger.account(None, AccountKind.OUTSIDE)
    ledger.transfer(source=outside, destination=earned, amount=9, reference="d", kind=TransferKind.DEPOSIT)
    ledger.hold(reference="payout:1", client_id=alice.pk, amount=9, kind=AccountKind.EARNED)
    allowance = allowances.change(client_id=alice.pk, limits={"budget_day": 1})
    assert counters(allowance) == (0, 0, 0, 0, 0, 0)


def test_changing_a_limit_keeps_the_counters(alice, key):
    allowance = allowances.change(client_id=alice.pk, api_key=key, limits={"budget_day": 50})
    hold(alice, 30, reference="h", key=key)
    settle("h", 30)
    allowances.change(client_id=alice.pk, api_key=key, limits={"budget_day": 20, "concurrency": 1})
    assert counters(allowance)[3:] == (30, 30, 30)
    with pytest.raises(ledger.BudgetExceeded) as refused:
        hold(alice, 1, reference="one more", key=key)
    assert refused.value.details == {
        "allowed": "0.00000000000000002",
        "used": "0.00000000000000003",
        "needed": "0.000000000000000001",
        "limit": "budget_day",
        "scope": "api_key",
    }


def test_the_quick_way_of_holds_is_closed_by_the_first_limit(alice, key):
    spendable = Account.objects.get(client=alice, kind="spendable")
    assert spendable.limited is False
    allowances.change(client_id=alice.pk, api_key=key, limits={"budget_day": 50})
    spendable.refresh_from_db()
    assert spendable.limited is True


def test_setting_no_limit_at_all_leaves_nothing(alice, key):
    allowances.change(client_id=alice.pk, api_key=key, limits={"budget_day": None})
    assert not Allowance.objects.exists()


def test_a_day_that_is_over_is_not_used(alice):
    now = datetime(2031, 5, 3, 12, tzinfo=UTC)
    allowance = Allowance(day=now.date(), day_used=1, month_used=2, total_used=3)
    assert allowances.used(allowance, now=now) == (1, 2, 3)
    assert allowances.used(allowance, now=now + timedelta(days=1)) == (0, 2, 3)
    assert allowances.used(allowance, now=now + timedelta(days=31)) == (0, 0, 3)
    assert allowances.used(Allowance(), now=now) == (0, 0, 0)


@pytest.mark.django_db(transaction=True)
def test_a_limit_that_is_set_while_money_moves_misses_nothing(alice, key):
    def spend(worker):
        try:
            for number in range(25):
                hold(alice, 5, reference=f"{worker}-{number}", key=key)
                if number % 3:
                    settle(f"{worker}-{number}", 2)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(spend, worker) for worker in range(4)]
        allowance = allowances.change(client_id=alice.pk, api_key=key, limits={"budget_total": 10_000})
        for each in working:
            each.result()

    open_, settled = 4 * 9, 4 * 16
    assert counters(allowance)[0] == open_
    assert counters(allowance)[5] == open_ * 5 + settled * 2


def test_a_hold_that_grew_on_another_day_gives_back_where_it_was_counted(alice, key):
    """Such as an allocation that is extended, and released at once."""
    limits = Allowance.objects.create(client=alice, budget_day=100, budget_month=500)
    hold(alice, 50, reference="lease:1", tokens=None)
    ago = datetime.now(UTC) - timedelta(days=40)
    Hold.objects.update(created_at=ago)
    Allowance.objects.update(day=ago.date())
    hold(alice, 90, reference="lease:1", tokens=None)
    hold(alice, 120, reference="lease:1", tokens=None)
    limits.refresh_from_db()
    assert (limits.day_used, limits.month_used, limits.total_used) == (70, 70, 120)
    ledger.release("lease:1")
    limits.refresh_from_db()
    assert (limits.day_used, limits.month_used, limits.total_used) == (0, 0, 0)


def test_a_hold_that_grew_on_another_day_and_was_used_gives_back_no_more_than_grew_today(alice, key):
    limits = Allowance.objects.create(client=alice, budget_day=100)
    hold(alice, 50, reference="lease:1", tokens=None)
    ago = datetime.now(UTC) - timedelta(days=40)
    Hold.objects.update(created_at=ago)
    Allowance.objects.update(day=ago.date())
    hold(alice, 60, reference="lease:1", tokens=None)
    settle("lease:1", 20)
    limits.refresh_from_db()
    assert (limits.day_used, limits.total_used) == (0, 20)
