"""Receipts: roots are published once"""

import pytest

from tests.chain.contracts.evm import NOBODY, refused
from tests.chain.contracts.world import World

ROOT = bytes(range(32))


@pytest.fixture
def operator(world: World) -> str:
    world.receipts.setOperator(world.bob, True, sender=world.deployer)
    return world.bob


def test_an_operator_publishes_the_root_of_a_batch(world: World, operator: str) -> None:
    world.receipts.publish(7, ROOT, sender=operator)
    assert world.receipts.rootOf(7) == ROOT
    assert world.receipts.rootOf(8) == bytes(32)
    assert world.receipts.event("RootPublished").arguments == {"batch": 7, "root": ROOT}


def test_a_batch_is_published_once(world: World, operator: str) -> None:
    world.receipts.publish(7, ROOT, sender=operator)
    for root in (ROOT, ROOT[::-1]):
        with refused("AlreadyPublished"):
            world.receipts.publish(7, root, sender=operator)
    with refused("EmptyRoot"):
        world.receipts.publish(8, bytes(32), sender=operator)


def test_nobody_else_publishes(world: World, operator: str) -> None:
    for who in (world.deployer, world.charlie):
        with refused("NotOperator"):
            world.receipts.publish(7, ROOT, sender=who)
    world.receipts.setOperator(operator, False, sender=world.deployer)
    with refused("NotOperator"):
        world.receipts.publish(7, ROOT, sender=operator)


@pytest.mark.parametrize("name", ["receipts", "treasury"])
def test_an_ownership_is_offered_and_accepted(world: World, name: str) -> None:
    contract = getattr(world, name)
    contract.transferOwnership(world.bob, sender=world.deployer)
    assert contract.event("OwnershipTransferStarted").arguments == {
        "previousOwner": world.deployer,
        "newOwner": world.bob,
    }
    assert (contract.owner(), contract.pendingOwner()) == (world.deployer, world.bob)
    with refused("NotOwner"):
        contract.acceptOwnership(sender=world.charlie)
    contract.acceptOwnership(sender=world.bob)
    assert (contract.owner(), contract.pendingOwner()) == (world.bob, NOBODY)
    with refused("NotOwner"):
        contract.setOperator(world.bob, True, sender=world.deployer)


@pytest.mark.parametrize("name", ["receipts", "treasury"])
def test_an_offer_is_taken_back(world: World, name: str) -> None:
    contract = getattr(world, name)
    contract.transferOwnership(world.bob, sender=world.deployer)
    contract.transferOwnership(NOBODY, sender=world.deployer)
    with refused("NotOwner"):
        contract.acceptOwnership(sender=world.bob)


@pytest.mark.parametrize("name", ["receipts", "treasury"])
def test_only_the_owner_offers_and_names_operators(world: World, name: str) -> None:
    contract = getattr(world, name)
    with refused("NotOwner"):
        contract.transferOwnership(world.charlie, sender=world.charlie)
    with refused("NotOwner"):
        contract.setOperator(world.charlie, True, sender=world.charlie)
    contract.setOperator(world.bob, True, sender=world.deployer)
    assert contract.event("OperatorSet").arguments == {"operator": world.bob, "allowed": True}
    assert contract.operators(world.bob) is True
