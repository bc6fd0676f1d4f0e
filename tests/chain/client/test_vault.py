"""The Vault's helpers, and those of masters and providers that need it."""

from collections.abc import Callable
from typing import Any

import pytest

from chain.client import (
    TaskInfo,
    TaskStatus,
    cancel_task,
    deposit,
    get_task,
    provider,
    publish_task,
    vault,
    vault_account,
    vault_balance,
    withdraw,
)
from chain.client.errors import (
    InsufficientBalance,
    InsufficientLockup,
    InvalidValue,
    NotTaskOwner,
    UnbondingNotElapsed,
)
from tests.chain.client.conftest import COIN
from tests.chain.network import Network


def test_a_deposit_is_the_balance(network: Network) -> None:
    tx_hash = deposit(5)

    assert vault_balance() == vault_balance(network.alice.address) == 5
    assert network.w3.eth.get_transaction_receipt(tx_hash)["status"] == 1  # type: ignore[arg-type]


def test_a_deposit_may_be_for_another(network: Network) -> None:
    deposit(5, account=network.bob.address.lower())

    assert (vault_balance(), vault_balance(network.bob.address)) == (0, 5)


def test_a_balance_can_be_taken_back(network: Network) -> None:
    deposit(COIN)
    before = network.w3.eth.get_balance(network.alice.address)  # type: ignore[arg-type]

    withdraw(COIN)

    assert vault_balance() == 0
    assert network.w3.eth.get_balance(network.alice.address) > before + COIN * 9 // 10  # type: ignore[arg-type]


def test_more_than_the_balance_is_refused(network: Network) -> None:
    deposit(5)

    with pytest.raises(InsufficientBalance):
        withdraw(6)


@pytest.mark.parametrize("amount", [0, -1, 1.5, "5", True, None])
def test_what_is_no_amount_is_told(network: Network, amount: Any) -> None:
    for function in (deposit, withdraw, vault.lock):
        with pytest.raises(InvalidValue):
            function(amount)


def test_a_stake_is_locked_unbonded_and_claimed(network: Network) -> None:
    deposit(10, network.bob.private_key)
    vault.lock(8)
    with pytest.raises(InsufficientLockup):
        vault.unbond(9)
    vault.unbond(3)
    with pytest.raises(UnbondingNotElapsed):
        vault.claim()
    found = vault_account(network.bob.address)
    assert (found.balance, found.lockup, found.unbonding) == (2, 5, 3)

    network.pass_time(8 * 24 * 3600)
    vault.claim()

    assert vault_account(network.bob.address).balance == 5


def test_unbonding_can_be_taken_back(network: Network) -> None:
    deposit(10, network.bob.private_key)
    vault.lock(8)
    vault.unbond(3)

    vault.cancel_unbonding()

    assert vault_account(network.bob.address).lockup == 8


def test_a_task_that_nobody_took_is_cancelled_and_the_payment_returns(
    source: str, deposited: int, task_info: Callable[..., TaskInfo], network: Network
) -> None:
    task = publish_task(task_info(source))
    with pytest.raises(NotTaskOwner):
        cancel_task(task, network.charlie.private_key)

    cancel_task(task)

    assert get_task(task).status is TaskStatus.CANCELED
    assert vault_balance() == deposited


def test_a_master_and_its_provider_find_each_other(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PRIVATE_KEY", network.charlie.private_key)

    provider.announce_provider(network.bob.address, COIN)
    provider.announce_master(network.charlie.address)

    terminal = network.contract("TERMINAL")
    assert terminal.functions.getMasterOf(network.bob.address).call() == network.charlie.address
    assert vault_account(network.bob.address).lockup == COIN


def test_an_agent_acts_for_a_client(
    source: str, deposited: int, task_info: Callable[..., TaskInfo], network: Network
) -> None:
    task = publish_task(task_info(source))

    provider.set_agent(network.charlie.address, True)
    cancel_task(task, network.charlie.private_key)

    assert vault_balance() == deposited
