"""Deposits are credited once, to whom they are for, when their block is final."""

from __future__ import annotations

from typing import Any

import pytest

from chain import deposits
from chain.models import Deposit, DepositStatus, Log, Network
from clients import ledger
from clients.models import AccountKind, AuditEntry, Client, Transfer, TransferKind, Wallet
from tests.chain.sending import Sending, breaks
from tests.clients import ledger_books

Status = DepositStatus


@pytest.fixture(autouse=True)
def _books(db: None) -> Any:
    yield
    assert ledger_books.wrong() == []
    assert breaks() == []


def _account(client: Any, kind: AccountKind = AccountKind.SPENDABLE) -> int:
    return ledger.account(client.pk, kind).pk


def _has(client: Any) -> int:
    return ledger.balance(ledger.account(client.pk, AccountKind.SPENDABLE))


def _link(client: Any, address: str) -> None:
    Wallet.objects.create(client=client, address=address.lower())


def test_a_deposit_for_an_account_is_credited_once_when_it_is_final(sending: Sending, alice: Any) -> None:
    Network.objects.update(confirmations=3)
    digest = sending.deposit(_account(alice), 5)
    sending.index()
    row = Deposit.objects.get()
    assert (row.status, row.transaction_hash, row.ordinal) == (Status.SEEN, digest, 0)
    assert row.sender == sending.devnet.alice.address
    sending.devnet.mine()
    sending.index()
    assert _has(alice) == 0
    sending.devnet.mine()
    sending.index()
    sending.index()
    row.refresh_from_db()
    assert (row.status, row.client, row.credited_at) == (Status.CREDITED, alice, row.credited_at)
    assert _has(alice) == 5
    transfer = Transfer.objects.get()
    assert (transfer.reference, transfer.kind) == (row.reference, TransferKind.DEPOSIT)
    assert transfer.reference == f"deposit:{row.pk}:1"


def test_any_of_a_clients_accounts_may_be_named(sending: Sending, alice: Any) -> None:
    sending.deposit(_account(alice, AccountKind.EARNED), 5)
    sending.index()
    assert _has(alice) == 5


def test_a_plain_sending_is_for_whoever_has_linked_the_wallet(sending: Sending, alice: Any, bob: Any) -> None:
    _link(bob, sending.devnet.bob.address)
    treasury = sending.devnet.manifest["contracts"]["TREASURY"]
    sending.devnet.send(sending.devnet.bob, treasury, 7, gas=100_000)
    sending.index()
    assert (_has(bob), _has(alice)) == (7, 0)


def test_several_deposits_of_one_transaction_are_told_apart(sending: Sending, alice: Any, bob: Any) -> None:
    logs = [
        Log(
            network=sending.network, block_number=1, log_index=index, transaction_hash="0x" + "12" * 32,
            block_hash="0x" + "34" * 32, address=sending.network.address("TREASURY"), name="Deposited",
            arguments={"account": str(_account(who)), "sender": sending.devnet.alice.address, "amount": "3"},
            at=sending.now,
        )
        for index, who in ((4, alice), (6, bob))
    ]  # fmt: skip
    deposits.seen(sending.network, logs)
    deposits.seen(sending.network, logs)
    assert list(Deposit.objects.order_by("ordinal").values_list("ordinal", "log_index")) == [(0, 4), (1, 6)]
    deposits.sweep(sending.network, now=sending.now)
    assert (_has(alice), _has(bob)) == (3, 3)


@pytest.mark.parametrize("number", [10**30, 2**256 - 1, 99_999_999])
def test_a_deposit_for_an_account_that_does_not_exist_is_nobodys(sending: Sending, number: int) -> None:
    sending.deposit(number, 5)
    sending.index()
    row = Deposit.objects.get()
    assert (row.status, row.client) == (Status.UNCLAIMED, None)
    assert "nobody's" in row.reason


def test_a_deposit_for_the_marketplaces_own_account_is_nobodys(sending: Sending) -> None:
    sending.deposit(ledger.account(None, AccountKind.FEES).pk, 5)
    sending.index()
    assert Deposit.objects.get().status == Status.UNCLAIMED


def test_a_deposit_for_a_closed_account_is_nobodys(sending: Sending, alice: Any) -> None:
    alice.is_active = False
    alice.save()
    sending.deposit(_account(alice), 5)
    sending.index()
    row = Deposit.objects.get()
    assert (row.status, _has(alice)) == (Status.UNCLAIMED, 0)
    assert "closed" in row.reason


