"""Vault: deposits, withdrawals and stakes"""

import pytest

from tests.chain.contracts.evm import NOBODY, Contract, Refused, create_from_source, refused
from tests.chain.contracts.world import COIN, DAY, MIN_LOCKUP, WEEK, World, now, wait

# Withdraws its money, and tries to do so again while it receives it.
GREEDY = """
# pragma version 0.4.3
interface Vault:
    def withdraw(amount: uint256): nonpayable
    def claim(): nonpayable
    def lock(amount: uint256): nonpayable

vault: address
method: uint256
reached: public(bool)
succeeded: public(bool)

@deploy
@payable
def __init__(vault: address, method: uint256):
    self.vault = vault
    self.method = method

@external
@payable
def __default__():
    if msg.sender == self.vault and not self.reached:
        self.reached = True
        data: Bytes[36] = abi_encode(msg.value, method_id=method_id("withdraw(uint256)"))
        if self.method == 1:
            data = abi_encode(msg.value, method_id=method_id("lock(uint256)"))
        self.succeeded = raw_call(self.vault, data, revert_on_failure=False)

@external
def withdraw(amount: uint256):
    extcall Vault(self.vault).withdraw(amount)
"""

REFUSES = """
# pragma version 0.4.3
interface Vault:
    def withdraw(amount: uint256): nonpayable

@external
def withdraw(vault: address, amount: uint256):
    extcall Vault(vault).withdraw(amount)
"""


def test_a_deposit_is_credited_to_the_account_it_names(world: World) -> None:
    world.vault.deposit(world.bob, sender=world.alice, value=3 * COIN)
    assert world.vault.balanceOf(world.bob) == world.vault.getBalanceOf(world.bob) == 3 * COIN
    assert world.vault.balanceOf(world.alice) == 0
    assert world.vault.event("Deposited").arguments == {"account": world.bob, "amount": 3 * COIN}
    assert world.vault.totalOwed() == world.vault.balance == 3 * COIN


def test_nothing_and_nobody_are_refused(world: World) -> None:
    with refused("ZeroAmount"):
        world.vault.deposit(world.bob, sender=world.alice)
    with refused("ZeroAddress"):
        world.vault.deposit(NOBODY, sender=world.alice, value=1)
    for move in (world.vault.withdraw, world.vault.lock, world.vault.unbond):
        with refused("ZeroAmount"):
            move(0, sender=world.alice)


def test_coins_that_name_no_account_are_not_taken(world: World) -> None:
    with pytest.raises(Refused):
        world.vault.send(value=1, sender=world.alice)


def test_a_withdrawal_pays_the_caller(world: World) -> None:
    import boa

    world.vault.deposit(world.bob, sender=world.alice, value=3 * COIN)
    before = boa.env.get_balance(world.bob)
    world.vault.withdraw(2 * COIN, sender=world.bob)
    assert boa.env.get_balance(world.bob) == before + 2 * COIN
    assert world.vault.balanceOf(world.bob) == world.vault.totalOwed() == world.vault.balance == COIN
    assert world.vault.event("Withdrawn").arguments == {"account": world.bob, "amount": 2 * COIN}


def test_nobody_withdraws_more_than_its_balance(world: World) -> None:
    world.vault.deposit(world.alice, sender=world.alice, value=COIN)
    with refused("InsufficientBalance"):
        world.vault.withdraw(COIN + 1, sender=world.alice)
    with refused("InsufficientBalance"):
        world.vault.withdraw(1, sender=world.charlie)
    with refused("InsufficientBalance"):
        world.vault.lock(COIN + 1, sender=world.alice)


@pytest.mark.parametrize("method", [0, 1])
def test_a_receiver_cannot_come_back_in(world: World, method: int) -> None:
    greedy = create_from_source("Greedy", GREEDY, world.vault, method, sender=world.charlie)
    world.vault.deposit(greedy, sender=world.charlie, value=2 * COIN)
    world.vault.deposit(world.alice, sender=world.alice, value=10 * COIN)
    greedy.withdraw(COIN, sender=world.charlie)
    assert greedy.reached() is True
    assert greedy.succeeded() is False
    assert greedy.balance == world.vault.balanceOf(greedy) == COIN
    assert world.vault.totalOwed() == world.vault.balance == 11 * COIN


def test_a_receiver_that_refuses_keeps_its_balance(world: World) -> None:
    contract = create_from_source("Refuses", REFUSES, sender=world.charlie)
    world.vault.deposit(contract, sender=world.charlie, value=COIN)
    with refused("TransferFailed"):
        contract.withdraw(world.vault, COIN, sender=world.charlie)
    assert world.vault.balanceOf(contract) == COIN


def test_a_stake_is_locked_unbonded_and_claimed(world: World) -> None:
    vault = world.vault
    vault.deposit(world.bob, sender=world.bob, value=5 * COIN)
    vault.lock(4 * COIN, sender=world.bob)
    assert vault.event("Locked").arguments == {"account": world.bob, "amount": 4 * COIN}
    assert (vault.balanceOf(world.bob), vault.getLockupOf(world.bob)) == (COIN, 4 * COIN)
    vault.unbond(3 * COIN, sender=world.bob)
    assert vault.event("Unbonded").arguments == {"account": world.bob, "amount": 3 * COIN}
    assert (vault.lockupOf(world.bob), vault.unbondingOf(world.bob)) == (COIN, 3 * COIN)
    assert vault.unbondingTimestamp(world.bob) == now() + WEEK
    wait(WEEK - 1)
    with refused("UnbondingNotElapsed"):
        vault.claim(sender=world.bob)
    wait(1)
    vault.claim(sender=world.bob)
    assert vault.event("Claimed").arguments == {"account": world.bob, "amount": 3 * COIN}
    assert (vault.balanceOf(world.bob), vault.unbondingOf(world.bob)) == (4 * COIN, 0)
    assert vault.unbondingTimestamp(world.bob) == 0


