"""Random deposits, withdrawals, reorganisations and crashes: in the end the ledger is what the chain says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db import transaction as database
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from chain import deposits, reconciliation, withdrawals
from chain.models import (
    Deposit,
    DepositStatus,
    Network,
    Transaction,
    TransactionStatus,
    Withdrawal,
    WithdrawalStatus,
)
from clients import ledger
from clients.models import AccountKind, Wallet
from marketplace.errors import MarketplaceError
from tests.chain.network import ANVIL
from tests.chain.sending import Killed, Sending, breaks, failing_node
from tests.clients import ledger_books

CONFIRMATIONS = 4
CAPITAL = 10_000

PEOPLE = st.integers(0, 1)
AMOUNTS = st.integers(1, 60)
USUAL = (
    st.tuples(st.just("deposit"), PEOPLE, AMOUNTS),
    st.tuples(st.just("plain"), PEOPLE, AMOUNTS),
    st.tuples(st.just("withdraw"), PEOPLE, AMOUNTS),
    st.tuples(st.just("withdraw"), PEOPLE, AMOUNTS),
    st.tuples(st.just("cancel"), PEOPLE, st.just(0)),
    st.tuples(st.just("mine"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("work"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("work"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("lose the node"), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("kill at a write"), st.integers(1, 12), st.just(0)),
    st.tuples(st.just("hold"), st.integers(1, 2), st.just(0)),
)


def steps(deepest: int) -> st.SearchStrategy[list[tuple[str, int, Any]]]:
    """What happens, with reorganisations of so many blocks at most: with other transactions, or with the same."""
    # anvil forgets what stood in the blocks.
    hows = ("forget",) if ANVIL else ("forget", "keep")
    reorganisations = [st.tuples(st.just(how), st.integers(1, deepest), st.just(0)) for how in hows]
    return st.lists(st.one_of(*USUAL, *reorganisations), min_size=3, max_size=14)


class Play:
    """What may happen, on a real chain and a real database."""

    def __init__(self, sending: Sending, people: list[Any], monkeypatch: Any) -> None:
        self.sending, self.people, self.monkeypatch = sending, people, monkeypatch
        self.devnet = sending.devnet
        self.wallets = [self.devnet.alice, self.devnet.bob]

    def prepare(self) -> None:
        treasury = self.devnet.contract("TREASURY")
        call = treasury.functions.setOperator(self.sending.operator, True)
        self.devnet.transact(self.devnet.deployer, call, gas=200_000)
        self.sending.fund(CAPITAL)
        Network.objects.update(confirmations=CONFIRMATIONS)
        for person, wallet in zip(self.people, self.wallets, strict=True):
            Wallet.objects.create(client=person, address=wallet.address.lower())
            self.sending.deposit(0, 100, wallet)
        self.devnet.mine(CONFIRMATIONS)
        self.sending.index()

    def step(self, what: str, number: int, more: Any) -> None:
        if what in ("deposit", "plain"):
            person, wallet = self.people[number], self.wallets[number]
            account = ledger.account(person.pk, AccountKind.SPENDABLE).pk if what == "deposit" else 0
            self.sending.deposit(account, more, wallet)
        elif what == "withdraw":
            with suppress(MarketplaceError):
                withdrawals.request(
                    self.people[number], amount=more, address=self.wallets[number].address,
                    network=self.sending.network, now=self.sending.now,
                )  # fmt: skip
        elif what == "cancel":
            with suppress(MarketplaceError):
                row = withdrawals.of(self.people[number]).first()
                if row is not None:
                    withdrawals.cancel(row, now=self.sending.now)
        elif what == "mine":
            self.devnet.mine(number)
        elif what == "forget":
            self.devnet.reorganise(number)
        elif what == "keep":
            self.devnet.rpc("devnet_reorg", number, True)
        elif what == "hold":
            with self.devnet.held():
                self.work(number)
        else:
            self.interrupted(what, number, more)

    def interrupted(self, what: str, number: int, more: Any) -> None:
        with suppress(Killed):
            if what == "lose the node":
                with failing_node(self.monkeypatch, at=number, after=more):
                    self.work(2)
            elif what == "kill at a write":
                with connection.execute_wrapper(_dying(number)):
                    self.work(2)
            else:
                self.work(number)
        Network.objects.update(lease=None, leased_until=None, next_poll_at=self.sending.now)

    def work(self, rounds: int) -> None:
        for _ in range(rounds):
            withdrawals.sweep(self.sending.network, now=self.sending.now)
            self.sending.advance(2)
            self.sending.index()

    def finish(self) -> None:
        for _ in range(10):
            self.sending.now += timedelta(minutes=2)
            self.work(1)
            self.devnet.mine(2)
        self.work(2)


def _dying(at: int) -> Any:
    left = [at]

    def die(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("UPDATE", "INSERT", "DELETE", "SELECT ledger_settle")):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        return execute(sql, params, many, context)

    return die


@pytest.fixture
def play(sending: Sending, alice: Any, bob: Any, monkeypatch: Any) -> Play:
    found = Play(sending, [alice, bob], monkeypatch)
    found.prepare()
    return found


often = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


@often
@given(steps(CONFIRMATIONS - 1))
def test_the_ledger_is_what_the_chain_says(play: Play, steps: list[tuple[str, int, Any]]) -> None:
    with _undone(play):
        for step in steps:
            play.step(*step)
            assert breaks() == []
        play.finish()
        _check(play)
        assert not Deposit.objects.exclude(status=DepositStatus.CREDITED).exists()
        has = sum(ledger.balance(ledger.account(person.pk, AccountKind.SPENDABLE)) for person in play.people)
        assert play.sending.treasury() == CAPITAL + has


@pytest.mark.skipif(bool(ANVIL), reason="anvil loses the contracts in deep reorganisations")
@often
@given(steps(3 * CONFIRMATIONS))
def test_reorganisations_deeper_than_the_confirmations_are_mended_or_explained(
    play: Play, steps: list[tuple[str, int, Any]]
) -> None:
    """Payments that had been settled are made again; credits whose deposits are gone are taken back, if they can be."""
    with _undone(play):
        for step in steps:
            play.step(*step)
            assert breaks() == []
        play.finish()
        play.devnet.mine(deposits.patience(play.sending.network) + 1)
        play.work(3)
        _check(play)
        left = (DepositStatus.CREDITED, DepositStatus.REVERSED, DepositStatus.ORPHANED)
        assert not Deposit.objects.exclude(status__in=left).exists()


@contextmanager
def _undone(play: Play) -> Iterator[None]:
    snapshot, now = play.devnet.snapshot(), play.sending.now
    # No reorganisation reaches back to the snapshot.
    play.devnet.mine(3 * CONFIRMATIONS + 1)
    try:
        with database.atomic():
            yield
            database.set_rollback(True)
    finally:
        play.sending.now = now
        play.devnet.revert(snapshot)


def _check(play: Play) -> None:
    assert ledger_books.wrong() == []
    assert breaks() == []
    found = reconciliation.run(play.sending.network, now=play.sending.now)
    assert found.is_balanced, [line for line in found.lines if line["unexplained"] != "0" or line["wrong"]]
    ended = (WithdrawalStatus.CONFIRMED, WithdrawalStatus.CANCELLED)
    assert not Withdrawal.objects.exclude(status__in=ended).exists()
    done = (TransactionStatus.CONFIRMED, TransactionStatus.CANCELLED)
    assert not Transaction.objects.exclude(status__in=done).exists()