def test_an_unclaimed_deposit_is_credited_when_its_wallet_is_linked(sending: Sending, alice: Any) -> None:
    sending.deposit(0, 5)
    sending.index()
    assert Deposit.objects.get().status == Status.UNCLAIMED
    _link(alice, sending.devnet.alice.address)
    sending.index()
    row = Deposit.objects.get()
    assert (row.status, _has(alice)) == (Status.CREDITED, 5)
    sending.index()
    assert _has(alice) == 5


def test_an_operator_assigns_what_nobody_claimed(sending: Sending, alice: Any, operator: Any) -> None:
    sending.deposit(12345678, 5)
    sending.index()
    row = Deposit.objects.get()
    with pytest.raises(deposits.ReasonMissing):
        deposits.assign(row, client=alice, by=operator, reason=" ", now=sending.now)
    deposits.assign(row, client=alice, by=operator, reason="She wrote to us", now=sending.now)
    assert (row.status, row.client, _has(alice)) == (Status.CREDITED, alice, 5)
    assert AuditEntry.objects.get().action == "assign_deposit"
    with pytest.raises(deposits.NotToAssign):
        deposits.assign(row, client=alice, by=operator, reason="again", now=sending.now)
    assert _has(alice) == 5


def test_what_is_not_final_is_not_assigned(sending: Sending, alice: Any, operator: Any) -> None:
    sending.deposit(12345678, 5)
    sending.index()
    Network.objects.update(confirmations=5)
    with pytest.raises(deposits.NotToAssign):
        deposits.assign(Deposit.objects.get(), client=alice, by=operator, reason="x", now=sending.now)
    assert _has(alice) == 0


def test_a_deposit_whose_block_vanishes_before_it_was_credited_is_forgotten(
    sending: Sending, alice: Any
) -> None:
    Network.objects.update(confirmations=3)
    sending.deposit(_account(alice), 5)
    sending.index()
    assert Deposit.objects.count() == 1
    sending.devnet.reorganise(1)
    sending.devnet.mine(4)
    sending.index()
    assert Deposit.objects.count() == 0
    assert _has(alice) == 0


def test_one_that_stands_in_another_block_after_a_reorganisation_is_credited_once(
    sending: Sending, alice: Any
) -> None:
    if sending.devnet.is_anvil:
        pytest.skip("anvil forgets what stood in the blocks")
    Network.objects.update(confirmations=3)
    sending.deposit(_account(alice), 5)
    sending.index()
    sending.devnet.rpc("devnet_reorg", 1, True)
    sending.devnet.mine(4)
    sending.index()
    sending.index()
    assert Deposit.objects.get().status == Status.CREDITED
    assert _has(alice) == 5


def _orphaned(sending: Sending, alice: Any) -> Deposit:
    """Credited, and then its block is gone: a reorganisation that is deeper than the confirmations."""
    sending.deposit(_account(alice), 5)
    sending.index()
    row = Deposit.objects.get()
    assert row.status == Status.CREDITED
    sending.devnet.reorganise(1)
    sending.index()
    row.refresh_from_db()
    return row


def _found_again(sending: Sending, row: Deposit, **changed: Any) -> None:
    arguments = {
        "account": str(int(row.account_number)),
        "sender": row.sender,
        "amount": str(row.amount),
    } | changed
    head = sending.devnet.head()
    log = Log(
        network=sending.network, block_number=head, log_index=0, transaction_hash=row.transaction_hash,
        block_hash="0x" + "56" * 32, address=sending.network.address("TREASURY"), name="Deposited",
        arguments=arguments, at=sending.now,
    )  # fmt: skip
    deposits.seen(sending.network, [log])
    row.refresh_from_db()


def test_a_credited_deposit_that_vanishes_is_orphaned_and_found_again_without_a_second_credit(
    sending: Sending, alice: Any
) -> None:
    Network.objects.update(confirmations=1)
    sending.deposit(_account(alice), 5)
    sending.index()
    row = Deposit.objects.get()
    deposits.forget_from(sending.network, row.block_number - 1)
    row.refresh_from_db()
    assert (row.status, row.block_number, row.orphaned_block) == (Status.ORPHANED, None, row.orphaned_block)
    assert row.orphaned_at is not None
    _found_again(sending, row)
    assert (row.status, row.orphaned_at, row.credits) == (Status.CREDITED, None, 1)
    deposits.sweep(sending.network, now=sending.now)
    assert _has(alice) == 5
    assert Transfer.objects.count() == 1


