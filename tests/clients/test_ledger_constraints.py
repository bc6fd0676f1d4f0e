"""What the database refuses, whoever asks: these are its own rules, and no verb's."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from clients import audit, ledger, terms
from clients.models import Account, AccountKind, Allowance, AuditEntry, Client, Hold, Stripe, Terms, Transfer
from clients.models.ledger import TransferKind
from marketplace.money import TOKEN
from tests.clients import ledger_books


@pytest.fixture
def spendable(alice: Client) -> Account:
    """Alice's, with 10 tokens of which 4 are held."""
    ledger.grant(client_id=alice.pk, amount=10 * TOKEN, reference="grant:1", reason="", by_id=None)
    ledger.hold(reference="h:1", client_id=alice.pk, amount=4 * TOKEN)
    return ledger.account(alice.pk, AccountKind.SPENDABLE)


@pytest.fixture
def final(alice: Client, operator: Client, spendable: Account) -> dict[type, Any]:
    """One row of each table that is only added to."""
    audit.note(by=operator, action="grant", subject="alice", reason="Because")
    terms.change(by=operator, reason="More", fee_bps=100)
    return {model: model.objects.latest("pk") for model in (Transfer, AuditEntry, Terms)}


def refused(
    change: Callable[[], object], *, by: type[Exception] = IntegrityError, saying: str | None = None
) -> None:
    with pytest.raises(by, match=saying), transaction.atomic():
        change()


def sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


# Accounts


def test_less_than_nothing_is_refused(spendable: Account) -> None:
    row = Account.objects.filter(pk=spendable.pk)
    refused(lambda: row.update(held=0, balance=-1), saying="account_not_overdrawn")


def test_less_than_what_is_held_is_refused(spendable: Account) -> None:
    row = Account.objects.filter(pk=spendable.pk)
    refused(lambda: row.update(balance=4 * TOKEN - 1), saying="account_not_overdrawn")
    refused(lambda: row.update(held=10 * TOKEN + 1), saying="account_not_overdrawn")
    refused(lambda: row.update(held=-1), saying="account_held_not_negative")


@pytest.mark.parametrize("kind", [AccountKind.FEES, AccountKind.GRANTS, AccountKind.OUTSIDE])
def test_the_marketplaces_accounts_are_nobody_elses_and_single(alice: Client, kind: AccountKind) -> None:
    ledger.account(None, kind)
    refused(lambda: Account.objects.create(client=alice, kind=kind), saying="account_owner")
    refused(lambda: Account.objects.create(client=None, kind=kind), saying="account_of_platform_unique")


def test_a_client_has_one_account_of_each_kind(alice: Client, spendable: Account) -> None:
    refused(lambda: Account.objects.create(client=alice, kind=AccountKind.SPENDABLE), saying="account_unique")
    refused(lambda: Account.objects.create(client=None, kind=AccountKind.SPENDABLE), saying="account_owner")


def test_a_stripe_is_never_below_zero(spendable: Account) -> None:
    refused(
        lambda: Stripe.objects.create(account=spendable, number=1, balance=-1), saying="stripe_not_negative"
    )


def test_a_client_with_money_is_not_deleted(alice: Client, spendable: Account) -> None:
    refused(lambda: alice.delete())
    # Nor past Django, which only looks first.
    sql("SET CONSTRAINTS ALL IMMEDIATE")
    refused(lambda: sql(f"DELETE FROM clients_client WHERE id = {alice.pk}"))


