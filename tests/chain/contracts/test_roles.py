"""Manager, and the owners of the other contracts: OpenZeppelin's AccessControl and Ownable"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chain.contracts.evm import NOBODY, Contract, create, refused
from tests.chain.contracts.world import ADMIN, CONTROLLER, JUDGE, PROVIDER, World


def test_the_deployer_is_the_only_admin(world: World) -> None:
    manager = world.manager
    assert manager.DEFAULT_ADMIN_ROLE() == ADMIN
    assert (manager.CONTROLLER(), manager.PROVIDER(), manager.JUDGE()) == (CONTROLLER, PROVIDER, JUDGE)
    assert world.nexus.CONTROLLER() == CONTROLLER
    assert world.nexus.PROVIDER() == world.terminal.PROVIDER() == PROVIDER
    assert manager.hasRole(ADMIN, world.deployer)
    assert not manager.hasRole(ADMIN, world.judge)
    assert {manager.getRoleAdmin(role) for role in (ADMIN, CONTROLLER, PROVIDER, JUDGE)} == {ADMIN}


def test_only_nexus_and_controller_are_controllers(world: World) -> None:
    for contract in (world.nexus, world.controller):
        assert world.nexus.checkController(contract) is True
    for other in (world.deployer, world.terminal, world.vault, world.judge, world.alice):
        assert world.nexus.checkController(other) is False


def test_an_admin_grants_and_revokes(world: World) -> None:
    manager, change = world.manager, {"role": JUDGE, "account": world.bob, "sender": world.deployer}
    manager.grantRole(JUDGE, world.bob, sender=world.deployer)
    assert manager.event("RoleGranted").arguments == change
    assert manager.hasRole(JUDGE, world.bob)
    manager.grantRole(JUDGE, world.bob, sender=world.deployer)
    assert manager.events == []
    manager.revokeRole(JUDGE, world.bob, sender=world.deployer)
    assert manager.event("RoleRevoked").arguments == change
    assert not manager.hasRole(JUDGE, world.bob)


@pytest.mark.parametrize("who", ["alice", "judge", "charlie"])
def test_nobody_else_does(world: World, who: str) -> None:
    for function in (world.manager.grantRole, world.manager.revokeRole):
        with refused("AccessControlUnauthorizedAccount"):
            function(CONTROLLER, world.charlie, sender=getattr(world, who))
    with refused("AccessControlUnauthorizedAccount"):
        world.manager.setRoleAdmin(CONTROLLER, JUDGE, sender=getattr(world, who))


def test_a_role_is_renounced_by_its_holder_alone(world: World) -> None:
    with refused("AccessControlBadConfirmation"):
        world.manager.renounceRole(JUDGE, world.judge, sender=world.deployer)
    world.manager.renounceRole(JUDGE, world.judge, sender=world.judge)
    assert not world.manager.hasRole(JUDGE, world.judge)


def test_a_role_gets_another_admin(world: World) -> None:
    world.manager.setRoleAdmin(PROVIDER, JUDGE, sender=world.deployer)
    event = world.manager.event("RoleAdminChanged")
    assert event.arguments == {"role": PROVIDER, "previousAdminRole": ADMIN, "newAdminRole": JUDGE}
    world.manager.grantRole(PROVIDER, world.bob, sender=world.judge)
    with refused("AccessControlUnauthorizedAccount"):
        world.manager.grantRole(PROVIDER, world.alice, sender=world.deployer)


@pytest.mark.parametrize(
    ("interface", "supported"),
    [("01ffc9a7", True), ("7965db0b", True), ("ffffffff", False), ("00000000", False)],
)
def test_it_says_what_it_supports(world: World, interface: str, supported: bool) -> None:
    """ERC-165 and IAccessControl."""
    assert world.manager.supportsInterface(bytes.fromhex(interface)) is supported


@pytest.fixture(params=["nexus", "controller", "terminal", "source"])
def owned(request: pytest.FixtureRequest, world: World) -> tuple[Contract, str]:
    """A contract and its owner."""
    if request.param == "source":
        return world.source(), world.alice
    return getattr(world, request.param), world.deployer


def test_an_owner_hands_over(world: World, owned: tuple[Contract, str]) -> None:
    contract, owner = owned
    assert contract.owner() == owner
    contract.transferOwnership(world.bob, sender=owner)
    assert contract.owner() == world.bob
    assert contract.event("OwnershipTransferred").arguments == {"previousOwner": owner, "newOwner": world.bob}
    with refused("OwnableUnauthorizedAccount"):
        contract.transferOwnership(owner, sender=owner)


def test_an_owner_leaves_for_ever(world: World, owned: tuple[Contract, str]) -> None:
    contract, owner = owned
    contract.renounceOwnership(sender=owner)
    assert contract.owner() == NOBODY
    with refused("OwnableUnauthorizedAccount"):
        contract.transferOwnership(owner, sender=owner)


def test_nobody_else_hands_over_and_nobody_is_no_owner(world: World, owned: tuple[Contract, str]) -> None:
    contract, owner = owned
    with refused("OwnableUnauthorizedAccount"):
        contract.transferOwnership(world.charlie, sender=world.charlie)
    with refused("OwnableUnauthorizedAccount"):
        contract.renounceOwnership(sender=world.charlie)
    with refused("OwnableInvalidOwner"):
        contract.transferOwnership(NOBODY, sender=owner)


SETTERS: list[tuple[str, str, Callable[[World], tuple[Any, ...]], str]] = [
    ("nexus", "setManager", lambda world: (world.bob,), "manager"),
    ("nexus", "setTerminal", lambda world: (world.bob,), "terminal"),
    ("nexus", "setVault", lambda world: (world.bob,), "vault"),
    ("nexus", "setBlueprints", lambda world: (world.bob, world.alice), "sourceBlueprint"),
    ("nexus", "setApprovedOnly", lambda world: (True,), "approvedOnly"),
    ("controller", "setNexus", lambda world: (world.bob,), "nexus"),
    ("controller", "setTerminal", lambda world: (world.bob,), "terminal"),
    ("controller", "setVault", lambda world: (world.bob,), "vault"),
    ("controller", "setTaskBlueprint", lambda world: (world.bob,), "taskBlueprint"),
    ("terminal", "setManager", lambda world: (world.bob,), "manager"),
    ("terminal", "setVault", lambda world: (world.bob,), "vault"),
]


@pytest.mark.parametrize(("contract", "function", "arguments", "getter"), SETTERS)
def test_only_the_owner_rewires(
    world: World, contract: str, function: str, arguments: Callable[[World], tuple[Any, ...]], getter: str
) -> None:
    found = getattr(world, contract)
    for who in (world.alice, world.judge, world.charlie):
        with refused("OwnableUnauthorizedAccount"):
            getattr(found, function)(*arguments(world), sender=who)
    getattr(found, function)(*arguments(world), sender=world.deployer)
    assert getattr(found, getter)() == arguments(world)[0]


def test_a_task_has_an_owner_from_the_start(world: World, source: Contract) -> None:
    with refused("OwnableInvalidOwner"):
        create("Task", world.task_params(source), 0, NOBODY, sender=world.charlie)
    with refused("InvalidDeliveryMethod"):
        create("Task", world.task_params(source), 2, world.nexus, sender=world.charlie)


def test_a_contract_that_only_looks_like_a_task_is_none(world: World, source: Contract) -> None:
    world.register(source, world.bob)
    forged = create("Task", world.task_params(source), 1, world.nexus, sender=world.charlie)
    with refused("UnknownTask"):
        world.nexus.attempt(forged, world.bob, 0, sender=world.bob)
    with refused("UnknownTask"):
        world.nexus.submitResponse((forged.address, world.bob, "", 0), sender=world.bob)
    response = create("Response", (forged.address, world.charlie, "", 1), sender=world.charlie)
    with refused("UnknownResponse"):
        world.controller.confirmResponse(response, sender=world.charlie)
    source_of_charlie = create("Source", world.source_params(client=world.charlie), sender=world.charlie)
    with refused("UnknownSource"):
        world.controller.publishTask(world.task_params(source_of_charlie), sender=world.alice)
