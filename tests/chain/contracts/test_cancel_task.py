"""Controller.cancelTask, Nexus.expireTask and Nexus.setTaskStatus: a task ends without a result."""

import pytest

from tests.chain.contracts.evm import Contract, refused
from tests.chain.contracts.world import (
    ATTEMPTED,
    CANCELED,
    COIN,
    CONTROLLER,
    EXPIRED,
    FINALIZED,
    HOUR,
    NEW,
    RESPONDED,
    World,
    wait,
)


def refunded(world: World, task: Contract) -> bool:
    vault = world.vault
    return (vault.balanceOf(world.alice), vault.frozenPayment(world.alice), vault.frozenFor(task)) == (
        5 * COIN,
        0,
        0,
    )


def test_the_client_takes_back_a_task_that_nobody_has_attempted(world: World, source: Contract) -> None:
    task = world.task(source)
    world.controller.cancelTask(task, sender=world.alice)
    assert task.getStatus() == CANCELED
    assert refunded(world, task)
    assert [event.name for event in world.controller.events] == ["TaskStatusChanged", "PaymentReleased"]


def test_an_agent_cancels_for_its_client(world: World, source: Contract) -> None:
    world.terminal.setAgent(world.charlie, True, sender=world.alice)
    task = world.task(source)
    world.controller.cancelTask(task, sender=world.charlie)
    assert refunded(world, task)


@pytest.mark.parametrize("who", ["bob", "charlie", "deployer"])
def test_nobody_else_does(world: World, source: Contract, who: str) -> None:
    with refused("NotOwner"):
        world.controller.cancelTask(world.task(source), sender=getattr(world, who))


def test_an_attempted_task_cannot_be_canceled_before_its_time(world: World, source: Contract) -> None:
    task = world.attempted(source)
    with refused("AlreadyFinalized"):
        world.controller.cancelTask(task, sender=world.alice)
    world.respond(task)
    with refused("AlreadyFinalized"):
        world.controller.cancelTask(task, sender=world.alice)


@pytest.mark.parametrize("responded", [False, True])
def test_after_its_time_the_client_takes_back_any_open_task(
    world: World, source: Contract, responded: bool
) -> None:
    task = world.attempted(source)
    if responded:
        world.respond(task)
    wait(HOUR)
    world.controller.cancelTask(task, sender=world.alice)
    assert task.getStatus() == EXPIRED
    assert refunded(world, task)


def test_what_has_ended_stays_as_it_is(world: World, source: Contract) -> None:
    canceled, expired, final = world.task(source), world.task(source), world.attempted(source)
    world.controller.cancelTask(canceled, sender=world.alice)
    world.controller.confirmResponse(world.respond(final), sender=world.alice)
    with refused("AlreadyFinalized"):
        world.controller.cancelTask(final, sender=world.alice)
    wait(HOUR)
    world.nexus.expireTask(expired, sender=world.charlie)
    for task, reason, status in (
        (canceled, "AlreadyFinalized", CANCELED),
        (expired, "Expired", EXPIRED),
        (final, "AlreadyFinalized", FINALIZED),
    ):
        with refused(reason):
            world.controller.cancelTask(task, sender=world.alice)
        with refused(reason):
            world.nexus.expireTask(task, sender=world.alice)
        assert task.getStatus() == status


def test_what_is_no_task_is_refused(world: World, source: Contract) -> None:
    with refused("UnknownTask"):
        world.controller.cancelTask(source, sender=world.alice)
    with refused("UnknownTask"):
        world.nexus.expireTask(source, sender=world.alice)


@pytest.mark.parametrize("attempted", [False, True])
def test_anybody_expires_a_task_without_responses(world: World, source: Contract, attempted: bool) -> None:
    task = world.attempted(source) if attempted else world.task(source)
    with refused("NotDue"):
        world.nexus.expireTask(task, sender=world.charlie)
    assert task.getStatus() == (ATTEMPTED if attempted else NEW)
    wait(HOUR)
    world.nexus.expireTask(task, sender=world.charlie)
    assert task.getStatus() == EXPIRED
    assert refunded(world, task)
    assert world.vault.balanceOf(world.charlie) == 0


def test_only_the_client_expires_a_task_with_responses(world: World, source: Contract) -> None:
    task = world.attempted(source)
    world.respond(task)
    wait(HOUR)
    for stranger in (world.bob, world.charlie):
        with refused("NotOwner"):
            world.nexus.expireTask(task, sender=stranger)
    assert task.getStatus() == RESPONDED
    world.nexus.expireTask(task, sender=world.alice)
    assert refunded(world, task)


def test_a_controller_ends_tasks_and_their_clients_are_refunded(world: World, source: Contract) -> None:
    task = world.attempted(source)
    with refused("NotController"):
        world.nexus.setTaskStatus(task, CANCELED, sender=world.charlie)
    world.manager.grantRole(CONTROLLER, world.charlie, sender=world.deployer)
    with refused("NotDue"):
        world.nexus.setTaskStatus(task, EXPIRED, sender=world.charlie)
    for status in (NEW, ATTEMPTED, RESPONDED, FINALIZED, 255):
        with refused("InvalidStatus"):
            world.nexus.setTaskStatus(task, status, sender=world.charlie)
    with refused("UnknownTask"):
        world.nexus.setTaskStatus(source, CANCELED, sender=world.charlie)
    world.nexus.setTaskStatus(task, CANCELED, sender=world.charlie)
    assert refunded(world, task)


def test_a_task_can_end_after_a_judge_gave_its_payment_back(world: World, source: Contract) -> None:
    task = world.task(source)
    world.vault.forceReleasePayment(world.alice, task, sender=world.judge)
    world.controller.cancelTask(task, sender=world.alice)
    assert refunded(world, task)


def test_a_paused_vault_still_refunds(world: World, source: Contract) -> None:
    task = world.task(source)
    world.vault.pause(sender=world.deployer)
    world.controller.cancelTask(task, sender=world.alice)
    assert refunded(world, task)
