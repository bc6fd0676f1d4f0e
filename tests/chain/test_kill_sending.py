"""A worker that is killed (-9) at any moment while it pays withdrawals: each is paid once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings

from chain import reconciliation, withdrawals
from chain.models import Network, Withdrawal, WithdrawalStatus
from clients import ledger
from clients.models import AccountKind, Wallet
from tests.chain.network import PROJECT
from tests.chain.sending import breaks, connect
from tests.clients.test_ledger_hammer import database_url

# What a worker does, over and over; it says when it begins.
WORKER = """
import django; django.setup()
from django.utils import timezone
from chain.tasks import follow_networks, send_transactions
print("ready", flush=True)
while True:
    send_transactions()
    follow_networks()
"""
COUNT = 15
KILLS = 5


@pytest.mark.django_db(transaction=True)
def test_each_withdrawal_is_paid_once(devnet: Any, settings: Any, alice: Any) -> None:
    sending = connect(devnet, settings)
    treasury = devnet.contract("TREASURY")
    devnet.transact(devnet.deployer, treasury.functions.setOperator(sending.operator, True), gas=200_000)
    Wallet.objects.create(client=alice, address=devnet.alice.address.lower())
    sending.deposit(0, 1000)
    sending.index()
    before, nonce = sending.treasury(), sending.chain_nonce()
    chance = random.Random(5)
    asked = 0
    for _ in range(KILLS):
        for _ in range(COUNT // KILLS + 1):
            asked += _ask(sending, alice)
        _work_and_die(devnet, chance.uniform(0.02, 0.4))
    _finish(sending)
    assert set(Withdrawal.objects.values_list("status", flat=True)) == {WithdrawalStatus.CONFIRMED}
    assert Withdrawal.objects.count() == asked
    assert sending.treasury() == before - 10 * asked
    assert sending.nonces() == list(range(nonce, nonce + asked))
    assert ledger.balance(ledger.account(alice.pk, AccountKind.SPENDABLE)) == 1000 - 10 * asked
    assert breaks() == []
    assert reconciliation.run(sending.network, now=sending.now).is_balanced


def _ask(sending: Any, alice: Any) -> int:
    withdrawals.request(
        alice, amount=10, address=sending.devnet.alice.address, network=sending.network, now=sending.now
    )
    return 1


def _work_and_die(devnet: Any, after_s: float) -> None:
    env = os.environ | {
        "DATABASE_URL": database_url(),
        "CHAIN_NETWORKS": str(devnet.manifest_path),
        "CHAIN_KEY": devnet.deployer.private_key,
        "SECRET_KEY": django_settings.SECRET_KEY,
    }
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=env, cwd=PROJECT, stdout=subprocess.PIPE)
    with worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(after_s)
        worker.send_signal(signal.SIGKILL)


def _finish(sending: Any) -> None:
    # The database frees what a dead process had locked when it notices.
    time.sleep(0.5)
    Network.objects.update(lease=None, leased_until=None, next_poll_at=sending.now)
    for _ in range(8):
        sending.now += timedelta(minutes=2)
        sending.pay(1)
