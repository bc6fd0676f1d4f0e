"""Controller.publishTask"""

import pytest

from tests.chain.contracts.evm import NOBODY, Contract, Refused, refused
from tests.chain.contracts.world import COIN, CONTROLLER, DAY, FIRST_RESPONSE, HOUR, NEW, World, now


def test_it_creates_a_task_and_freezes_its_payment(world: World, source: Contract) -> None:
    world.vault.deposit(world.alice, sender=world.alice, value=8 * COIN)
    params = world.task_params(source)
    world.controller.publishTask(params, sender=world.alice)
    event = world.controller.event("TaskPublished")
    task = Contract("Task", event["task"])
    assert (event.address, event["source"]) == (world.nexus, source)
    assert task.getStatus() == task.status() == NEW
    assert tuple(task.taskParams()) == params
    assert (task.getSource(), task.getPayment(), task.getExpiryTime()) == (source, 5 * COIN, now() + HOUR)
    assert task.owner() == world.nexus
    assert (task.getAttemptCount(), task.winningProvider()) == (0, NOBODY)
    assert world.controller.clientOf(task) == world.vault.payerOf(task) == world.alice
    assert world.vault.balanceOf(world.alice) == 3 * COIN
    assert world.vault.frozenPayment(world.alice) == world.vault.frozenFor(task) == 5 * COIN
    assert world.controller.event("PaymentFrozen").arguments == {
        "client": world.alice,
        "task": task.address,
        "amount": 5 * COIN,
    }


def test_a_source_lists_its_tasks(world: World, source: Contract) -> None:
    tasks = [world.task(source).address for _ in range(3)]
    assert source.getTaskCount() == 3
    assert source.getTasks(0, 99) == tasks
    assert source.getTasks(2, 2) == [tasks[2]]
    assert source.tasks(1) == tasks[1]


def test_the_delivery_method_is_that_of_the_source(world: World) -> None:
    task = world.task(world.source(deliveryMethod=FIRST_RESPONSE))
    assert task.getDeliveryMethod() == task.deliveryMethod() == FIRST_RESPONSE


def test_whoever_publishes_is_the_client_and_pays(world: World, source: Contract) -> None:
    task = world.task(source, client=world.charlie)
    assert world.controller.clientOf(task) == world.charlie
    assert world.vault.frozenPayment(world.alice) == 0


def test_a_task_may_be_free_where_its_source_allows(world: World) -> None:
    task = world.task(world.source(minPayment=0), payment=0)
    assert world.controller.clientOf(task) == world.alice


def test_what_was_not_deposited_cannot_be_promised(world: World, source: Contract) -> None:
    world.vault.deposit(world.alice, sender=world.alice, value=5 * COIN - 1)
    with refused("InsufficientBalance"):
        world.controller.publishTask(world.task_params(source), sender=world.alice)


def test_it_pays_at_least_what_the_source_asks_for(world: World, source: Contract) -> None:
    with refused("PaymentTooLow"):
        world.task(source, payment=COIN - 1)
    world.task(source, payment=COIN)


@pytest.mark.parametrize("seconds", [0, -1])
def test_its_time_lies_ahead(world: World, source: Contract, seconds: int) -> None:
    with refused("Expired"):
        world.task(source, expiryTime=now() + seconds)


def test_it_lasts_at_most_as_long_as_the_source_allows(world: World, source: Contract) -> None:
    with refused("ExpiryTooLong"):
        world.task(source, expiryTime=now() + DAY + 1)
    world.task(source, expiryTime=now() + DAY)
    world.task(world.source(maxExpiryDuration=0), expiryTime=2**256 - 1)


@pytest.mark.parametrize("address", [NOBODY, "0x" + "11" * 20])
def test_what_is_no_source_is_refused(world: World, source: Contract, address: str) -> None:
    params = (address, *world.task_params(source)[1:])
    with refused("UnknownSource"):
        world.controller.publishTask(params, sender=world.alice)


def test_it_takes_no_coins(world: World, source: Contract) -> None:
    with pytest.raises(Refused):
        world.controller.publishTask(world.task_params(source), sender=world.alice, value=1)


def test_only_a_controller_enters_a_task_and_only_once(world: World, source: Contract) -> None:
    task = world.task(source)
    with refused("NotController"):
        world.nexus.emitTaskPublished(task, source, sender=world.alice)
    world.manager.grantRole(CONTROLLER, world.charlie, sender=world.deployer)
    with refused("AlreadyPublished"):
        world.nexus.emitTaskPublished(task, source, sender=world.charlie)
    with refused("UnknownSource"):
        world.nexus.emitTaskPublished(world.bob, world.bob, sender=world.charlie)


def test_a_paused_vault_stops_new_tasks(world: World, source: Contract) -> None:
    world.vault.deposit(world.alice, sender=world.alice, value=5 * COIN)
    world.vault.pause(sender=world.deployer)
    with refused("Paused"):
        world.controller.publishTask(world.task_params(source), sender=world.alice)