def test_what_is_locked_cannot_be_withdrawn(world: World) -> None:
    world.stake(world.bob, COIN)
    with refused("InsufficientBalance"):
        world.vault.withdraw(1, sender=world.bob)
    world.vault.unbond(COIN, sender=world.bob)
    with refused("InsufficientBalance"):
        world.vault.withdraw(1, sender=world.bob)


def test_unbonding_more_starts_the_period_anew(world: World) -> None:
    world.stake(world.bob, 2 * COIN)
    world.vault.unbond(COIN, sender=world.bob)
    wait(WEEK)
    world.vault.unbond(COIN, sender=world.bob)
    with refused("UnbondingNotElapsed"):
        world.vault.claim(sender=world.bob)
    wait(WEEK)
    world.vault.claim(sender=world.bob)
    assert world.vault.balanceOf(world.bob) == 2 * COIN


def test_unbonding_can_be_canceled(world: World) -> None:
    world.stake(world.bob, COIN)
    world.vault.unbond(COIN, sender=world.bob)
    world.vault.cancelUnbonding(sender=world.bob)
    assert world.vault.event("UnbondingCanceled").arguments == {"account": world.bob, "amount": COIN}
    assert (world.vault.lockupOf(world.bob), world.vault.unbondingOf(world.bob)) == (COIN, 0)
    assert world.vault.unbondingTimestamp(world.bob) == 0
    for again in (world.vault.cancelUnbonding, world.vault.claim):
        with refused("NothingUnbonding"):
            again(sender=world.bob)


def test_nobody_unbonds_more_than_its_stake(world: World) -> None:
    world.stake(world.bob, COIN)
    with refused("InsufficientLockup"):
        world.vault.unbond(COIN + 1, sender=world.bob)


def test_a_stake_stays_while_registrations_need_it(world: World, source: Contract) -> None:
    world.register(source, world.bob)
    world.register(world.source(), world.bob)
    world.stake(world.bob, COIN)
    with refused("InsufficientLockup"):
        world.vault.unbond(COIN + 1, sender=world.bob)
    world.vault.unbond(COIN, sender=world.bob)
    world.nexus.unregister(source, world.bob, sender=world.bob)
    world.vault.unbond(MIN_LOCKUP, sender=world.bob)
    with refused("InsufficientLockup"):
        world.vault.unbond(1, sender=world.bob)


def test_a_whitelisted_account_takes_its_stake_back_any_time(world: World, source: Contract) -> None:
    world.register(source, world.bob)
    world.vault.setWhitelist(world.bob, True, sender=world.deployer)
    assert world.vault.isWhitelisted(world.bob)
    world.vault.unbond(MIN_LOCKUP, sender=world.bob)
    assert world.vault.isEligible(world.bob)


def test_eligible_is_whose_stake_covers_its_registrations_or_a_first_one(
    world: World, source: Contract
) -> None:
    assert not world.vault.isEligible(world.bob)
    world.stake(world.bob, MIN_LOCKUP - 1)
    assert not world.vault.isEligible(world.bob)
    world.stake(world.bob, 1)
    assert world.vault.isEligible(world.bob)
    world.nexus.register(source, world.bob, 1, sender=world.bob)
    assert world.vault.isEligible(world.bob)
    world.vault.setMinLockupPerSource(MIN_LOCKUP + 1, sender=world.deployer)
    assert not world.vault.isEligible(world.bob)


def test_only_the_terminal_stakes_for_others(world: World) -> None:
    with refused("NotTerminal"):
        world.vault.stake(world.bob, sender=world.charlie, value=1)


def test_a_pause_stops_what_comes_in_and_nothing_that_goes_out(world: World) -> None:
    vault = world.vault
    vault.deposit(world.bob, sender=world.bob, value=3 * COIN)
    vault.lock(2 * COIN, sender=world.bob)
    vault.pause(sender=world.deployer)
    assert vault.paused() is True
    with refused("Paused"):
        vault.deposit(world.bob, sender=world.bob, value=1)
    with refused("Paused"):
        vault.lock(1, sender=world.bob)
    with refused("Paused"):
        world.terminal.announceProvider(world.bob, 1, sender=world.mary, value=1)
    vault.unbond(2 * COIN, sender=world.bob)
    vault.cancelUnbonding(sender=world.bob)
    vault.unbond(2 * COIN, sender=world.bob)
    wait(WEEK)
    vault.claim(sender=world.bob)
    vault.withdraw(3 * COIN, sender=world.bob)
    assert vault.balance == 0
    vault.unpause(sender=world.deployer)
    vault.deposit(world.bob, sender=world.bob, value=1)


def test_coins_forced_in_belong_to_nobody(world: World) -> None:
    import boa

    world.vault.deposit(world.bob, sender=world.bob, value=COIN)
    boa.env.set_balance(world.vault.address, 3 * COIN)
    with refused("InsufficientBalance"):
        world.vault.withdraw(2 * COIN, sender=world.bob)
    assert world.vault.totalOwed() == COIN


def test_a_new_period_does_not_touch_what_is_on_its_way(world: World) -> None:
    world.stake(world.bob, 2 * COIN)
    world.vault.unbond(COIN, sender=world.bob)
    world.vault.setMaxUnbondingPeriod(90 * DAY, sender=world.deployer)
    wait(WEEK)
    world.vault.claim(sender=world.bob)
    with refused("PeriodTooLong"):
        world.vault.setMaxUnbondingPeriod(90 * DAY + 1, sender=world.deployer)
