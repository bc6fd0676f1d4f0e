"""Whether the books add up, and which rows they break on."""

import threading

import pytest
from django.db import connection, connections
from django.test import Client as Browser

from clients import ledger, payouts, refunds, trial_balance
from clients.models import Account, AccountKind, Hold, Payout, Stripe, Transfer, TransferKind
from gpus.models import Allocation, Lease
from inference.models import Inference
from marketplace.money import TOKEN

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/admin/trial-balance/"


@pytest.fixture
def ask(alice, bob, fund):
    """A request of alice's that bob has answered for 5 tokens, one of them the fee."""
    fund(alice, 100)

    def one():
        row = Inference.objects.create(
            client=alice,
            provider=bob,
            face="/inference/",
            kind="chat",
            desired_model="toy",
            status="completed",
            charged=5 * TOKEN,
            fee=TOKEN,
        )
        ledger.hold(reference=f"inference:{row.pk}", client_id=alice.pk, amount=6 * TOKEN)
        ledger.settle(
            reference=f"inference:{row.pk}",
            amount=row.charged,
            fee=row.fee,
            payee_id=bob.pk,
            kind=TransferKind.INFERENCE,
        )
        return row

    return one


@pytest.fixture
def lease(alice, bob):
    from django.utils import timezone

    now = timezone.now()
    of = Allocation.objects.create(
        client=alice, task_type="training", gpu_count=1, created_at=now, expires_at=now
    )
    return Lease.objects.create(
        allocation=of, node_id=1, node_name="n", provider=bob, gpus=1, hour_price=TOKEN, fee_bps=0,
        started_at=now, paid_until=now, expires_at=now,
    )  # fmt: skip


