"""Nexus.register and Nexus.unregister"""

import pytest

from tests.chain.contracts.evm import Contract, refused
from tests.chain.contracts.world import AMD, COIN, CPU, MIN_LOCKUP, NVIDIA, PROVIDER, World, person


def test_a_provider_registers_itself(world: World, source: Contract) -> None:
    world.register(source, world.bob, NVIDIA)
    assert world.nexus.event("Registered").arguments == {
        "provider": world.bob,
        "registrantId": 1,
        "source": source.address,
        "preferredEnvironment": NVIDIA,
    }
    assert source.getRegistrantCount() == 1
    assert source.getRegistrantId(world.bob) == source.registrantId(world.bob) == 1
    assert source.getRegistrants(0, 0) == [world.bob]
    assert source.registrants(0) == world.bob
    assert source.preferredEnvironmentOf(world.bob) == NVIDIA
    assert world.nexus.registrationCountOf(world.bob) == 1


def test_its_master_and_the_agent_of_its_master_register_it(world: World) -> None:
    world.pair(world.bob, world.mary, 2 * MIN_LOCKUP)
    world.terminal.setAgent(world.charlie, True, sender=world.mary)
    for sender in (world.mary, world.charlie):
        world.nexus.register(world.source(), world.bob, CPU, sender=sender)
    assert world.nexus.registrationCountOf(world.bob) == 2


def test_an_agent_of_the_provider_itself_counts_only_while_it_has_no_master(
    world: World, source: Contract
) -> None:
    world.stake(world.bob)
    world.terminal.setAgent(world.charlie, True, sender=world.bob)
    world.nexus.register(source, world.bob, CPU, sender=world.charlie)
    world.pair(world.bob, world.mary)
    with refused("NotProvider"):
        world.nexus.unregister(source, world.bob, sender=world.charlie)


@pytest.mark.parametrize("who", ["alice", "mary", "charlie", "deployer"])
def test_nobody_else_does(world: World, source: Contract, who: str) -> None:
    world.register(source, world.bob)
    other = world.source()
    with refused("NotProvider"):
        world.nexus.register(other, world.bob, CPU, sender=getattr(world, who))
    with refused("NotProvider"):
        world.nexus.unregister(source, world.bob, sender=getattr(world, who))


def test_a_former_master_does_not(world: World, source: Contract) -> None:
    world.pair(world.bob, world.mary, MIN_LOCKUP)
    world.terminal.removeProvider(world.bob, sender=world.mary)
    with refused("NotProvider"):
        world.nexus.register(source, world.bob, CPU, sender=world.mary)


def test_it_happens_once(world: World, source: Contract) -> None:
    world.register(source, world.bob)
    with refused("AlreadyRegistered"):
        world.register(source, world.bob)


def test_each_registration_needs_its_stake(world: World, source: Contract) -> None:
    with refused("InsufficientLockup"):
        world.nexus.register(source, world.bob, CPU, sender=world.bob)
    world.stake(world.bob, 2 * MIN_LOCKUP - 1)
    world.nexus.register(source, world.bob, CPU, sender=world.bob)
    with refused("InsufficientLockup"):
        world.nexus.register(world.source(), world.bob, CPU, sender=world.bob)


def test_a_source_may_ask_for_more_of_it(world: World) -> None:
    source = world.source(minAvailableLockup=MIN_LOCKUP + 1)
    world.stake(world.bob, MIN_LOCKUP)
    with refused("InsufficientLockup"):
        world.nexus.register(source, world.bob, CPU, sender=world.bob)
    world.stake(world.bob, 1)
    world.nexus.register(source, world.bob, CPU, sender=world.bob)


def test_a_whitelisted_provider_needs_only_what_the_source_asks_for(world: World, source: Contract) -> None:
    world.vault.setWhitelist(world.bob, True, sender=world.deployer)
    world.nexus.register(source, world.bob, CPU, sender=world.bob)
    with refused("InsufficientLockup"):
        world.nexus.register(world.source(minAvailableLockup=COIN), world.bob, CPU, sender=world.bob)


@pytest.mark.parametrize("environment", [0, AMD, CPU | AMD])
def test_the_environment_is_one_that_the_source_has(world: World, source: Contract, environment: int) -> None:
    with refused("InvalidEnvironment"):
        world.register(source, world.bob, environment)


@pytest.mark.parametrize("environment", [0, AMD])
def test_a_source_without_environments_takes_any(world: World, environment: int) -> None:
    source = world.source(imageEnvironments=0)
    world.register(source, world.bob, environment)
    assert source.preferredEnvironmentOf(world.bob) == environment


def test_providers_may_need_an_approval(world: World, source: Contract) -> None:
    world.nexus.setApprovedOnly(True, sender=world.deployer)
    with refused("NotProvider"):
        world.register(source, world.bob)
    world.manager.grantRole(PROVIDER, world.bob, sender=world.deployer)
    world.register(source, world.bob)


def test_what_is_no_source_is_refused(world: World) -> None:
    with refused("UnknownSource"):
        world.nexus.register(world.charlie, world.bob, CPU, sender=world.bob)
    with refused("UnknownSource"):
        world.nexus.unregister(world.charlie, world.bob, sender=world.bob)


def test_the_last_one_takes_the_place_of_the_one_who_leaves(world: World, source: Contract) -> None:
    first, second, third = (person(name) for name in ("first", "second", "third"))
    for provider in (first, second, third):
        world.register(source, provider)
    world.nexus.unregister(source, first, sender=first)
    assert world.nexus.event("Unregistered").arguments == {"provider": first, "source": source.address}
    assert source.getRegistrants(0, 100) == [third, second]
    assert [source.getRegistrantId(each) for each in (first, second, third)] == [0, 2, 1]
    world.nexus.unregister(source, second, sender=second)
    world.nexus.unregister(source, third, sender=third)
    assert source.getRegistrants(0, 100) == []
    assert world.nexus.registrationCountOf(first) == 0


def test_who_is_not_registered_cannot_leave(world: World, source: Contract) -> None:
    with refused("NotRegistered"):
        world.nexus.unregister(source, world.bob, sender=world.bob)


def test_who_has_left_may_come_back_and_may_leave_a_closed_source(world: World, source: Contract) -> None:
    world.register(source, world.bob)
    world.nexus.unregister(source, world.bob, sender=world.bob)
    world.nexus.register(source, world.bob, NVIDIA, sender=world.bob)
    world.nexus.inactivateSource(source, sender=world.alice)
    world.nexus.unregister(source, world.bob, sender=world.bob)
    assert source.preferredEnvironmentOf(world.bob) == 0
