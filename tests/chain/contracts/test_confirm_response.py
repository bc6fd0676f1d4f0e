"""Controller.confirmResponse and Nexus.setResponseStatus"""

import pytest

from tests.chain.contracts.evm import Contract, refused
from tests.chain.contracts.world import (
    COIN,
    CONFIRMED,
    CONTROLLER,
    FINALIZED,
    HOUR,
    SUBMITTED,
    World,
    wait,
)


@pytest.fixture
def task(world: World, source: Contract) -> Contract:
    return world.attempted(source)


@pytest.fixture
def response(world: World, task: Contract) -> Contract:
    return world.respond(task)


def test_the_client_accepts_and_the_provider_is_paid_what_it_asked_for(
    world: World, task: Contract, response: Contract
) -> None:
    world.controller.confirmResponse(response, sender=world.alice)
    assert response.confirmedFinal() is True
    assert (response.getStatus(), task.getStatus()) == (CONFIRMED, FINALIZED)
    assert task.winningProvider() == world.bob
    assert world.vault.balanceOf(world.bob) == 4 * COIN
    assert world.vault.balanceOf(world.alice) == COIN
    assert world.vault.frozenPayment(world.alice) == world.vault.frozenFor(task) == 0
    assert [event.name for event in world.controller.events] == [
        "ResponseStatusChanged",
        "TaskStatusChanged",
        "PaymentProcessed",
    ]
    assert world.controller.event("PaymentProcessed").arguments == {
        "client": world.alice,
        "provider": world.bob,
        "beneficiary": world.bob,
        "task": task.address,
        "amount": 4 * COIN,
    }


def test_the_master_of_the_provider_earns(world: World, response: Contract) -> None:
    world.pair(world.bob, world.mary)
    world.controller.confirmResponse(response, sender=world.alice)
    assert (world.vault.balanceOf(world.mary), world.vault.balanceOf(world.bob)) == (4 * COIN, 0)
    assert world.vault.totalEarningsOf(world.mary) == world.vault.totalEarningsOf(world.bob) == 4 * COIN


def test_a_provider_that_is_its_own_master_earns_once(world: World, response: Contract) -> None:
    world.pair(world.bob, world.bob)
    world.controller.confirmResponse(response, sender=world.alice)
    assert world.vault.balanceOf(world.bob) == world.vault.totalEarningsOf(world.bob) == 4 * COIN


def test_an_agent_confirms_for_its_client(world: World, response: Contract) -> None:
    world.terminal.setAgent(world.charlie, True, sender=world.alice)
    world.controller.confirmResponse(response, sender=world.charlie)
    assert response.confirmedFinal()


@pytest.mark.parametrize("who", ["bob", "charlie", "deployer", "judge"])
def test_nobody_else_does(world: World, response: Contract, who: str) -> None:
    with refused("NotOwner"):
        world.controller.confirmResponse(response, sender=getattr(world, who))
    with refused("NotController"):
        world.nexus.setResponseStatus(response, CONFIRMED, sender=getattr(world, who))


def test_the_client_of_the_source_is_not_the_client_of_every_task(world: World, source: Contract) -> None:
    world.register(source, world.bob)
    task = world.task(source, client=world.charlie)
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    response = world.respond(task)
    with refused("NotOwner"):
        world.controller.confirmResponse(response, sender=world.alice)
    world.controller.confirmResponse(response, sender=world.charlie)


def test_it_happens_once(world: World, source: Contract, task: Contract, response: Contract) -> None:
    world.register(source, world.charlie)
    world.nexus.attempt(task, world.charlie, 0, sender=world.charlie)
    other = world.respond(task, world.charlie)
    world.controller.confirmResponse(response, sender=world.alice)
    with refused("AlreadyConfirmed"):
        world.controller.confirmResponse(response, sender=world.alice)
    with refused("AlreadyFinalized"):
        world.controller.confirmResponse(other, sender=world.alice)
    assert world.vault.balanceOf(world.charlie) == 0


def test_a_response_that_was_in_time_may_be_confirmed_later(world: World, response: Contract) -> None:
    wait(100 * HOUR)
    world.controller.confirmResponse(response, sender=world.alice)
    assert world.vault.balanceOf(world.bob) == 4 * COIN


def test_not_after_the_client_took_its_payment_back(world: World, task: Contract, response: Contract) -> None:
    wait(HOUR)
    world.controller.cancelTask(task, sender=world.alice)
    with refused("Expired"):
        world.controller.confirmResponse(response, sender=world.alice)


def test_not_after_a_judge_gave_it_back(world: World, task: Contract, response: Contract) -> None:
    world.vault.forceReleasePayment(world.alice, task, sender=world.judge)
    with refused("PaymentNotFrozen"):
        world.controller.confirmResponse(response, sender=world.alice)


def test_what_is_no_response_is_refused(world: World, task: Contract) -> None:
    for address in (task, world.bob):
        with refused("UnknownResponse"):
            world.controller.confirmResponse(address, sender=world.alice)


def test_a_controller_can_only_confirm(world: World, response: Contract) -> None:
    world.manager.grantRole(CONTROLLER, world.charlie, sender=world.deployer)
    with refused("InvalidStatus"):
        world.nexus.setResponseStatus(response, SUBMITTED, sender=world.charlie)
    with refused("UnknownResponse"):
        world.nexus.setResponseStatus(world.bob, CONFIRMED, sender=world.charlie)
    world.nexus.setResponseStatus(response, CONFIRMED, sender=world.charlie)
    with refused("AlreadyConfirmed"):
        world.nexus.setResponseStatus(response, CONFIRMED, sender=world.charlie)


def test_a_paused_vault_still_pays(world: World, response: Contract) -> None:
    world.vault.pause(sender=world.deployer)
    world.controller.confirmResponse(response, sender=world.alice)
    assert world.vault.balanceOf(world.bob) == 4 * COIN
