"""What was in a block that is gone is sent again, and nobody is told twice."""

from __future__ import annotations

from typing import Any

from chain.models import Network, TransactionStatus
from tests.chain.sending import Sending, told_ends

Status = TransactionStatus


def test_a_reorganisation_that_takes_its_block_away_puts_it_back_and_sends_it_again(
    sending: Sending, monkeypatch: Any
) -> None:
    told = told_ends(monkeypatch)
    Network.objects.update(confirmations=3)
    before = sending.balance(sending.devnet.bob.address)
    row = sending.queue("one", value=5)
    sending.advance()
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.MINED
    gone = row.block_hash
    with sending.devnet.held():
        sending.devnet.reorganise(1)
        sending.advance()
        row.refresh_from_db()
        assert (row.status, row.block_number) == (Status.SENT, None)
    sending.devnet.mine()
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.MINED
    assert row.block_hash != gone
    sending.devnet.mine(3)
    sending.finish(3)
    row.refresh_from_db()
    assert (row.status, told) == (Status.CONFIRMED, [("one", "confirmed")])
    assert len(sending.forms(row)) == 1
    assert sending.balance(sending.devnet.bob.address) == before + 5


def test_what_was_confirmed_and_is_gone_with_its_block_is_sent_again_and_nobody_is_told_twice(
    sending: Sending, monkeypatch: Any
) -> None:
    told = told_ends(monkeypatch)
    before = sending.balance(sending.devnet.bob.address)
    row = sending.queue("one", value=5)
    for _ in range(3):
        sending.advance()
        sending.index()
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
    gone = row.block_hash
    sending.devnet.reorganise(1)
    assert sending.balance(sending.devnet.bob.address) == before
    for _ in range(3):
        sending.index()
        sending.advance()
    row.refresh_from_db()
    assert (row.status, told) == (Status.CONFIRMED, [("one", "confirmed")])
    assert row.block_hash != gone
    assert len(sending.forms(row)) == 1
    assert sending.balance(sending.devnet.bob.address) == before + 5
    assert sending.advance() == 0


def test_what_was_reverted_and_is_gone_with_its_block_does_not_happen_after_all(
    sending: Sending, monkeypatch: Any
) -> None:
    told = told_ends(monkeypatch)
    treasury, alice = sending.devnet.contract("TREASURY"), sending.devnet.alice
    data = treasury.encode_abi("recover", args=[alice.address, 10])
    sending.devnet.transact(alice, treasury.functions.fund(), value=10)
    with sending.devnet.held():
        sending.queue("one", to=treasury.address, data=data, value=0)
        row = sending.queue("two", to=treasury.address, data=data, value=0)
        sending.advance()
        sending.devnet.mine()
    for _ in range(3):
        sending.advance()
        sending.index()
    row.refresh_from_db()
    assert row.status == Status.REVERTED
    sending.devnet.transact(alice, treasury.functions.fund(), value=10)
    sending.devnet.reorganise(2)
    sending.devnet.transact(alice, treasury.functions.fund(), value=100)
    for _ in range(4):
        sending.index()
        sending.advance()
    row.refresh_from_db()
    assert (row.status, sorted(told)) == (Status.REVERTED, [("one", "confirmed"), ("two", "reverted")])
    assert sending.forms(row)[-1].is_void
    assert sending.treasury() == 100 + 10 - 10
    later = sending.queue("three")
    sending.finish(3)
    later.refresh_from_db()
    assert later.status == Status.CONFIRMED


def test_a_block_that_was_read_otherwise_does_not_count_as_final(sending: Sending) -> None:
    row = sending.queue("one")
    sending.advance()
    head = sending.devnet.head()
    sending.network.blocks.create(number=head, hash="0x" + "ab" * 32, at=sending.now)
    sending.read()
    sending.advance()
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.MINED
    sending.network.blocks.all().delete()
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
