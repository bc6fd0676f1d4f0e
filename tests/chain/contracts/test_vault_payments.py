"""Vault: payments, sanctions, and what admins and judges may do"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chain.contracts.evm import NOBODY, Contract, refused
from tests.chain.contracts.world import COIN, CONTROLLER, WEEK, World, now

TASK = "0x" + "aa" * 20


@pytest.fixture
def controller(world: World) -> str:
    """An account with the controllers' role, to call what only they call."""
    world.manager.grantRole(CONTROLLER, world.charlie, sender=world.deployer)
    world.vault.deposit(world.alice, sender=world.alice, value=10 * COIN)
    return world.charlie


def buckets(world: World, account: str) -> dict[str, int]:
    vault = world.vault
    found = {
        "balance": vault.balanceOf(account),
        "lockup": vault.lockupOf(account),
        "unbonding": vault.unbondingOf(account),
        "frozen": vault.frozenPayment(account),
        "sanction": vault.sanctionOf(account),
    }
    return {name: amount // COIN for name, amount in found.items() if amount}


def test_a_payment_is_frozen_once_for_a_task(world: World, controller: str) -> None:
    world.vault.freezePayment(world.alice, TASK, 4 * COIN, sender=controller)
    assert buckets(world, world.alice) == {"balance": 6, "frozen": 4}
    with refused("AlreadyFrozen"):
        world.vault.freezePayment(world.alice, TASK, COIN, sender=controller)
    world.vault.releasePayment(world.alice, TASK, sender=controller)
    with refused("AlreadyFrozen"):
        world.vault.freezePayment(world.alice, TASK, COIN, sender=controller)


def test_only_what_there_is_can_be_frozen(world: World, controller: str) -> None:
    with refused("InsufficientBalance"):
        world.vault.freezePayment(world.alice, TASK, 10 * COIN + 1, sender=controller)
    with refused("ZeroAddress"):
        world.vault.freezePayment(NOBODY, TASK, 0, sender=controller)


def test_a_payment_goes_to_the_provider_and_the_rest_back(world: World, controller: str) -> None:
    world.vault.freezePayment(world.alice, TASK, 4 * COIN, sender=controller)
    with refused("PaymentNotFrozen"):
        world.vault.processPayment(world.alice, world.bob, TASK, 4 * COIN + 1, sender=controller)
    world.vault.processPayment(world.alice, world.bob, TASK, 3 * COIN, sender=controller)
    assert buckets(world, world.alice) == {"balance": 7}
    assert buckets(world, world.bob) == {"balance": 3}
    with refused("PaymentNotFrozen"):
        world.vault.processPayment(world.alice, world.bob, TASK, 1, sender=controller)


def test_who_pays_itself_has_what_it_had(world: World, controller: str) -> None:
    world.vault.freezePayment(world.alice, TASK, 4 * COIN, sender=controller)
    world.vault.processPayment(world.alice, world.alice, TASK, 3 * COIN, sender=controller)
    assert buckets(world, world.alice) == {"balance": 10}
    assert world.vault.totalEarningsOf(world.alice) == 3 * COIN


def test_a_release_gives_all_of_it_back_and_nothing_twice(world: World, controller: str) -> None:
    other = "0x" + "bb" * 20
    world.vault.freezePayment(world.alice, TASK, 4 * COIN, sender=controller)
    world.vault.freezePayment(world.alice, other, COIN, sender=controller)
    for _ in range(2):
        world.vault.releasePayment(world.alice, TASK, sender=controller)
        assert buckets(world, world.alice) == {"balance": 9, "frozen": 1}


@pytest.mark.parametrize("client", ["bob", "charlie"])
def test_the_client_of_a_payment_is_the_one_who_paid(world: World, controller: str, client: str) -> None:
    world.vault.freezePayment(world.alice, TASK, COIN, sender=controller)
    for move in (
        lambda: world.vault.releasePayment(getattr(world, client), TASK, sender=controller),
        lambda: world.vault.processPayment(getattr(world, client), world.bob, TASK, COIN, sender=controller),
        lambda: world.vault.forceReleasePayment(getattr(world, client), TASK, sender=world.judge),
        lambda: world.vault.releasePayment(NOBODY, "0x" + "cc" * 20, sender=controller),
    ):
        with refused("NotPayer"):
            move()


def test_a_judge_gives_a_payment_back(world: World, source: Contract) -> None:
    task = world.task(source)
    world.vault.forceReleasePayment(world.alice, task, sender=world.judge)
    assert buckets(world, world.alice) == {"balance": 5}
    assert world.vault.event("PaymentReleased").arguments == {
        "client": world.alice,
        "task": task.address,
        "amount": 5 * COIN,
    }


def test_a_judge_takes_a_stake_first_from_what_is_locked(world: World) -> None:
    world.stake(world.bob, 5 * COIN)
    world.vault.unbond(3 * COIN, sender=world.bob)
    world.vault.sanction(world.bob, COIN, sender=world.judge)
    assert buckets(world, world.bob) == {"lockup": 1, "unbonding": 3, "sanction": 1}
    world.vault.sanction(world.bob, 2 * COIN, sender=world.judge)
    assert buckets(world, world.bob) == {"unbonding": 2, "sanction": 3}
    assert world.vault.unbondingTimestamp(world.bob) == now() + WEEK
    assert world.vault.sanctionedAmount() == 3 * COIN
    assert world.vault.event("Sanctioned").arguments == {"account": world.bob, "amount": 2 * COIN}


def test_a_sanction_takes_at_most_the_stake_and_no_balance(world: World) -> None:
    world.stake(world.bob, 2 * COIN)
    world.vault.unbond(COIN, sender=world.bob)
    world.vault.deposit(world.bob, sender=world.bob, value=COIN)
    world.vault.sanction(world.bob, 100 * COIN, sender=world.judge)
    assert world.vault.event("Sanctioned")["amount"] == 2 * COIN
    assert buckets(world, world.bob) == {"balance": 1, "sanction": 2}
    assert world.vault.unbondingTimestamp(world.bob) == 0
    with refused("InsufficientLockup"):
        world.vault.sanction(world.bob, 1, sender=world.judge)


def test_a_judge_waives_a_sanction(world: World) -> None:
    world.stake(world.bob, 2 * COIN)
    world.vault.sanction(world.bob, 2 * COIN, sender=world.judge)
    world.vault.waive(world.bob, COIN, sender=world.judge)
    assert buckets(world, world.bob) == {"lockup": 1, "sanction": 1}
    assert world.vault.sanctionedAmount() == COIN
    assert world.vault.event("Waived").arguments == {"account": world.bob, "amount": COIN}
    with refused("InsufficientSanction"):
        world.vault.waive(world.bob, COIN + 1, sender=world.judge)


def test_an_admin_takes_a_sanction_to_its_own_balance_once(world: World) -> None:
    world.stake(world.bob, 2 * COIN)
    world.vault.sanction(world.bob, 2 * COIN, sender=world.judge)
    world.vault.withdrawSanctionOf(world.bob, sender=world.deployer)
    assert buckets(world, world.bob) == {}
    assert buckets(world, world.deployer) == {"balance": 2}
    assert world.vault.sanctionedAmount() == 0
    with refused("InsufficientSanction"):
        world.vault.withdrawSanctionOf(world.bob, sender=world.deployer)
    with refused("InsufficientSanction"):
        world.vault.waive(world.bob, 1, sender=world.judge)


def test_an_admin_ends_the_staking_of_an_account_in_its_favour(world: World, source: Contract) -> None:
    world.stake(world.bob, 5 * COIN)
    world.vault.unbond(2 * COIN, sender=world.bob)
    world.vault.emergencyExit(world.bob, sender=world.deployer)
    assert buckets(world, world.bob) == {"balance": 5}
    assert world.vault.unbondingTimestamp(world.bob) == 0
    with refused("InsufficientLockup"):
        world.vault.emergencyExit(world.bob, sender=world.deployer)


def test_zero_is_no_sanction(world: World) -> None:
    world.stake(world.bob, COIN)
    for move in (world.vault.sanction, world.vault.waive):
        with refused("ZeroAmount"):
            move(world.bob, 0, sender=world.judge)


CALLS: list[tuple[str, str, Callable[[World], tuple[Any, ...]]]] = [
    ("NotController", "freezePayment", lambda world: (world.alice, TASK, 0)),
    ("NotController", "releasePayment", lambda world: (world.alice, TASK)),
    ("NotController", "processPayment", lambda world: (world.alice, world.bob, TASK, 0)),
    ("NotJudge", "forceReleasePayment", lambda world: (world.alice, TASK)),
    ("NotJudge", "sanction", lambda world: (world.bob, 1)),
    ("NotJudge", "waive", lambda world: (world.bob, 1)),
    ("NotAdmin", "withdrawSanctionOf", lambda world: (world.bob,)),
    ("NotAdmin", "emergencyExit", lambda world: (world.bob,)),
    ("NotAdmin", "setMaxUnbondingPeriod", lambda world: (1,)),
    ("NotAdmin", "setMinLockupPerSource", lambda world: (1,)),
    ("NotAdmin", "setTerminal", lambda world: (world.bob,)),
    ("NotAdmin", "setNexus", lambda world: (world.bob,)),
    ("NotAdmin", "setWhitelist", lambda world: (world.bob, True)),
    ("NotAdmin", "pause", lambda world: ()),
    ("NotAdmin", "unpause", lambda world: ()),
]
ENTITLED = {"NotController": ("nexus", "controller"), "NotJudge": ("judge",), "NotAdmin": ("deployer",)}


@pytest.mark.parametrize(("refusal", "function", "arguments"), CALLS, ids=[call[1] for call in CALLS])
@pytest.mark.parametrize("who", ["alice", "bob", "mary", "charlie", "judge", "deployer"])
def test_each_role_has_its_own_rights(
    world: World, refusal: str, function: str, arguments: Callable[[World], tuple[Any, ...]], who: str
) -> None:
    if who not in ENTITLED[refusal]:
        with refused(refusal):
            getattr(world.vault, function)(*arguments(world), sender=getattr(world, who))


def test_an_admin_sets_what_the_vault_goes_by(world: World) -> None:
    vault, admin = world.vault, world.deployer
    vault.setMaxUnbondingPeriod(60, sender=admin)
    vault.setMinLockupPerSource(7, sender=admin)
    vault.setTerminal(world.bob, sender=admin)
    vault.setNexus(world.bob, sender=admin)
    assert (vault.UNBONDING_PERIOD(), vault.MIN_LOCKUP_PER_SOURCE()) == (60, 7)
    assert vault.terminal() == vault.nexus() == world.bob
    assert vault.manager() == world.manager
