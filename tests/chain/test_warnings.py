"""Operators are told what is wrong with chains, and what mends it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from chain import broadcast, keys, warnings, withdrawals
from chain.models import Deposit, Network, Reconciliation, Sender, Transaction
from clients import terms
from clients.models import Wallet
from tests.chain.sending import Sending


@pytest.fixture
def calm(sending: Sending) -> Sending:
    """Nothing to say."""
    sending.index()
    Network.objects.update(polled_at=timezone.now())
    broadcast.watch_balances(sending.network, now=sending.now)
    assert codes() == []
    return sending


def codes() -> list[str]:
    found = warnings.current()
    assert all(each.sentence and each.fix for each in found)
    return [each.code for each in found]


def test_without_chains_there_is_nothing_to_say(settings: Any, db: None) -> None:
    settings.CHAIN_NETWORKS = []
    assert warnings.current() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"is_paused": True}, "paused"),
        ({"failing_since": timezone.now(), "failure": "The node is away."}, "away"),
        ({"polled_at": timezone.now() - timedelta(minutes=5)}, "unread"),
        ({"polled_at": None}, "unread"),
        ({"head_block": 10_000}, "lag"),
    ],
)
def test_a_chain_that_is_not_read(calm: Sending, changes: dict[str, Any], code: str) -> None:
    Network.objects.update(**changes)
    assert codes() == [code]


def test_a_sender_with_too_little_for_gas(calm: Sending, settings: Any) -> None:
    sender = Sender.objects.get(address=keys.operator_address())
    Sender.objects.filter(pk=sender.pk).update(balance=10**16)
    (said,) = warnings.current()
    assert said.code == "low_balance"
    assert f"{sender.address} has 0.01 coins" in said.sentence
    settings.CHAIN_LOW_BALANCE = "0.005"
    assert codes() == []


def test_balances_are_read_once_a_minute(calm: Sending) -> None:
    Sender.objects.update(balance=7)
    broadcast.watch_balances(calm.network, now=calm.now + timedelta(seconds=30))
    assert Sender.objects.get(address=keys.provider_address()).balance == 7
    broadcast.watch_balances(calm.network, now=calm.now + timedelta(seconds=90))
    assert Sender.objects.get(address=keys.provider_address()).balance > 10**18


def test_no_key_and_a_wrong_one(calm: Sending, settings: Any) -> None:
    settings.CHAIN_KEY = settings.CHAIN_PROVIDER_KEY = ""
    assert codes() == ["no_key"]
    settings.CHAIN_KEY = "rubbish"
    assert codes() == ["bad_key"]


def test_what_waits_to_be_sent_for_long(calm: Sending) -> None:
    for reference in ("one", "two"):
        calm.queue(reference)
    assert codes() == []
    Transaction.objects.update(reason="Gas is dear.", created_at=timezone.now() - timedelta(minutes=6))
    (said,) = warnings.current()
    assert said.code == "waiting"
    assert "2 transactions wait" in said.sentence
    assert "Gas is dear." in said.sentence


def test_a_ledger_that_does_not_agree(calm: Sending) -> None:
    common = {"network": calm.network, "at": calm.now, "block_number": 5, "lines": [], "unexplained": 1}
    Reconciliation.objects.create(is_balanced=False, **common)
    assert codes() == ["unbalanced"]
    Reconciliation.objects.create(is_balanced=True, **common)
    assert codes() == []


def test_deposits_that_are_odd(calm: Sending) -> None:
    calm.deposit(0, 5)
    calm.index()
    Network.objects.update(polled_at=timezone.now())
    assert codes() == ["unclaimed"]
    Deposit.objects.update(status="orphaned")
    assert codes() == ["orphaned"]


def test_withdrawals_that_wait_for_somebody(calm: Sending, alice: Any, operator: Any) -> None:
    Wallet.objects.create(client=alice, address=calm.devnet.alice.address.lower())
    calm.deposit(0, 50)
    calm.index()
    Network.objects.update(polled_at=timezone.now())
    terms.change(by=operator, reason="x", withdrawal_approval_above=5)
    common = {"address": calm.devnet.alice.address, "network": calm.network, "now": calm.now}
    row = withdrawals.request(alice, amount=10, **common)
    assert codes() == ["to_approve"]
    withdrawals.approve(row, by=operator, now=calm.now)
    assert codes() == []
    terms.change(by=operator, reason="x", payouts_frozen=True)
    assert codes() == ["frozen"]
