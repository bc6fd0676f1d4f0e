"""Transactions are sent exactly once, whatever happens to who sends them."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db import transaction as database

from chain import broadcast, outbox
from chain.ethereum import NodeAway
from chain.models import Network, Purpose, Sender, Signed, Transaction, TransactionStatus
from tests.chain.sending import Killed, Sending, failing_node, told_ends

Status = TransactionStatus


def test_it_is_sent_mined_and_confirmed_and_who_waits_is_told_once(
    sending: Sending, monkeypatch: Any
) -> None:
    told = told_ends(monkeypatch)
    before = sending.balance(sending.devnet.bob.address)
    row = sending.queue("one", value=5)
    sending.advance()
    row.refresh_from_db()
    assert (row.status, row.sent_at) == (Status.SENT, sending.now)
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.MINED
    assert told == []  # not read yet
    sending.read()
    sending.advance()
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
    assert row.block_number == sending.devnet.head()
    assert row.gas_used == 21_000
    assert row.gas_price
    assert told == [("one", "confirmed")]
    assert sending.balance(sending.devnet.bob.address) == before + 5


def test_a_repeated_reference_is_the_same_row_and_another_content_is_refused(sending: Sending) -> None:
    row = sending.queue("one", value=5)
    assert sending.queue("one", value=5).pk == row.pk
    with pytest.raises(outbox.ReferenceTaken):
        sending.queue("one", value=6)


def test_what_is_rolled_back_with_its_cause_is_not_sent(sending: Sending) -> None:
    with pytest.raises(RuntimeError), database.atomic():
        sending.queue("one")
        raise RuntimeError
    sending.advance()
    assert not Transaction.objects.exists()


def test_it_is_confirmed_only_with_as_many_blocks_as_are_wanted(sending: Sending) -> None:
    Network.objects.update(confirmations=4)
    row = sending.queue("one")
    sending.advance()
    for _ in range(3):
        sending.read()
        sending.advance()
        row.refresh_from_db()
        assert row.status == Status.MINED
        sending.devnet.mine()
    sending.read()
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 8))
def test_killed_at_any_question_to_the_node_it_is_still_sent_once(
    sending: Sending, monkeypatch: Any, at: int, after: bool
) -> None:
    told = told_ends(monkeypatch)
    before, nonce = sending.balance(sending.devnet.bob.address), sending.chain_nonce()
    sending.queue("one", value=5)
    sending.queue("two", value=7)
    with failing_node(monkeypatch, at=at, after=after):
        try:
            for _ in range(3):
                sending.advance()
        except Killed:
            pass
    sending.finish()
    assert told == [("one", "confirmed"), ("two", "confirmed")]
    assert sending.balance(sending.devnet.bob.address) == before + 12
    assert sending.chain_nonce() == nonce + 2


@pytest.mark.parametrize("at", range(1, 12))
def test_killed_before_any_commit_it_is_still_sent_once(sending: Sending, monkeypatch: Any, at: int) -> None:
    """Each write of the outbox is a place to die at: here it is the statement itself that never comes back."""
    told = told_ends(monkeypatch)
    before, nonce, left = sending.balance(sending.devnet.bob.address), sending.chain_nonce(), [at]

    def die(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("UPDATE", "INSERT")) and "chain_" in sql:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return execute(sql, params, many, context)

    sending.queue("one", value=5)
    with connection.execute_wrapper(die):
        try:
            for _ in range(3):
                sending.advance()
                sending.read()
        except Killed:
            pass
    assert left[0] <= 0 or at > 9
    sending.finish()
    assert told == [("one", "confirmed")]
    assert sending.balance(sending.devnet.bob.address) == before + 5
    assert sending.chain_nonce() == nonce + 1


@pytest.mark.parametrize("at", range(1, 6))
def test_with_the_node_away_it_is_tried_again(sending: Sending, monkeypatch: Any, at: int) -> None:
    row = sending.queue("one")
    with failing_node(monkeypatch, at=at, after=at % 2 == 0, error=NodeAway):
        for _ in range(3):
            sending.advance()
    sending.finish()
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
    assert len(sending.forms(row)) == 1


def test_a_form_that_the_node_has_dropped_is_sent_again(sending: Sending) -> None:
    with sending.devnet.held():
        row = sending.queue("one")
        sending.advance()
        sending.devnet.rpc("anvil_dropAllTransactions")
        sending.advance(5)
        assert sending.devnet.rpc("txpool_status")["pending"] == "0x0"
        sending.advance(15)
        assert sending.devnet.rpc("txpool_status")["pending"] == "0x1"
        assert len(sending.forms(row)) == 1


def test_what_would_fail_is_refused_with_the_contracts_words_and_takes_no_nonce(
    sending: Sending, monkeypatch: Any
) -> None:
    told = told_ends(monkeypatch)
    treasury = sending.devnet.contract("TREASURY")
    for reference, gas in (("one", None), ("two", 200_000)):
        data = treasury.encode_abi("deposit", args=[1])
        sending.queue(reference, to=treasury.address, data=data, value=0, gas=gas)
    sending.advance()
    for row in Transaction.objects.all():
        assert (row.status, row.reason, row.nonce) == (Status.REFUSED, "ZeroAmount", None)
    assert Signed.objects.count() == 0
    assert sorted(told) == [("one", "refused"), ("two", "refused")]


def test_what_the_contract_refuses_only_in_the_block_is_reverted_with_its_words(
    sending: Sending, monkeypatch: Any
) -> None:
    told = told_ends(monkeypatch)
    treasury, alice = sending.devnet.contract("TREASURY"), sending.devnet.alice
    sending.devnet.transact(alice, treasury.functions.fund(), value=10)
    data = treasury.encode_abi("recover", args=[alice.address, 10])
    with sending.devnet.held():
        first = sending.queue("one", to=treasury.address, data=data, value=0)
        second = sending.queue("two", to=treasury.address, data=data, value=0)
        sending.advance()
        sending.devnet.mine()
    sending.advance()
    second.refresh_from_db()
    assert (second.status, second.reason) == (Status.MINED, "InsufficientBalance")
    assert told == []  # a reorganisation may still change it
    sending.finish(3)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == (Status.CONFIRMED, Status.REVERTED)
    assert second.reason == "InsufficientBalance"
    assert sorted(told) == [("one", "confirmed"), ("two", "reverted")]


def test_a_sender_without_enough_for_gas_waits_and_says_so(
    sending: Sending, settings: Any, caplog: Any
) -> None:
    poor = "0x" + "77" * 32
    settings.CHAIN_PROVIDER_KEY = poor
    from chain import keys

    row = sending.queue("one", sender=keys.provider_address(), value=0)
    sending.advance()
    row.refresh_from_db()
    assert (row.status, row.nonce) == (Status.QUEUED, None)
    assert "Send coins there" in row.reason
    assert "Send coins there" in caplog.text
    sending.devnet.fund(row.sender, 10**18)
    sending.finish(3)
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED


def test_several_at_once_cannot_spend_the_same_coins(sending: Sending, settings: Any) -> None:
    from chain import keys

    settings.CHAIN_PROVIDER_KEY = "0x" + "78" * 32
    address = keys.provider_address()
    sending.devnet.fund(address, 10**18)
    with sending.devnet.held():
        for number in range(3):
            sending.queue(f"n{number}", sender=address, value=4 * 10**17)
        sending.advance()
        assert Transaction.objects.filter(status=Status.SENT).count() == 2
        waiting = Transaction.objects.get(status=Status.QUEUED)
        assert "Send coins there" in waiting.reason


def test_what_follows_another_waits_until_that_is_confirmed(sending: Sending) -> None:
    first = sending.queue("one")
    second = sending.queue("two", after=first)
    sending.advance()
    sending.advance()
    second.refresh_from_db()
    assert second.status == Status.QUEUED
    sending.read()
    sending.advance()  # the first is confirmed
    sending.advance()
    second.refresh_from_db()
    assert second.status == Status.SENT


def test_what_follows_something_that_failed_is_refused(sending: Sending, monkeypatch: Any) -> None:
    told = told_ends(monkeypatch)
    treasury = sending.devnet.contract("TREASURY")
    first = sending.queue("one", to=treasury.address, data=treasury.encode_abi("deposit", args=[1]), value=0)
    second = sending.queue("two", after=first)
    sending.advance()
    sending.advance()
    second.refresh_from_db()
    assert second.status == Status.REFUSED
    assert "ZeroAmount" in second.reason
    assert told == [("one", "refused"), ("two", "refused")]


def test_what_has_expired_is_not_begun(sending: Sending) -> None:
    row = sending.queue("one", expires_at=sending.now)
    sending.advance()
    row.refresh_from_db()
    assert (row.status, row.nonce) == (Status.REFUSED, None)


def test_a_paused_network_and_one_that_cannot_be_read_send_nothing(sending: Sending) -> None:
    row = sending.queue("one")
    Network.objects.update(is_paused=True)
    sending.advance()
    Network.objects.update(is_paused=False, failing_since=sending.now)
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.QUEUED
    Network.objects.update(failing_since=None)
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.SENT


def test_a_node_of_another_chain_is_not_believed(sending: Sending) -> None:
    from chain import ethereum

    node = ethereum.of(sending.network)
    other = Network(chain_id=5, cursor_block=10, head_block=10, name="other", confirmations=1)
    with pytest.raises(NodeAway, match="not 5"):
        round_ = broadcast._Round(
            Sender(network=other, address=sending.operator), sending.network, sending.now
        )
        round_.network, round_.node = other, node
        round_._ask([])


def test_a_guard_holds_up_what_is_not_signed(sending: Sending, monkeypatch: Any) -> None:
    why = ["Payouts are frozen."]
    monkeypatch.setitem(outbox._guards, Purpose.FUND, [lambda row: why[0]])
    row = sending.queue("one")
    sending.advance()
    row.refresh_from_db()
    assert (row.status, row.reason) == (Status.QUEUED, why[0])
    why[0] = ""
    sending.advance(10)
    row.refresh_from_db()
    assert row.status == Status.SENT


def test_what_is_not_signed_can_be_taken_back_and_what_is_cannot(
    sending: Sending, monkeypatch: Any, operator: Any
) -> None:
    told = told_ends(monkeypatch)
    first, second = sending.queue("one"), sending.queue("two")
    outbox.cancel(first, operator, "Not wanted")
    sending.advance()
    first.refresh_from_db()
    assert (first.status, first.nonce) == (Status.CANCELLED, None)
    assert told == [("one", "cancelled")]
    with pytest.raises(outbox.TooLate):
        outbox.cancel(second, operator)


def test_what_was_refused_can_be_retried_and_what_was_carried_out_cannot(
    sending: Sending, operator: Any
) -> None:
    treasury = sending.devnet.contract("TREASURY")
    data = treasury.encode_abi("recover", args=[sending.devnet.bob.address, 10])
    row = sending.queue("one", to=treasury.address, data=data, value=0)
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.REFUSED
    sending.devnet.transact(sending.devnet.alice, treasury.functions.fund(), value=10)
    outbox.retry(row, operator, "It has money now")
    sending.now = Transaction.objects.get().next_try_at + timedelta(seconds=1)
    sending.finish(3)
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
    with pytest.raises(outbox.TooLate):
        outbox.retry(row, operator)


def test_a_nonce_that_somebody_else_uses_up_is_given_up_only_when_that_is_final(
    sending: Sending, caplog: Any
) -> None:
    Network.objects.update(confirmations=3)
    row = sending.queue("one")
    with sending.devnet.held():
        sending.advance()
        # The key is used elsewhere: with the same nonce and higher fees.
        sending.devnet.submit(
            sending.devnet.deployer, sending.devnet.charlie.address, 1, nonce=sending.nonces()[0], gas=21_000,
            maxFeePerGas=50 * 10**9, maxPriorityFeePerGas=20 * 10**9,
        )  # fmt: skip
        sending.devnet.mine()
        sending.read()
        sending.advance()
        sending.advance(300)
        row.refresh_from_db()
        assert row.status == Status.SENT  # not final: it may still be carried out
        assert "used elsewhere" in row.reason
        nonce = row.nonce
    sending.devnet.mine(3)
    sending.read()
    sending.advance(100)
    row.refresh_from_db()
    assert (row.status, row.nonce) == (Status.QUEUED, None)
    assert "used elsewhere" in caplog.text
    sending.finish(2)
    sending.devnet.mine(3)
    sending.finish(2)
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
    assert row.nonce == nonce + 1


def test_a_foreign_transaction_that_a_reorganisation_takes_back_leaves_the_nonce_ours(
    sending: Sending,
) -> None:
    Network.objects.update(confirmations=5)
    row = sending.queue("one")
    with sending.devnet.held():
        sending.advance()
        sending.devnet.submit(
            sending.devnet.deployer, sending.devnet.charlie.address, 1, nonce=sending.nonces()[0], gas=21_000,
            maxFeePerGas=50 * 10**9, maxPriorityFeePerGas=20 * 10**9,
        )  # fmt: skip
        sending.devnet.mine()
        sending.advance()
        row.refresh_from_db()
        assert row.overtaken_at is not None
        sending.devnet.reorganise(1)
    for _ in range(3):
        sending.advance(20)
    sending.devnet.mine(6)
    sending.finish(3)
    row.refresh_from_db()
    assert (row.status, row.overtaken_at, len(sending.forms(row))) == (Status.CONFIRMED, None, 1)


def test_a_gap_that_a_reorganisation_has_left_is_filled(sending: Sending) -> None:
    sending.queue("before")
    sending.finish(2)
    nonce = sending.chain_nonce()
    sending.devnet.send(sending.devnet.deployer, sending.devnet.charlie.address, 1, gas=21_000)
    # Ours counts on the nonce of somebody else's transaction.
    with sending.devnet.held():
        row = sending.queue("one")
        sending.advance()
        row.refresh_from_db()
        assert row.nonce == nonce + 1
        sending.devnet.reorganise(1)
    assert sending.chain_nonce() == nonce
    sending.finish(8)
    row.refresh_from_db()
    assert row.status == Status.CONFIRMED
    assert Transaction.objects.get(purpose=Purpose.FILL).nonce == nonce


def test_what_is_queued_next_takes_a_gap(sending: Sending) -> None:
    sending.queue("before")
    sending.finish(2)
    nonce = sending.chain_nonce()
    Sender.objects.update(next_nonce=nonce + 3)
    row = sending.queue("one")
    sending.finish(3)
    row.refresh_from_db()
    assert (row.status, row.nonce) == (Status.CONFIRMED, nonce)


def test_a_handler_that_fails_is_tried_again_and_stops_nobody_else(
    sending: Sending, monkeypatch: Any, caplog: Any
) -> None:
    told: list[str] = []

    def handler(row: Transaction) -> None:
        told.append(row.reference)
        if told.count(row.reference) == 1 and row.reference == "one":
            raise RuntimeError("broken")

    monkeypatch.setitem(outbox._handlers, Purpose.FUND, [handler])
    first, second = sending.queue("one"), sending.queue("two")
    sending.finish(4)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == (Status.CONFIRMED, Status.CONFIRMED)
    assert told.count("one") == 2
    assert "broken" in caplog.text


def test_only_so_many_are_under_way_at_once(sending: Sending) -> None:
    with sending.devnet.held():
        for number in range(broadcast.MOST_IN_FLIGHT + 4):
            sending.queue(f"n{number}")
        for _ in range(3):
            sending.advance()
        assert Transaction.objects.filter(status=Status.SENT).count() == broadcast.MOST_IN_FLIGHT
        sending.devnet.mine()
    sending.finish(4)
    assert not Transaction.objects.exclude(status=Status.CONFIRMED).exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("locks", [True, False])
def test_eight_threads_that_queue_and_send_with_one_key_leave_no_gap_and_send_nothing_twice(
    devnet: Any, settings: Any, monkeypatch: Any, locks: bool
) -> None:
    from contextlib import nullcontext

    from tests.chain.sending import connect

    sending = connect(devnet, settings)
    if not locks:
        # The lock is for the order's sake only: without it the same must hold.
        monkeypatch.setattr(broadcast, "_claimed", lambda sender: nullcontext(True))
    before, nonce = sending.balance(devnet.bob.address), sending.chain_nonce()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(3):
                sending.queue(f"{number}:{step}", value=1)
                sending.queue(f"shared:{step}", value=1)
                broadcast.advance(Network.objects.get(), now=sending.now + timedelta(seconds=step))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    sending.finish(14)
    assert not Transaction.objects.exclude(status=Status.CONFIRMED).exists()
    assert sending.balance(devnet.bob.address) == before + 27
    assert sending.nonces() == list(range(nonce, nonce + 27))


def test_a_killed_workers_lock_is_free_again(sending: Sending, monkeypatch: Any) -> None:
    row = sending.queue("one")
    with failing_node(monkeypatch, at=1, after=True), pytest.raises(Killed):
        sending.advance()
    sending.advance()
    row.refresh_from_db()
    assert row.status == Status.SENT
