"""Nexus.updateSource, Nexus.inactivateSource, Nexus.setSourceStatus and Source.setStatus"""

import pytest

from tests.chain.contracts.evm import Contract, refused
from tests.chain.contracts.world import (
    ACTIVE,
    CONTROLLER,
    CPU,
    FIRST_RESPONSE,
    INACTIVE,
    MANUAL_CONFIRMATION,
    World,
    now,
    wait,
)


def test_the_client_updates_its_source(world: World, source: Contract) -> None:
    wait(60)
    changed = world.source_params(minPayment=9, deliveryMethod=FIRST_RESPONSE)
    world.nexus.updateSource(source, changed, sender=world.alice)
    assert tuple(source.getSourceParams()) == (*changed[:-1], now())
    event = world.nexus.event("SourceUpdated")
    assert event["source"] == source
    assert tuple(event["sourceParams"]) == (*changed[:-1], now())


def test_an_update_never_changes_the_client(world: World, source: Contract) -> None:
    world.nexus.updateSource(source, world.source_params(client=world.charlie), sender=world.alice)
    assert source.getClient() == source.owner() == world.alice
    assert world.nexus.event("SourceUpdated")["sourceParams"][0] == world.alice


def test_an_agent_updates_it(world: World, source: Contract) -> None:
    world.terminal.setAgent(world.charlie, True, sender=world.alice)
    world.nexus.updateSource(
        source, world.source_params(client=world.charlie, minPayment=2), sender=world.charlie
    )
    assert source.getSourceParams()[3] == 2


def test_an_update_leaves_the_tasks_there_are_as_they_are(world: World, source: Contract) -> None:
    task = world.task(source)
    world.nexus.updateSource(source, world.source_params(deliveryMethod=FIRST_RESPONSE), sender=world.alice)
    assert task.getDeliveryMethod() == MANUAL_CONFIRMATION
    assert world.task(source).deliveryMethod() == FIRST_RESPONSE


def test_an_update_is_checked_like_a_new_source(world: World, source: Contract) -> None:
    with refused("InvalidDeliveryMethod"):
        world.nexus.updateSource(source, world.source_params(deliveryMethod=2), sender=world.alice)


def test_a_new_owner_decides_and_the_old_one_no_longer(world: World, source: Contract) -> None:
    source.transferOwnership(world.charlie, sender=world.alice)
    with refused("NotOwner"):
        world.nexus.updateSource(source, world.source_params(), sender=world.alice)
    world.nexus.inactivateSource(source, sender=world.charlie)
    assert world.nexus.activeSourceCountOf(world.alice) == 0


@pytest.mark.parametrize("who", ["bob", "charlie", "deployer"])
def test_a_stranger_can_neither_update_nor_close_it(world: World, source: Contract, who: str) -> None:
    stranger = getattr(world, who)
    with refused("NotOwner"):
        world.nexus.updateSource(source, world.source_params(), sender=stranger)
    with refused("NotOwner"):
        world.nexus.inactivateSource(source, sender=stranger)
    with refused("NotOwner"):
        source.setStatus(INACTIVE, sender=stranger)
    with refused("NotController"):
        world.nexus.setSourceStatus(source, INACTIVE, sender=stranger)


def test_what_is_no_source_is_refused(world: World) -> None:
    with refused("UnknownSource"):
        world.nexus.updateSource(world.bob, world.source_params(), sender=world.alice)
    with refused("UnknownSource"):
        world.nexus.inactivateSource(world.bob, sender=world.bob)


def test_the_client_closes_its_source_for_ever(world: World, source: Contract) -> None:
    world.nexus.inactivateSource(source, sender=world.alice)
    assert source.getStatus() == INACTIVE
    assert world.nexus.activeSourceCountOf(world.alice) == 0
    assert world.nexus.event("SourceStatusChanged").arguments == {
        "source": source.address,
        "status": INACTIVE,
    }
    with refused("SourceInactive"):
        world.nexus.inactivateSource(source, sender=world.alice)
    with refused("SourceInactive"):
        world.nexus.updateSource(source, world.source_params(), sender=world.alice)
    with refused("InvalidStatus"):
        source.setStatus(ACTIVE, sender=world.alice)


def test_closing_it_at_the_source_itself_is_the_same(world: World, source: Contract) -> None:
    source.setStatus(INACTIVE, sender=world.alice)
    assert source.getStatus() == INACTIVE
    assert world.nexus.activeSourceCountOf(world.alice) == 0
    assert source.event("SourceStatusChanged").address == world.nexus


def test_a_controller_closes_it(world: World, source: Contract) -> None:
    world.manager.grantRole(CONTROLLER, world.charlie, sender=world.deployer)
    with refused("InvalidStatus"):
        world.nexus.setSourceStatus(source, ACTIVE, sender=world.charlie)
    world.nexus.setSourceStatus(source, INACTIVE, sender=world.charlie)
    assert source.status() == INACTIVE


def test_a_closed_source_takes_no_tasks_and_no_providers(world: World, source: Contract) -> None:
    world.nexus.inactivateSource(source, sender=world.alice)
    with refused("SourceInactive"):
        world.task(source)
    with refused("SourceInactive"):
        world.register(source, world.bob, CPU)


def test_its_open_tasks_go_on(world: World, source: Contract) -> None:
    task = world.attempted(source)
    world.nexus.inactivateSource(source, sender=world.alice)
    response = world.respond(task)
    world.controller.confirmResponse(response, sender=world.alice)
    assert task.winningProvider() == world.bob