def corrupt(sql, *values):
    """What no code of ours does: change rows that may never change, without telling the others."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE clients_transfer DISABLE TRIGGER final")
        cursor.execute(sql, values)
        cursor.execute("ALTER TABLE clients_transfer ENABLE TRIGGER final")


def broken():
    """(row, should be, is) of all that is wrong; amounts in tokens."""
    report = trial_balance.run()
    found = [row for result in report.results for row in result.breaks]
    assert report.adds_up == (not found)
    return sorted((row.name, row.expected / TOKEN, row.found / TOKEN, row.note) for row in found)


def test_an_empty_marketplace_adds_up():
    assert broken() == []


def test_it_adds_up_after_all_that_money_does(ask, lease, alice, bob, charlie, operator, fund):
    from django.utils import timezone

    now = timezone.now()
    first, _ = ask(), ask()
    refunds.reverse(
        Transfer.objects.get(reference=f"inference:{first.pk}"), by=operator, reason="Wrong answers."
    )
    paid = payouts.request(bob, amount=TOKEN, destination="0x1")
    payouts.pay(paid, by=operator, note="Bank 17.", now=now)
    payouts.refuse(payouts.request(bob, amount=TOKEN, destination="0x1"), by=operator, reason="No.", now=now)
    payouts.request(bob, amount=TOKEN, destination="0x1")
    ledger.hold(reference=lease.reference, client_id=alice.pk, amount=3 * TOKEN)
    for second in (1, 2):
        ledger.capture(
            reference=lease.reference, amount=TOKEN, transfer_reference=f"{lease.reference}:{second}",
            payee_id=bob.pk, kind=TransferKind.ALLOCATION,
        )  # fmt: skip
    Lease.objects.filter(pk=lease.pk).update(charged=2 * TOKEN)
    running = Inference.objects.create(client=alice, face="/inference/", kind="chat", desired_model="toy")
    ledger.hold(reference=f"inference:{running.pk}", client_id=alice.pk, amount=TOKEN)
    report = trial_balance.run()
    assert (report.adds_up, report.sum) == (True, 0)
    assert {total.kind for total in report.totals} >= {AccountKind.SPENDABLE, AccountKind.OUTSIDE}


def test_money_from_nowhere_is_found(alice, fund):
    fund(alice, 10)
    account = ledger.account(alice.pk, AccountKind.SPENDABLE)
    Account.objects.filter(pk=account.pk).update(balance=11 * TOKEN)
    assert broken() == [("acc_" + str(account.pk), 10, 11, "spendable"), ("all accounts", 0, 1, "")]


def test_money_from_nowhere_in_a_stripe_is_found(ask):
    ask()
    Stripe.objects.filter(account__kind="earned").update(balance=5 * TOKEN)
    assert ("all accounts", 0, 1, "") in broken()


def test_what_two_accounts_have_wrongly_is_found_though_the_sum_is_zero(alice, bob, fund):
    fund(alice, 10), fund(bob, 10)
    for person, tokens in ((alice, 9), (bob, 11)):
        account = ledger.account(person.pk, AccountKind.SPENDABLE)
        Account.objects.filter(pk=account.pk).update(balance=tokens * TOKEN)
    assert [row[1:] for row in broken()] == [(10, 9, "spendable"), (10, 11, "spendable")]


def test_a_lost_fee_is_found(ask):
    ask()
    Stripe.objects.filter(account__kind="fees").delete()
    assert ("all accounts", 0, -1, "") in broken()


def test_a_wrong_sum_of_holds_is_found(alice, fund):
    fund(alice, 10)
    ledger.hold(reference="training:1", client_id=alice.pk, amount=2 * TOKEN)
    Hold.objects.update(ended_at="2026-01-01T00:00:00Z")
    account = ledger.account(alice.pk, AccountKind.SPENDABLE)
    assert broken() == [(account.name, 0, 2, "spendable")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"charged": 4 * TOKEN}, (4, 5, "another amount")),
        ({"fee": 0}, (5, 5, "the same amount, another fee")),
        ({"charged": 0, "fee": 0}, (0, 5, "a transfer without a request that was charged")),
    ],
)
def test_a_request_and_its_transfer_that_differ_are_found(ask, change, expected):
    row = ask()
    Inference.objects.update(**change)
    assert broken() == [(f"inference:{row.pk}", *expected)]


def test_a_request_paid_to_somebody_else_is_found(ask, charlie):
    row = ask()
    Inference.objects.update(provider=charlie)
    assert broken() == [(f"inference:{row.pk}", 5, 5, "between other people")]


def test_a_charge_without_a_transfer_is_found(ask, alice):
    row = Inference.objects.create(
        client=alice, face="/inference/", kind="chat", desired_model="toy", status="completed", charged=TOKEN
    )
    assert broken() == [(f"inference:{row.pk}", 1, 0, "charged, without a transfer")]


def test_a_hold_that_outlived_its_request_is_found(alice, fund):
    fund(alice, 10)
    row = Inference.objects.create(
        client=alice, face="/inference/", kind="chat", desired_model="toy", status="failed"
    )
    for reference in (f"inference:{row.pk}", "inference:999", "inference:x"):
        ledger.hold(reference=reference, client_id=alice.pk, amount=TOKEN)
    missing = "there is no such request"
    assert broken() == [
        (f"inference:{row.pk}", 0, 1, "failed"),
        ("inference:999", 0, 1, missing),
        ("inference:x", 0, 1, missing),
    ]


def test_a_lease_that_was_charged_otherwise_and_its_lasting_hold_are_found(lease, alice, fund):
    fund(alice, 10)
    ledger.hold(reference=lease.reference, client_id=alice.pk, amount=TOKEN)
    Lease.objects.update(charged=TOKEN, ended_at="2026-01-01T00:00:00Z", end_code="expired")
    assert broken() == [
        (lease.reference, 0, 1, "expired"),
        (lease.reference, 1, 0, "charged, without a transfer"),
    ]


def test_payouts_that_are_not_what_the_ledger_says_are_found(bob, operator, fund):
    from django.utils import timezone

    fund(bob, 10, kind="earned")
    waiting = payouts.request(bob, amount=TOKEN, destination="0x1")
    paid = payouts.request(bob, amount=2 * TOKEN, destination="0x1")
    payouts.pay(paid, by=operator, note="Bank 17.", now=timezone.now())
    Payout.objects.filter(pk=waiting.pk).update(status="refused")
    Payout.objects.filter(pk=paid.pk).update(amount=3 * TOKEN)
    assert broken() == [
        (waiting.reference, 0, 1, "refused"),
        (paid.reference, 3, 2, "another amount"),
    ]


def test_a_changed_transfer_is_found(ask):
    row = ask()
    corrupt("UPDATE clients_transfer SET amount = amount + 1 WHERE reference = %s", f"inference:{row.pk}")
    names = [name for name, *_ in broken()]
    assert len(names) == 3
    assert f"inference:{row.pk}" in names


def test_a_transfer_between_accounts_that_are_not_there_is_found(alice, fund):
    fund(alice, 10)
    corrupt("UPDATE clients_transfer SET destination_id = 999999")
    assert ("acc_999999", 10, 0, "there is no such account") in broken()


def test_many_broken_rows_are_counted_and_some_are_shown(alice, fund, monkeypatch):
    monkeypatch.setattr(trial_balance, "SHOWN", 2)
    fund(alice, 10)
    for number in range(3):
        ledger.hold(reference=f"inference:{number + 100}", client_id=alice.pk, amount=TOKEN)
    (result,) = [result for result in trial_balance.run().results if result.count]
    assert (result.count, len(result.breaks)) == (3, 2)


def test_it_is_right_while_money_moves(alice, bob, fund):
    fund(alice, 100)
    stop = threading.Event()

    def move(name):
        number = 0
        while not stop.is_set():
            number += 1
            reference = f"something:{name}{number}"
            ledger.hold(reference=reference, client_id=alice.pk, amount=2)
            ledger.settle(
                reference=reference, amount=1, payee_id=bob.pk, fee=number % 2, kind=TransferKind.TRANSFER
            )
        connections.close_all()

    threads = [threading.Thread(target=move, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    try:
        assert [broken() for _ in range(15)] == [[]] * 15
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def browser(operator):
    found = Browser()
    found.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return found


def test_the_page_says_that_all_is_well(browser, ask):
    ask()
    page = browser.get(PAGE).content.decode()
    assert "The books add up." in page
    assert "The sum of all accounts is 0 OMNIT" in page


def test_the_page_names_the_rows_that_break_it(browser, ask, alice):
    row = ask()
    Inference.objects.update(charged=4 * TOKEN)
    page = browser.get(PAGE).content.decode()
    assert "The books do not add up." in page
    assert f"/admin/inference/inference/{row.pk}/change/" in page
    for text in ("4 OMNIT", "5 OMNIT", "another amount"):
        assert text in page


def test_who_may_not_see_accounts_may_not_see_it(charlie, client):
    charlie.is_staff = True
    charlie.save()
    client.force_login(charlie, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(PAGE).status_code == 403