# Transfers and holds


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ({"amount": 0}, "transfer_amount_positive"),
        ({"amount": -1}, "transfer_amount_positive"),
        ({"fee": -1}, "transfer_fee_in_amount"),
        ({"fee": 2}, "transfer_fee_in_amount"),
        ({"destination": "source"}, "transfer_moves"),
        ({"reference": "grant:1"}, "clients_transfer_reference"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(
    spendable: Account, bob: Client, change: dict[str, Any], constraint: str
) -> None:
    row = {
        "reference": "t:1",
        "kind": TransferKind.TRANSFER,
        "amount": 1,
        "source": spendable,
        "destination": ledger.account(bob.pk, AccountKind.SPENDABLE),
    } | change
    if row["destination"] == "source":
        row["destination"] = spendable
    refused(lambda: Transfer.objects.create(**row), saying=constraint)


def test_a_transfer_is_reversed_once(spendable: Account, bob: Client) -> None:
    original = Transfer.objects.get(reference="grant:1")
    common = {
        "kind": TransferKind.REVERSAL,
        "amount": 1,
        "source": spendable,
        "destination": ledger.account(None, AccountKind.GRANTS),
        "reverses": original,
    }
    refused(
        lambda: [Transfer.objects.create(reference=f"r:{n}", **common) for n in range(2)],
        saying="reverses_id",
    )


@pytest.mark.parametrize("captured", [-1, 4 * TOKEN + 1])
def test_more_or_less_than_a_hold_is_not_taken(spendable: Account, captured: int) -> None:
    refused(lambda: Hold.objects.update(captured=captured), saying="hold_captured")


@pytest.mark.parametrize("fee", [-1, 3 * TOKEN])
def test_a_fee_is_a_part_of_what_is_taken(spendable: Account, bob: Client, fee: int) -> None:
    refused(
        lambda: ledger.settle(
            reference="h:1", amount=2 * TOKEN, fee=fee, payee_id=bob.pk, kind=TransferKind.INFERENCE
        ),
        saying="transfer_fee_in_amount",
    )
    assert ledger_books.wrong() == []


@pytest.mark.parametrize("amount", [-1, -(10**30)])
def test_less_than_nothing_is_not_held_or_taken(
    alice: Client, bob: Client, spendable: Account, amount: int
) -> None:
    refused(lambda: ledger.hold(reference="h:2", client_id=alice.pk, amount=amount))
    refused(
        lambda: ledger.settle(reference="h:1", amount=amount, payee_id=bob.pk, kind=TransferKind.INFERENCE)
    )
    assert ledger_books.wrong() == []


def test_a_client_and_a_key_have_one_set_of_limits(alice: Client) -> None:
    Allowance.objects.create(client=alice)
    refused(lambda: Allowance.objects.create(client=alice), saying="allowance_of_account_unique")


# What is only ever added to


@pytest.mark.parametrize("model", [Transfer, AuditEntry, Terms])
def test_what_is_written_stays_as_it_was_written(final: dict[type, Any], model: Any) -> None:
    row = final[model]
    table = model._meta.db_table
    text = {"clients_transfer": "memo"}.get(table, "reason")
    refused(row.delete, saying="only ever added to")
    refused(lambda: model.objects.all().delete(), saying="only ever added to")
    refused(lambda: model.objects.filter(pk=row.pk).update(**{text: "forged"}), saying="only ever added to")
    setattr(row, text, "forged")
    refused(row.save, saying="only ever added to")
    refused(lambda: sql(f"DELETE FROM {table}"), saying="only ever added to")
    refused(lambda: sql(f"UPDATE {table} SET {text} = 'forged'"), saying="only ever added to")
    assert getattr(model.objects.get(pk=row.pk), text) != "forged"


@pytest.mark.parametrize("model", [Transfer, AuditEntry, Terms])
def test_nor_is_it_emptied(final: dict[type, Any], model: Any) -> None:
    table = model._meta.db_table
    # Switched off for the tests that empty all tables (tests/conftest.py).
    sql(f"SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE {table} ENABLE TRIGGER final_all")
    refused(lambda: sql(f"TRUNCATE {table} CASCADE"), saying="only ever added to")


def test_the_trigger_that_refuses_it_is_on_where_it_is_installed(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'final' AND tgenabled = 'O' ORDER BY 1"
        )
        assert [row[0] for row in cursor] == [
            "clients_auditentry", "clients_terms", "clients_transfer", "gpus_price",
        ]  # fmt: skip