def test_one_that_stays_away_is_taken_back_once_and_credited_again_if_it_appears_once_more(
    sending: Sending, alice: Any
) -> None:
    row = _orphaned(sending, alice)
    assert row.status == Status.ORPHANED
    sending.devnet.mine(2)
    sending.index()
    sending.index()
    row.refresh_from_db()
    assert (row.status, _has(alice)) == (Status.REVERSED, 0)
    assert Transfer.objects.filter(kind=TransferKind.REVERSAL).count() == 1
    _found_again(sending, row)
    assert row.status == Status.SEEN
    deposits.sweep(sending.network, now=sending.now)
    row.refresh_from_db()
    assert (row.status, _has(alice), row.reference) == (Status.CREDITED, 5, f"deposit:{row.pk}:2")
    # And gone again: the second credit is taken back likewise.
    deposits.forget_from(sending.network, row.block_number - 1)
    sending.devnet.mine(3)
    sending.index()
    row.refresh_from_db()
    assert (row.status, _has(alice)) == (Status.REVERSED, 0)


def test_it_stays_orphaned_while_the_account_no_longer_has_the_money(
    sending: Sending, alice: Any, bob: Any
) -> None:
    from clients import transfers

    row = _orphaned(sending, alice)
    transfers.send(payer=alice, to=bob, amount=1)
    sending.devnet.mine(5)
    sending.index()
    row.refresh_from_db()
    assert (row.status, _has(alice)) == (Status.ORPHANED, 4)
    assert "too little" in row.reason
    transfers.send(payer=bob, to=alice, amount=1)
    sending.index()
    row.refresh_from_db()
    assert (row.status, _has(alice)) == (Status.REVERSED, 0)


def test_it_may_be_away_for_as_many_blocks_as_are_twice_as_good_as_final(sending: Sending) -> None:
    network = sending.network
    for confirmations, blocks in ((1, 2), (2, 20), (10, 20), (12, 24)):
        network.confirmations = confirmations
        assert deposits.patience(network) == blocks


def test_one_that_is_found_again_with_another_amount_has_its_first_credit_taken_back(
    sending: Sending, alice: Any
) -> None:
    row = _orphaned(sending, alice)
    _found_again(sending, row, amount="2")
    assert (row.status, row.amount, _has(alice)) == (Status.SEEN, 2, 0)
    deposits.sweep(sending.network, now=sending.now)
    assert _has(alice) == 2


def test_one_that_was_taken_back_came_again_and_vanished_before_it_was_final_is_taken_back_still(
    sending: Sending, alice: Any
) -> None:
    row = _orphaned(sending, alice)
    sending.devnet.mine(3)
    sending.index()
    _found_again(sending, row)
    assert row.status == Status.SEEN
    deposits.forget_from(sending.network, row.block_number - 1)
    row.refresh_from_db()
    assert (row.status, row.block_number, row.credits) == (Status.REVERSED, None, 1)


def test_deposits_of_a_blocked_account_do_not_hold_up_those_of_others(
    sending: Sending, alice: Any, charlie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocked client with a linked wallet could send more tiny ones than a sweep looks at."""
    monkeypatch.setattr(deposits, "_ROWS_AT_ONCE", 3)
    _link(charlie, sending.devnet.charlie.address)
    Client.objects.filter(pk=charlie.pk).update(is_active=False)
    for _ in range(3):
        sending.deposit(0, 1, sender=sending.devnet.charlie)
    sending.index()
    assert Deposit.objects.filter(status=Status.UNCLAIMED).count() == 3
    sending.deposit(_account(alice), 5)
    sending.index()
    assert _has(alice) == 5
    Client.objects.filter(pk=charlie.pk).update(is_active=True)
    sending.index()
    assert _has(charlie) == 3


def test_a_credited_deposit_that_is_told_of_with_another_content_is_not_credited_again(
    sending: Sending, alice: Any
) -> None:
    """As where a node has left out the first of two, and the blocks are read once more."""
    sending.deposit(_account(alice), 5)
    sending.index()
    log = Log.objects.get(name="Deposited")
    log.arguments = log.arguments | {"amount": "7"}
    deposits.seen(sending.network, [log])
    sending.index()
    assert (_has(alice), Deposit.objects.get().credits) == (5, 1)
