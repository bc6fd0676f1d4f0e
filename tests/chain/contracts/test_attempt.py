"""Nexus.attempt"""

import pytest

from tests.chain.contracts.evm import Contract, refused
from tests.chain.contracts.world import (
    ATTEMPTED,
    COIN,
    EXPIRED,
    HOUR,
    MIN_LOCKUP,
    RESPONDED,
    World,
    now,
    person,
    wait,
)


@pytest.fixture
def task(world: World, source: Contract) -> Contract:
    world.register(source, world.bob)
    return world.task(source)


def test_a_registered_provider_takes_up_a_task(world: World, task: Contract) -> None:
    world.nexus.attempt(task, world.bob, 3 * COIN, sender=world.bob)
    assert task.getStatus() == ATTEMPTED
    assert task.getAttemptCount() == 1
    assert (task.getAttempterId(world.bob), task.attempterId(world.bob)) == (1, 1)
    assert task.getAttempters(0, 0) == [world.bob]
    assert task.getAttemptTimestamps(0, 9) == [now()] == [task.attemptTimestamps(0)]
    assert [event.name for event in world.nexus.events] == ["Attempted", "TaskStatusChanged"]
    assert world.nexus.event("Attempted").arguments == {
        "task": task.address,
        "provider": world.bob,
        "suggestedPayment": 3 * COIN,
    }
    assert world.nexus.event("TaskStatusChanged")["status"] == ATTEMPTED


def test_several_may(world: World, source: Contract, task: Contract) -> None:
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    wait(5)
    world.register(source, world.charlie)
    world.nexus.attempt(task, world.charlie, 2**256 - 1, sender=world.charlie)
    assert task.getAttempters(0, 1000) == [world.bob, world.charlie]
    assert task.getAttemptTimestamps(1, 1) == [now()]
    assert [event.name for event in world.nexus.events] == ["Attempted"]


def test_its_master_and_the_agent_of_its_master_attempt_for_it(world: World, source: Contract) -> None:
    world.pair(world.bob, world.mary, MIN_LOCKUP)
    world.terminal.setAgent(world.charlie, True, sender=world.mary)
    world.nexus.register(source, world.bob, 1, sender=world.mary)
    for sender in (world.mary, world.charlie):
        world.nexus.attempt(world.task(source), world.bob, 0, sender=sender)


@pytest.mark.parametrize("who", ["alice", "mary", "charlie"])
def test_nobody_else_does(world: World, task: Contract, who: str) -> None:
    with refused("NotProvider"):
        world.nexus.attempt(task, world.bob, 0, sender=getattr(world, who))


def test_it_happens_once(world: World, task: Contract) -> None:
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    with refused("AlreadyAttempted"):
        world.nexus.attempt(task, world.bob, 0, sender=world.bob)


def test_who_is_not_registered_cannot(world: World, source: Contract, task: Contract) -> None:
    with refused("NotRegistered"):
        world.nexus.attempt(task, world.charlie, 0, sender=world.charlie)
    world.nexus.unregister(source, world.bob, sender=world.bob)
    with refused("NotRegistered"):
        world.nexus.attempt(task, world.bob, 0, sender=world.bob)


def test_whose_stake_was_taken_cannot(world: World, task: Contract) -> None:
    world.vault.sanction(world.bob, 1, sender=world.judge)
    with refused("NotEligible"):
        world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    world.vault.waive(world.bob, 1, sender=world.judge)
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)


def test_what_is_no_task_is_refused(world: World, source: Contract) -> None:
    for address in (source, world.charlie):
        with refused("UnknownTask"):
            world.nexus.attempt(address, world.bob, 0, sender=world.bob)


def test_a_task_whose_time_has_passed_expires_and_refunds(world: World, task: Contract) -> None:
    wait(HOUR)
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    assert task.getStatus() == EXPIRED
    assert task.getAttemptCount() == 0
    assert world.vault.balanceOf(world.alice) == 5 * COIN
    assert world.vault.frozenPayment(world.alice) == 0
    assert [event.name for event in world.nexus.events] == ["TaskStatusChanged", "PaymentReleased"]
    with refused("Expired"):
        world.nexus.attempt(task, world.bob, 0, sender=world.bob)


def test_the_last_second_is_early_enough(world: World, task: Contract) -> None:
    wait(HOUR - 1)
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    assert task.getStatus() == ATTEMPTED


def test_a_late_attempt_leaves_responses_to_the_client(
    world: World, source: Contract, task: Contract
) -> None:
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    world.respond(task)
    world.register(source, world.charlie)
    wait(HOUR)
    with refused("Expired"):
        world.nexus.attempt(task, world.charlie, 0, sender=world.charlie)
    assert task.getStatus() == RESPONDED


def test_a_task_that_is_final_or_canceled_is_refused(world: World, source: Contract, task: Contract) -> None:
    world.nexus.attempt(task, world.bob, 0, sender=world.bob)
    world.controller.confirmResponse(world.respond(task), sender=world.alice)
    canceled = world.task(source)
    world.controller.cancelTask(canceled, sender=world.alice)
    for ended in (task, canceled):
        with refused("AlreadyFinalized"):
            world.nexus.attempt(ended, world.bob, 0, sender=world.bob)


def test_nobody_attempts_at_the_task_itself(world: World, task: Contract) -> None:
    for sender in (world.alice, world.bob, world.deployer):
        with refused("OwnableUnauthorizedAccount"):
            task.attempt(world.bob, sender=sender)


def test_pages_of_attempters_include_both_ends_and_end_with_the_list(
    world: World, source: Contract, task: Contract
) -> None:
    providers = [person(f"provider {i}") for i in range(4)]
    for provider in providers:
        world.register(source, provider)
        world.nexus.attempt(task, provider, 0, sender=provider)
    response = world.respond(task, providers[2])
    nobody = "0x" + "00" * 20
    assert task.getAttempters(1, 2) == providers[1:3]
    assert task.getAttempters(3, 2) == task.getAttempters(4, 9) == []
    assert task.getResponsesOf(0, 1000) == [nobody, nobody, response.address, nobody]
    assert task.getResponsesOf(2, 2) == [response.address]
    assert task.getResponsesOf(0, 2**256 - 1) == task.getResponsesOf(0, 3)
    assert task.getResponsesOf(2**256 - 1, 2**256 - 1) == []
    assert len(task.getAttemptTimestamps(0, 2**256 - 1)) == 4
