"""The trial balance knows deposits and withdrawals, and the page of holds what they are for."""

from __future__ import annotations

from typing import Any

import pytest

from chain import withdrawals
from chain.models import Deposit, Withdrawal
from clients import books, holds, ledger
from clients.models import AccountKind, Hold, Transfer, TransferKind, Wallet
from tests.chain.sending import Sending, breaks
from tests.chain.test_reconciliation import sql


@pytest.fixture
def row(sending: Sending, alice: Any) -> Withdrawal:
    """Alice has deposited 100, and 30 are on their way out."""
    Wallet.objects.create(client=alice, address=sending.devnet.alice.address.lower())
    sending.deposit(0, 100)
    sending.index()
    address = sending.devnet.alice.address
    made = withdrawals.request(alice, amount=30, address=address, network=sending.network, now=sending.now)
    assert breaks() == []
    return made


def _names() -> list[str]:
    return sorted(str(found[0]) for found in breaks())


def test_the_page_of_holds_says_what_a_withdrawals_money_waits_for(sending: Sending, row: Withdrawal) -> None:
    hold = Hold.objects.get(pk=row.reference)
    finding = holds.look([hold], now=sending.now)[hold.reference]
    assert (finding.says, finding.free, finding.late) == ("approved; to be sent", False, False)
    withdrawals.cancel(row, now=sending.now)
    Hold.objects.filter(pk=row.reference).update(ended_at=None)
    hold.refresh_from_db()
    assert holds.look([hold], now=sending.now)[hold.reference].free


def test_references_lead_to_their_pages(row: Withdrawal) -> None:
    deposit = Deposit.objects.get()
    for reference, page, pk in (
        (row.reference, "chain_withdrawal", row.pk),
        (deposit.reference, "chain_deposit", deposit.pk),
    ):
        known = books.purpose_of(reference)
        assert known is not None
        assert (known[0].page, known[1]) == (page, pk)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE clients_transfer SET amount = amount + 1 WHERE kind = 'deposit'",
        "DELETE FROM clients_transfer WHERE kind = 'deposit'",
        "DELETE FROM chain_deposit",
        "UPDATE chain_deposit SET status = 'reversed'",
        "UPDATE chain_withdrawal SET status = 'confirmed'",
        "UPDATE chain_withdrawal SET status = 'cancelled'",
        "UPDATE chain_withdrawal SET amount = amount - 1",
        "DELETE FROM chain_withdrawal",
        "UPDATE clients_hold SET amount = amount + 1",
        "DELETE FROM clients_hold",
    ],
)
def test_what_was_tampered_with_is_found(row: Withdrawal, statement: str) -> None:
    expected = "withdrawal" if "withdrawal" in statement or "hold" in statement else "deposit"
    sql(statement)
    assert any(name.startswith(f"{expected}:") for name in _names()), _names()


def test_a_withdrawal_that_nobody_asked_for_is_found(row: Withdrawal) -> None:
    ledger.transfer(
        source=ledger.account(row.client_id, AccountKind.SPENDABLE),
        destination=ledger.account(None, AccountKind.OUTSIDE),
        amount=1, reference="withdrawal:987654", kind=TransferKind.WITHDRAWAL,
    )  # fmt: skip
    assert _names() == ["withdrawal:987654"]
    assert Transfer.objects.count() == 2
