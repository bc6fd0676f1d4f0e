"""Nexus.submitResponse"""

import pytest
from eth_abi import encode
from eth_utils import keccak

from tests.chain.contracts.evm import NOBODY, Contract, Refused, refused
from tests.chain.contracts.world import (
    COIN,
    CONFIRMED,
    FINALIZED,
    FIRST_RESPONSE,
    HOUR,
    MIN_LOCKUP,
    RESPONDED,
    SUBMITTED,
    World,
    now,
    wait,
)


@pytest.fixture
def task(world: World, source: Contract) -> Contract:
    return world.attempted(source)


def test_it_creates_a_response(world: World, task: Contract) -> None:
    response = world.respond(task)
    expected = (task.address, world.bob, '{"answer":42}', 4 * COIN)
    assert tuple(response.getResponseParams()) == tuple(response.responseParams()) == expected
    assert response.getStatus() == response.status() == SUBMITTED
    assert response.responseTimestamp() == now()
    assert response.confirmedFinal() is False
    assert response.owner() == world.nexus
    assert task.getStatus() == RESPONDED
    assert task.responseOf(world.bob) == response
    assert task.winningProvider() == NOBODY
    names = [event.name for event in world.nexus.events]
    assert names == ["OwnershipTransferred", "ResponseSubmitted", "TaskStatusChanged"]
    assert world.vault.balanceOf(world.bob) == 0


def test_the_task_remembers_the_hash_of_what_was_submitted(world: World, task: Contract) -> None:
    world.respond(task, data="forty-two")
    types = "(address,address,string,uint256)"
    digest = keccak(encode([types], [(task.address, world.bob, "forty-two", 4 * COIN)]))
    assert task.isAlreadySubmitted(digest) is True
    assert task.isAlreadySubmitted(keccak(b"other")) is False


def test_its_master_and_the_agent_of_its_master_submit_for_it(world: World, source: Contract) -> None:
    world.pair(world.bob, world.mary, MIN_LOCKUP)
    world.terminal.setAgent(world.charlie, True, sender=world.mary)
    world.nexus.register(source, world.bob, 1, sender=world.mary)
    for sender in (world.mary, world.charlie):
        task = world.attempted(source)
        world.nexus.submitResponse((task.address, world.bob, "", 0), sender=sender)
        assert task.getStatus() == RESPONDED


@pytest.mark.parametrize("who", ["alice", "mary", "charlie"])
def test_nobody_else_does(world: World, task: Contract, who: str) -> None:
    with refused("NotProvider"):
        world.nexus.submitResponse((task.address, world.bob, "", 0), sender=getattr(world, who))


def test_who_has_not_attempted_cannot(world: World, source: Contract, task: Contract) -> None:
    world.register(source, world.charlie)
    with refused("NotAttempted"):
        world.respond(task, world.charlie)


def test_there_is_one_response_of_each_provider(world: World, source: Contract, task: Contract) -> None:
    world.respond(task)
    with refused("AlreadySubmitted"):
        world.respond(task, data="better")
    world.register(source, world.charlie)
    world.nexus.attempt(task, world.charlie, 0, sender=world.charlie)
    world.respond(task, world.charlie)
    assert "TaskStatusChanged" not in [event.name for event in world.nexus.events]


def test_two_providers_may_give_the_same_answer(world: World, source: Contract, task: Contract) -> None:
    world.register(source, world.charlie)
    world.nexus.attempt(task, world.charlie, 0, sender=world.charlie)
    first, second = world.respond(task), world.respond(task, world.charlie)
    assert task.getResponsesOf(0, 1) == [first.address, second.address]


def test_it_asks_for_no_more_than_the_task_offers(world: World, task: Contract) -> None:
    with refused("PaymentTooHigh"):
        world.respond(task, payment=5 * COIN + 1)
    world.respond(task, payment=5 * COIN)


def test_it_is_in_time(world: World, task: Contract) -> None:
    wait(HOUR)
    with refused("Expired"):
        world.respond(task)


def test_a_provider_that_has_left_the_source_still_answers(
    world: World, source: Contract, task: Contract
) -> None:
    world.nexus.unregister(source, world.bob, sender=world.bob)
    world.respond(task)


def test_a_task_that_is_final_takes_no_more(world: World, source: Contract, task: Contract) -> None:
    world.register(source, world.charlie)
    world.nexus.attempt(task, world.charlie, 0, sender=world.charlie)
    world.controller.confirmResponse(world.respond(task), sender=world.alice)
    with refused("AlreadyFinalized"):
        world.respond(task, world.charlie)


def test_what_is_no_task_is_refused(world: World) -> None:
    with refused("UnknownTask"):
        world.nexus.submitResponse((world.charlie, world.bob, "", 0), sender=world.bob)


def test_an_answer_has_a_longest_length(world: World, task: Contract) -> None:
    with pytest.raises(Refused):
        world.respond(task, data="x" * 8193)
    assert world.respond(task, data="x" * 8192).getResponseParams()[2] == "x" * 8192


def test_the_first_response_is_confirmed_and_paid_at_once(world: World) -> None:
    source = world.source(deliveryMethod=FIRST_RESPONSE)
    task = world.attempted(source)
    world.register(source, world.charlie)
    world.nexus.attempt(task, world.charlie, 0, sender=world.charlie)
    response = world.respond(task)
    assert response.confirmedFinal() is True
    assert response.getStatus() == CONFIRMED
    assert task.getStatus() == FINALIZED
    assert task.winningProvider() == world.bob
    assert world.vault.balanceOf(world.bob) == world.vault.totalEarningsOf(world.bob) == 4 * COIN
    assert world.vault.balanceOf(world.alice) == COIN
    assert world.vault.frozenPayment(world.alice) == 0
    assert [(event.name, event.arguments.get("status")) for event in world.nexus.events] == [
        ("OwnershipTransferred", None),
        ("ResponseSubmitted", None),
        ("TaskStatusChanged", RESPONDED),
        ("ResponseStatusChanged", CONFIRMED),
        ("TaskStatusChanged", FINALIZED),
        ("PaymentProcessed", None),
    ]
    with refused("AlreadyFinalized"):
        world.respond(task, world.charlie)
    with refused("AlreadyConfirmed"):
        world.controller.confirmResponse(response, sender=world.alice)


def test_nobody_changes_a_task_or_a_response_directly(world: World, task: Contract) -> None:
    response = world.respond(task)
    for sender in (world.alice, world.bob, world.deployer, world.judge):
        for change in (
            lambda sender=sender: task.submitResponse(response, world.bob, sender=sender),
            lambda sender=sender: task.setStatus(4, sender=sender),
            lambda sender=sender: task.finalize(world.bob, sender=sender),
            lambda sender=sender: response.confirm(sender=sender),
            lambda sender=sender: response.setStatus(1, sender=sender),
            lambda sender=sender: response.transferOwnership(sender, sender=sender),
        ):
            with refused("OwnableUnauthorizedAccount"):
                change()
    with refused("InvalidStatus"):
        response.setStatus(0, sender=world.alice)
