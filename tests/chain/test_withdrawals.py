"""Withdrawals: held when asked for, paid by the Treasury once, settled when that is final."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from web3 import Web3

from chain import allowances, outbox, withdrawals
from chain.ethereum import NodeAway
from chain.models import Log, Network, Transaction, TransactionStatus, Withdrawal, WithdrawalStatus
from clients import ledger, terms
from clients.models import AccountKind, AuditEntry, Client, Hold, Transfer, TransferKind, Wallet
from clients.payouts import ReasonMissing
from tests.chain.sending import Killed, Sending, breaks, failing_node
from tests.clients import ledger_books

Status = WithdrawalStatus
SPENDABLE = AccountKind.SPENDABLE


@pytest.fixture(autouse=True)
def _books(db: None) -> Any:
    yield
    assert ledger_books.wrong() == []
    assert breaks() == []


@pytest.fixture
def rich(sending: Sending, alice: Any, operator: Any) -> Any:
    """Alice has deposited 100 from her wallet, which is linked; the Treasury knows the operator."""
    treasury = sending.devnet.contract("TREASURY")
    call = treasury.functions.setOperator(sending.operator, True)
    sending.devnet.transact(sending.devnet.deployer, call, gas=200_000)
    Wallet.objects.create(client=alice, address=sending.devnet.alice.address.lower())
    sending.deposit(0, 100)
    sending.index()
    return alice


def _ask(sending: Sending, client: Any, amount: int = 10, **options: Any) -> Withdrawal:
    wanted = {
        "address": sending.devnet.alice.address,
        "network": sending.network,
        "now": sending.now,
    } | options
    return withdrawals.request(client, amount=amount, **wanted)


def _free(client: Any, kind: AccountKind = SPENDABLE) -> tuple[int, int]:
    account = ledger.account(client.pk, kind)
    return ledger.balances([account])[account.pk]


def test_it_is_held_sent_confirmed_and_settled(sending: Sending, rich: Any) -> None:
    before, had = sending.treasury(), sending.balance(sending.devnet.alice.address)
    row = _ask(sending, rich)
    assert (row.status, _free(rich)) == (Status.APPROVED, (100, 10))
    sending.pay()
    row.refresh_from_db()
    assert (row.status, row.is_claimable, _free(rich)) == (Status.CONFIRMED, False, (90, 0))
    assert sending.treasury() == before - 10
    assert sending.balance(sending.devnet.alice.address) == had + 10
    transfer = Transfer.objects.get(kind=TransferKind.WITHDRAWAL)
    assert (transfer.reference, transfer.amount) == (row.reference, 10)
    paid = Log.objects.get(name="Withdrawn")
    assert paid.arguments["reference"] == withdrawals.payment_reference(row)


def test_the_treasury_knows_it_by_the_hash_of_its_uuids_bytes() -> None:
    from uuid import UUID

    row = Withdrawal(uuid=UUID("00112233-4455-6677-8899-aabbccddeeff"))
    raw = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert withdrawals.payment_reference(row) == Web3.to_hex(Web3.keccak(raw))


def test_only_to_a_wallet_that_is_linked_to_the_client(sending: Sending, rich: Any, bob: Any) -> None:
    Wallet.objects.create(client=bob, address=sending.devnet.bob.address.lower())
    for address in (sending.devnet.bob.address, sending.devnet.charlie.address, "0x", "rubbish"):
        with pytest.raises(withdrawals.WalletNotLinked):
            _ask(sending, rich, address=address)
    assert (
        _ask(sending, rich, address=sending.devnet.alice.address.lower()).address
        == sending.devnet.alice.address
    )


def test_not_more_than_there_is(sending: Sending, rich: Any) -> None:
    _ask(sending, rich, 60)
    with pytest.raises(allowances.NotWithdrawable):
        _ask(sending, rich, 41)
    _ask(sending, rich, 40)
    assert _free(rich) == (100, 100)


@pytest.mark.parametrize("amount", [0, -1])
def test_not_nothing(sending: Sending, rich: Any, amount: int) -> None:
    with pytest.raises(withdrawals.BelowMinimum):
        _ask(sending, rich, amount)


def test_what_was_given_or_sent_by_others_is_for_spending(
    sending: Sending, rich: Any, bob: Any, operator: Any
) -> None:
    from clients import transfers

    ledger.grant(client_id=bob.pk, amount=500, reference="grant:1", reason="x", by_id=None)
    transfers.send(payer=bob, to=rich, amount=200)
    assert allowances.withdrawable(rich) == 100
    assert allowances.withdrawable(bob) == 0
    with pytest.raises(allowances.NotWithdrawable):
        _ask(sending, rich, 101)


def test_what_was_earned_is_withdrawn_from_either_account(sending: Sending, rich: Any) -> None:
    from clients import transfers

    ledger.transfer(
        source=ledger.account(None, AccountKind.OUTSIDE), destination=ledger.account(rich.pk, AccountKind.EARNED),
        amount=50, reference="onchain:1", kind=TransferKind.ONCHAIN,
    )  # fmt: skip
    assert allowances.withdrawable(rich, AccountKind.EARNED) == 50
    transfers.send(payer=rich, to=rich, amount=20, source=AccountKind.EARNED)
    assert allowances.withdrawable(rich) == 120
    row = _ask(sending, rich, 30, account_kind=AccountKind.EARNED)
    sending.fund(1000)
    sending.pay()
    row.refresh_from_db()
    assert (row.status, _free(rich, AccountKind.EARNED)) == (Status.CONFIRMED, (0, 0))
    with pytest.raises(withdrawals.WrongAccount):
        _ask(sending, rich, 1, account_kind=AccountKind.STAKED)


def test_limits_by_the_terms(sending: Sending, rich: Any, operator: Any) -> None:
    terms.change(
        by=operator, reason="x", withdrawal_minimum=5, withdrawal_daily=30, withdrawal_approval_above=10
    )
    with pytest.raises(withdrawals.BelowMinimum):
        _ask(sending, rich, 4)
    assert _ask(sending, rich, 10).status == Status.APPROVED
    large = _ask(sending, rich, 20)
    assert large.status == Status.REQUESTED
    with pytest.raises(allowances.OverDailyLimit):
        _ask(sending, rich, 5)
    withdrawals.cancel(large, now=sending.now)
    _ask(sending, rich, 20)
    sending.now += timedelta(days=1)
    _ask(sending, rich, 20)


def test_at_most_so_many_at_once(sending: Sending, rich: Any) -> None:
    for _ in range(withdrawals.MAX_OPEN):
        _ask(sending, rich, 1)
    with pytest.raises(withdrawals.TooManyWithdrawals):
        _ask(sending, rich, 1)


def test_an_operator_approves_what_is_large(sending: Sending, rich: Any, operator: Any) -> None:
    terms.change(by=operator, reason="x", withdrawal_approval_above=5)
    row = _ask(sending, rich)
    sending.pay(2)
    row.refresh_from_db()
    assert (row.status, row.transaction) == (Status.REQUESTED, None)
    withdrawals.approve(row, by=operator, now=sending.now)
    with pytest.raises(withdrawals.WithdrawalDecided):
        withdrawals.approve(row, by=operator, now=sending.now)
    sending.pay()
    row.refresh_from_db()
    assert (row.status, row.decided_by) == (Status.CONFIRMED, operator)
    assert AuditEntry.objects.filter(action="approve_withdrawal").count() == 1


def test_an_operator_refuses_with_a_reason(sending: Sending, rich: Any, operator: Any) -> None:
    terms.change(by=operator, reason="x", withdrawal_approval_above=5)
    row = _ask(sending, rich)
    with pytest.raises(ReasonMissing):
        withdrawals.refuse(row, by=operator, reason="", now=sending.now)
    withdrawals.refuse(row, by=operator, reason="We have to ask you first.", now=sending.now)
    assert (row.status, row.reason, _free(rich)) == (Status.REFUSED, "We have to ask you first.", (100, 0))
    with pytest.raises(withdrawals.WithdrawalDecided):
        withdrawals.cancel(row, now=sending.now)


def test_the_freeze_switch_stops_what_is_not_signed(sending: Sending, rich: Any, operator: Any) -> None:
    queued = _ask(sending, rich)
    withdrawals.sweep(sending.network, now=sending.now)
    terms.change(by=operator, reason="an incident", payouts_frozen=True)
    later = _ask(sending, rich, 5)
    for _ in range(3):
        sending.pay(1)
    queued.refresh_from_db()
    later.refresh_from_db()
    assert (queued.status, queued.transaction.status) == (Status.SENDING, TransactionStatus.QUEUED)
    assert "frozen" in queued.transaction.reason
    assert later.status == Status.APPROVED
    terms.change(by=operator, reason="x", withdrawal_approval_above=1)
    with pytest.raises(withdrawals.WithdrawalsFrozen):
        withdrawals.approve(_ask(sending, rich, 5), by=operator, now=sending.now)
    terms.change(by=operator, reason="it is over", payouts_frozen=False)
    sending.now += timedelta(minutes=5)
    sending.pay(6)
    queued.refresh_from_db()
    later.refresh_from_db()
    assert (queued.status, later.status) == (Status.CONFIRMED, Status.CONFIRMED)


@pytest.mark.parametrize("is_queued", [False, True])
def test_its_owner_takes_it_back_while_nothing_is_signed(
    sending: Sending, rich: Any, is_queued: bool
) -> None:
    before, row = sending.treasury(), _ask(sending, rich)
    if is_queued:
        withdrawals.sweep(sending.network, now=sending.now)
    withdrawals.cancel(row, now=sending.now)
    assert (row.status, _free(rich)) == (Status.CANCELLED, (100, 0))
    sending.pay()
    row.refresh_from_db()
    assert (row.status, sending.treasury()) == (Status.CANCELLED, before)


def test_what_is_signed_cannot_be_taken_back(sending: Sending, rich: Any, operator: Any) -> None:
    row = _ask(sending, rich)
    with sending.devnet.held():
        withdrawals.sweep(sending.network, now=sending.now)
        sending.advance()
        with pytest.raises(withdrawals.WithdrawalSigned):
            withdrawals.cancel(row, now=sending.now)
        with pytest.raises(withdrawals.WithdrawalSigned):
            withdrawals.refuse(row, by=operator, reason="no", now=sending.now)
    assert Hold.objects.get(pk=row.reference).ended_at is None


def test_a_treasury_with_too_little_is_waited_for(sending: Sending, rich: Any) -> None:
    treasury = sending.devnet.contract("TREASURY")
    call = treasury.functions.recover(sending.devnet.deployer.address, sending.treasury())
    sending.devnet.transact(sending.devnet.deployer, call, gas=200_000)
    row = _ask(sending, rich)
    sending.pay(2)
    row.refresh_from_db()
    assert row.status == Status.SENDING
    assert "too little" in row.reason
    assert _free(rich) == (100, 10)
    sending.fund(50)
    sending.now += timedelta(hours=1)
    sending.pay()
    row.refresh_from_db()
    assert (row.status, row.reason) == (Status.CONFIRMED, "")


def test_a_paused_treasury_and_its_daily_limit_are_waited_for(sending: Sending, rich: Any) -> None:
    treasury, deployer = sending.devnet.contract("TREASURY"), sending.devnet.deployer
    sending.devnet.transact(deployer, treasury.functions.pause(), gas=200_000)
    row = _ask(sending, rich)
    sending.pay(2)
    row.refresh_from_db()
    assert "paused" in row.reason
    sending.devnet.transact(deployer, treasury.functions.unpause(), gas=200_000)
    sending.devnet.transact(deployer, treasury.functions.setDailyLimit(3), gas=200_000)
    sending.now += timedelta(hours=1)
    sending.pay(2)
    row.refresh_from_db()
    assert "no more today" in row.reason
    sending.devnet.transact(deployer, treasury.functions.setDailyLimit(0), gas=200_000)
    sending.now += timedelta(hours=2)
    sending.pay()
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED


def test_what_the_treasury_refuses_for_good_frees_the_money(sending: Sending, rich: Any) -> None:
    row = _ask(sending, rich)
    # To the Treasury itself: nobody can link that.
    itself = sending.network.address("TREASURY")
    Wallet.objects.create(client=rich, address=itself.lower())
    Withdrawal.objects.update(address=itself)
    sending.pay(2)
    row.refresh_from_db()
    assert (row.status, _free(rich)) == (Status.FAILED, (100, 0))
    assert "InvalidReceiver" in row.reason


def test_what_was_paid_before_is_settled_by_the_event_of_that(sending: Sending, rich: Any) -> None:
    """As after a restored backup: the chain has paid it, and the outbox knows nothing of it."""
    row = _ask(sending, rich)
    treasury = sending.devnet.contract("TREASURY")
    reference = bytes.fromhex(withdrawals.payment_reference(row)[2:])
    call = treasury.functions.withdraw(reference, row.address, row.amount)
    sending.devnet.transact(sending.devnet.deployer, call, gas=300_000)
    before = sending.treasury()
    sending.pay(2)
    sending.now += timedelta(minutes=5)
    sending.pay(3)
    row.refresh_from_db()
    assert (row.status, _free(rich), sending.treasury()) == (Status.CONFIRMED, (90, 0), before)


def test_what_was_paid_is_not_freed_whatever_the_node_says_of_its_transaction(
    sending: Sending, rich: Any
) -> None:
    row = _ask(sending, rich)
    withdrawals.sweep(sending.network, now=sending.now)
    row.refresh_from_db()
    treasury = sending.devnet.contract("TREASURY")
    reference = bytes.fromhex(withdrawals.payment_reference(row)[2:])
    call = treasury.functions.withdraw(reference, row.address, row.amount)
    sending.devnet.transact(sending.devnet.deployer, call, gas=300_000)
    sending.index()
    assert row.transaction is not None
    outbox.end(
        row.transaction, TransactionStatus.REVERTED, now=sending.now, reason="The contract refused it."
    )
    row.refresh_from_db()
    assert (row.status, _free(rich)) == (Status.CONFIRMED, (90, 0))


@pytest.mark.parametrize("what", ["blocked", "unlinked"])
def test_nothing_goes_to_a_blocked_account_or_a_wallet_that_was_unlinked(
    sending: Sending, rich: Any, operator: Any, what: str
) -> None:
    row, before = _ask(sending, rich), sending.treasury()
    if what == "blocked":
        Client.objects.filter(pk=rich.pk).update(is_active=False)
    else:
        Wallet.objects.filter(client=rich).delete()
    sending.pay()
    row.refresh_from_db()
    assert (row.status, sending.treasury(), _free(rich)) == (Status.SENDING, before, (100, 10))
    assert row.transaction is not None
    assert ("closed or blocked" if what == "blocked" else "not linked") in row.transaction.reason
    withdrawals.refuse(row, by=operator, reason="Not yours.", now=sending.now)
    assert _free(rich) == (100, 0)


def test_a_wallet_that_refuses_the_money_can_claim_it(sending: Sending, rich: Any) -> None:
    # PUSH1 0 PUSH1 0 REVERT, as a contract that wants nothing.
    created = sending.devnet.send(
        sending.devnet.alice, None, data="0x6460006000fd6000526005601bf3", gas=200_000
    )
    contract = created["contractAddress"]
    Wallet.objects.create(client=rich, address=contract.lower())
    row = _ask(sending, rich, address=contract)
    sending.pay()
    row.refresh_from_db()
    assert (row.status, row.is_claimable, _free(rich)) == (Status.CONFIRMED, True, (90, 0))


def test_a_chain_without_a_treasury_pays_nothing(sending: Sending, rich: Any) -> None:
    sending.network.contracts = {}
    with pytest.raises(withdrawals.NoTreasury):
        _ask(sending, rich)


def test_a_manifest_that_has_lost_its_treasury_stops_withdrawals_and_nothing_else(
    sending: Sending, rich: Any
) -> None:
    row = _ask(sending, rich)
    Network.objects.update(contracts={k: v for k, v in sending.network.contracts.items() if k != "TREASURY"})
    assert withdrawals.sweep(sending.network, now=sending.now) == 0
    row.refresh_from_db()
    assert (row.status, row.reason) == (Status.APPROVED, withdrawals.NoTreasury.message)
    Network.objects.update(contracts=sending.network.contracts)
    sending.pay()
    row.refresh_from_db()
    assert (row.status, row.reason) == (Status.CONFIRMED, "")


def test_a_treasury_that_is_no_contract_does_not_settle_anything(
    sending: Sending, rich: Any, caplog: Any
) -> None:
    row = _ask(sending, rich)
    contracts = sending.network.contracts | {"TREASURY": sending.devnet.charlie.address}
    Network.objects.update(contracts=contracts)
    withdrawals.sweep(sending.network, now=sending.now)
    Network.objects.update(contracts=sending.network.contracts)
    for _ in range(3):
        sending.advance(2)
        sending.index()
    row.refresh_from_db()
    assert (row.status, _free(rich)) == (Status.SENDING, (100, 10))
    assert "operator has to look" in row.reason
    caplog.clear()
    for _ in range(5):
        withdrawals.sweep(sending.network, now=sending.now)
    assert not caplog.records, "it is told once, and not each second"


def test_an_operator_who_takes_it_out_of_the_queue_frees_the_money(
    sending: Sending, rich: Any, operator: Any
) -> None:
    row = _ask(sending, rich)
    withdrawals.sweep(sending.network, now=sending.now)
    row.refresh_from_db()
    outbox.cancel(row.transaction, operator, "Not now")
    row.refresh_from_db()
    assert (row.status, _free(rich)) == (Status.FAILED, (100, 0))
    with pytest.raises(outbox.TooLate):
        outbox.retry(row.transaction, operator)
    sending.pay(2)
    assert Transaction.objects.get().nonce is None


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 6))
def test_killed_at_any_question_to_the_node_it_is_paid_once(
    sending: Sending, rich: Any, monkeypatch: Any, at: int, after: bool
) -> None:
    before, row = sending.treasury(), _ask(sending, rich)
    with failing_node(monkeypatch, at=at, after=after), suppress(Killed):
        sending.pay()
    sending.now += timedelta(minutes=2)
    sending.pay(6)
    row.refresh_from_db()
    assert (row.status, sending.treasury(), _free(rich)) == (Status.CONFIRMED, before - 10, (90, 0))


@pytest.mark.parametrize("at", range(1, 16))
def test_killed_at_any_write_it_is_paid_once(sending: Sending, rich: Any, at: int) -> None:
    before, row, left = sending.treasury(), _ask(sending, rich), [at]

    def die(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("UPDATE", "INSERT", "SELECT ledger_settle")):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return execute(sql, params, many, context)

    with connection.execute_wrapper(die), suppress(Killed):
        sending.pay()
    assert left[0] <= 0
    Network.objects.update(lease=None, leased_until=None, next_poll_at=sending.now)
    sending.now += timedelta(minutes=2)
    sending.pay(6)
    row.refresh_from_db()
    assert (row.status, sending.treasury(), _free(rich)) == (Status.CONFIRMED, before - 10, (90, 0))


def test_a_reorganisation_that_takes_the_payment_away_has_it_sent_again_and_paid_once(
    sending: Sending, rich: Any
) -> None:
    Network.objects.update(confirmations=4)
    before, row = sending.treasury(), _ask(sending, rich)
    sending.pay(2)
    assert Transaction.objects.get().status == TransactionStatus.MINED
    sending.devnet.reorganise(1)
    assert sending.treasury() == before
    sending.pay(2)
    sending.devnet.mine(5)
    sending.pay(2)
    row.refresh_from_db()
    assert (row.status, sending.treasury(), _free(rich)) == (Status.CONFIRMED, before - 10, (90, 0))


def test_a_node_that_is_away_changes_nothing(sending: Sending, rich: Any, monkeypatch: Any) -> None:
    row = _ask(sending, rich)
    with failing_node(monkeypatch, at=3, after=True, error=NodeAway):
        withdrawals.sweep(sending.network, now=sending.now)
        sending.advance()
    sending.now += timedelta(minutes=1)
    sending.pay()
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
