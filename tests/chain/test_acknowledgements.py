"""What the books do not know stops withdrawals until an operator lets it stand; differences likewise, to the unit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from chain import acknowledgements, reconciliation, warnings, withdrawals
from chain.models import Network, Reconciliation, Withdrawal, WithdrawalStatus
from clients.models import AuditEntry, Wallet
from tests.chain.sending import Sending

REFERENCE = b"\1" * 32


@pytest.fixture
def rich(sending: Sending, alice: Any) -> Any:
    """Alice has deposited 100 from her wallet, which is linked; the Treasury knows the operator."""
    treasury = sending.devnet.contract("TREASURY")
    call = treasury.functions.setOperator(sending.operator, True)
    sending.devnet.transact(sending.devnet.deployer, call, gas=200_000)
    Wallet.objects.create(client=alice, address=sending.devnet.alice.address.lower())
    sending.deposit(0, 100)
    sending.index()
    return alice


def ask(sending: Sending, client: Any, amount: int = 10) -> Withdrawal:
    address = sending.devnet.alice.address
    return withdrawals.request(
        client, amount=amount, address=address, network=sending.network, now=sending.now
    )


def pay_behind_our_back(sending: Sending, reference: bytes = REFERENCE) -> None:
    treasury, devnet = sending.devnet.contract("TREASURY"), sending.devnet
    call = treasury.functions.withdraw(reference, devnet.charlie.address, 7)
    devnet.transact(devnet.deployer, call, gas=300_000)
    sending.index()


def codes() -> list[str]:
    Network.objects.update(polled_at=timezone.now())
    return [each.code for each in warnings.current()]


def run(sending: Sending) -> Reconciliation:
    return reconciliation.run(sending.network, now=sending.now)


def force_in(sending: Sending, amount: int) -> None:
    """Coins come in without an event: PUSH20 treasury SELFDESTRUCT."""
    treasury = sending.devnet.manifest["contracts"]["TREASURY"]
    sending.devnet.send(sending.devnet.charlie, None, value=amount, data=f"0x73{treasury[2:]}ff", gas=200_000)
    sending.index()


def test_nothing_is_sent_while_the_treasury_has_paid_what_nobody_knows(
    sending: Sending, rich: Any, operator: Any
) -> None:
    pay_behind_our_back(sending)
    row, before = ask(sending, rich), sending.treasury()
    sending.pay()
    row.refresh_from_db()
    assert (row.status, sending.treasury()) == (WithdrawalStatus.SENDING, before)
    assert row.transaction is not None
    reason = row.transaction.reason
    for said in ("0x" + "01" * 32, "0.000000000000000007 OMNIT", sending.devnet.charlie.address, "restored"):
        assert said in reason, reason
    assert "unknown_payment" in codes()

    acknowledgements.acknowledge_payment(
        sending.network, "0x" + "01" * 32, by=operator, reason="From before the restore."
    )
    assert "unknown_payment" not in codes()
    sending.now += timedelta(hours=1)
    sending.pay()
    row.refresh_from_db()
    assert row.status == WithdrawalStatus.CONFIRMED
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.subject) == ("acknowledge_payment", "0x" + "01" * 32)
    assert entry.details["amount"] == "7"


def test_one_that_was_acknowledged_excuses_no_other(sending: Sending, rich: Any, operator: Any) -> None:
    pay_behind_our_back(sending)
    pay_behind_our_back(sending, b"\2" * 32)
    common = {"by": operator, "reason": "x"}
    acknowledgements.acknowledge_payment(sending.network, "0x" + "01" * 32, **common)
    assert "02" * 32 in acknowledgements.why_not_pay(sending.network)
    for reference in ("0x" + "01" * 32, "0x" + "03" * 32):
        with pytest.raises(acknowledgements.NothingToAcknowledge):
            acknowledgements.acknowledge_payment(sending.network, reference, **common)


def test_what_was_asked_for_or_is_not_final_stops_nothing(sending: Sending, rich: Any) -> None:
    row = ask(sending, rich)
    sending.pay()
    row.refresh_from_db()
    assert row.status == WithdrawalStatus.CONFIRMED
    pay_behind_our_back(sending)
    assert acknowledgements.why_not_pay(sending.network)
    Network.objects.update(confirmations=5)
    sending.network.refresh_from_db()
    assert acknowledgements.why_not_pay(sending.network) == ""


def test_an_acknowledged_payment_is_no_error_of_the_comparison(
    sending: Sending, rich: Any, operator: Any
) -> None:
    pay_behind_our_back(sending)
    assert not run(sending).is_balanced
    acknowledgements.acknowledge_payment(sending.network, "0x" + "01" * 32, by=operator, reason="x")
    found = run(sending)
    assert found.is_balanced, found.lines
    told = [each for line in found.lines for each in line["explained"] if "acknowledged" in each["says"]]
    assert sorted(each["amount"] for each in told) == ["-7", "7"]


def test_a_difference_that_was_acknowledged_is_a_line_of_its_own(
    sending: Sending, rich: Any, operator: Any
) -> None:
    force_in(sending, 1)
    found = run(sending)
    assert (found.is_balanced, found.unexplained) == (False, 1)
    acknowledgements.acknowledge_difference(found, by=operator, reason="Somebody has forced it in.")
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.subject) == ("acknowledge_difference", sending.network.name)
    assert entry.details["amount"] == "1"
    found = run(sending)
    assert found.is_balanced, found.lines
    explained = {each["says"]: each["amount"] for each in found.lines[0]["explained"]}
    assert explained["acknowledged by operator: Somebody has forced it in."] == "1"

    force_in(sending, 2)
    found = run(sending)
    assert (found.is_balanced, found.unexplained) == (False, 2)
    acknowledgements.acknowledge_difference(found, by=operator, reason="Again.")
    assert run(sending).is_balanced


def test_a_difference_is_acknowledged_once_and_only_as_it_is(
    sending: Sending, rich: Any, operator: Any
) -> None:
    common = {"by": operator, "reason": "x"}
    with pytest.raises(acknowledgements.NothingToAcknowledge, match="nothing unexplained"):
        acknowledgements.acknowledge_difference(run(sending), **common)
    force_in(sending, 1)
    first = run(sending)
    force_in(sending, 1)
    second = run(sending)
    with pytest.raises(acknowledgements.NothingToAcknowledge, match="something else"):
        acknowledgements.acknowledge_difference(first, **common)
    acknowledgements.acknowledge_difference(second, **common)
    with pytest.raises(acknowledgements.NothingToAcknowledge, match="is acknowledged"):
        acknowledgements.acknowledge_difference(second, **common)
    assert run(sending).is_balanced
