"""Nexus.publishSource"""

import pytest

from tests.chain.contracts.evm import Contract, Refused, refused
from tests.chain.contracts.world import ACTIVE, CPU, FIRST_RESPONSE, NVIDIA, World, now


def test_it_creates_a_source_that_its_client_owns(world: World) -> None:
    source = world.source(deliveryMethod=FIRST_RESPONSE)
    assert source.owner() == source.getClient() == world.alice
    assert source.nexus() == world.nexus
    assert source.getStatus() == source.status() == ACTIVE
    assert [event.name for event in world.nexus.events] == ["OwnershipTransferred", "SourcePublished"]
    assert world.nexus.event("SourcePublished").address == world.nexus


def test_it_keeps_what_the_client_asks_for_with_the_time_of_the_chain(world: World) -> None:
    source = world.source(imageEnvironments=NVIDIA, minPayment=7)
    expected = (*world.source_params(imageEnvironments=NVIDIA, minPayment=7)[:-1], now())
    assert tuple(source.getSourceParams()) == expected
    assert tuple(source.sourceParams()) == expected


def test_it_counts_sources_and_clients(world: World) -> None:
    first, second, third = world.source(), world.source(), world.source(client=world.charlie)
    nexus = world.nexus
    assert nexus.getSourceCount() == 3
    assert [nexus.getSourceId(each) for each in (first, second, third)] == [1, 2, 3]
    assert nexus.getSourceId(world.bob) == nexus.sourceId(world.bob) == 0
    assert nexus.getSources(0, 1000) == [first, second, third]
    assert nexus.getSources(1, 1) == [second]
    assert (nexus.sources(2), nexus.sourcesOf(world.alice, 1)) == (third, second)
    assert (nexus.clients(0), nexus.clients(1)) == (world.alice, world.charlie)
    assert nexus.activeSourceCountOf(world.alice) == nexus.getActiveSourceCount(world.alice) == 2


def test_an_agent_publishes_for_its_client(world: World) -> None:
    world.terminal.setAgent(world.charlie, True, sender=world.alice)
    assert world.source(sender=world.charlie).owner() == world.alice


def test_nobody_else_publishes_in_the_name_of_a_client(world: World) -> None:
    with refused("NotOwner"):
        world.source(sender=world.charlie)


def test_an_agent_that_was_dismissed_does_not(world: World) -> None:
    world.terminal.setAgent(world.charlie, True, sender=world.alice)
    world.terminal.setAgent(world.charlie, False, sender=world.alice)
    with refused("NotOwner"):
        world.source(sender=world.charlie)


def test_it_refuses_a_delivery_method_that_there_is_not(world: World) -> None:
    # The error of a constructor is passed on.
    with refused("InvalidDeliveryMethod"):
        world.source(deliveryMethod=2)


@pytest.mark.parametrize("environments", [0, CPU])
def test_a_source_may_name_no_environment(world: World, environments: int) -> None:
    assert world.source(imageEnvironments=environments).getSourceParams()[2] == environments


def test_texts_have_a_longest_length(world: World) -> None:
    assert world.source(imageMetadataUrl="u" * 1024).getSourceParams()[1] == "u" * 1024
    with pytest.raises(Refused):
        world.source(imageMetadataUrl="u" * 1025)


def test_a_source_cannot_be_changed_but_through_the_nexus(world: World, source: Contract) -> None:
    for change in (
        lambda: source.setSourceParams(world.source_params(), sender=world.alice),
        lambda: source.register(world.bob, CPU, sender=world.bob),
        lambda: source.unregister(world.bob, sender=world.bob),
        lambda: source.publishTask(world.bob, sender=world.alice),
    ):
        with refused("NotNexus"):
            change()
