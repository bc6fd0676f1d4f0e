"""Reading real blocks with our contracts' real events: the life of a task, and a reorganisation of five blocks."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from chain import indexer, networks
from chain.models import (
    Attempt,
    Deposit,
    DepositStatus,
    Log,
    Network,
    Reorganisation,
    Response,
    ResponseStatus,
    Source,
    Task,
    TaskStatus,
)
from marketplace.money import TOKEN
from tests.chain.indexed import rows
from tests.chain.network import Network as Devnet

pytestmark = pytest.mark.django_db


class Story:
    """alice publishes and pays, bob answers."""

    def __init__(self, devnet: Devnet) -> None:
        self.devnet, self.nexus = devnet, devnet.contract("NEXUS").functions
        self.controller = devnet.contract("CONTROLLER").functions
        self.alice, self.bob = devnet.alice, devnet.bob
        self.source = self.task = self.response = ""

    def publish_source(self, url: str = "ipfs://source", method: int = 0) -> None:
        self.devnet.transact(self.alice, self.nexus.publishSource(self.params(url, method)), gas=3_000_000)
        self.source = self.nexus.getSources(0, 1000).call()[-1]
        self.devnet.transact(self.bob, self.nexus.register(self.source, self.bob.address, 1), gas=500_000)

    def params(self, url: str, method: int = 0) -> tuple[Any, ...]:
        return (self.alice.address, url, 3, 10**15, 0, 86400, False, "", method, 0)

    def publish_task(self) -> None:
        vault = self.devnet.contract("VAULT").functions
        self.devnet.transact(self.alice, vault.deposit(self.alice.address), TOKEN, gas=300_000)
        expiry = self.devnet.w3.eth.get_block("latest")["timestamp"] + 3600
        params = (self.source, "ipfs://task", expiry, 10**17)
        self.devnet.transact(self.alice, self.controller.publishTask(params), gas=3_000_000)
        contract = self.devnet.contract("SOURCE", self.source)
        self.task = contract.functions.getTasks(0, 1000).call()[-1]

    def attempt(self) -> None:
        self.devnet.transact(self.bob, self.nexus.attempt(self.task, self.bob.address, 5), gas=500_000)

    def answer(self) -> None:
        values = (self.task, self.bob.address, "ipfs://answer", 10**17)
        self.devnet.transact(self.bob, self.nexus.submitResponse(values), gas=3_000_000)
        self.response = self.devnet.contract("TASK", self.task).functions.responseOf(self.bob.address).call()

    def confirm(self) -> None:
        self.devnet.transact(self.alice, self.controller.confirmResponse(self.response), gas=1_000_000)

    def deposit(self, amount: int) -> None:
        treasury = self.devnet.contract("TREASURY").functions
        self.devnet.transact(self.bob, treasury.deposit(7), amount, gas=300_000)


@pytest.fixture
def story(devnet: Devnet) -> Story:
    return Story(devnet)


@pytest.fixture
def network(devnet: Devnet, settings: Any) -> Network:
    settings.CHAIN_NETWORKS, settings.CHAIN_RPC_URL = [str(devnet.manifest_path)], ""
    indexer._paces.clear()
    return networks.default()


def follow(network: Network) -> int:
    read = indexer.follow(network, now=datetime.now(UTC) + timedelta(minutes=1))
    assert not Network.objects.get(pk=network.pk).failure
    return read


def read_afresh(network: Network) -> dict[str, Any]:
    with transaction.atomic():
        Network.objects.filter(pk=network.pk).update(chain_id=1, name="before")
        fresh = networks.default()
        assert fresh.pk != network.pk
        follow(fresh)
        found = rows(fresh)
        transaction.set_rollback(True)
    return found


def test_the_life_of_a_task_is_read(story: Story, network: Network) -> None:
    story.publish_source()
    story.publish_task()
    story.attempt()
    story.answer()
    follow(network)
    source, task = Source.objects.get(), Task.objects.get()
    assert (source.address, source.client, source.metadata_url) == (
        story.source,
        story.alice.address,
        "ipfs://source",
    )
    assert (source.environments, source.max_expiry_duration, source.delivery_method) == (3, 86400, 0)
    assert (task.address, task.source, task.payment) == (story.task, source, 10**17)
    assert (task.config_url, task.status) == ("ipfs://task", TaskStatus.RESPONDED)
    assert Attempt.objects.get().suggested_payment == 5
    response = Response.objects.get()
    assert (response.address, response.provider, response.data) == (
        story.response,
        story.bob.address,
        "ipfs://answer",
    )
    assert response.status == ResponseStatus.SUBMITTED
    story.confirm()
    nexus, alice = story.nexus, story.alice
    story.devnet.transact(
        alice, nexus.updateSource(story.source, story.params("ipfs://source2")), gas=1_000_000
    )
    story.devnet.transact(alice, nexus.inactivateSource(story.source), gas=500_000)
    follow(network)
    assert Task.objects.get().status == TaskStatus.FINALIZED
    assert Response.objects.get().status == ResponseStatus.CONFIRMED
    assert (Source.objects.get().metadata_url, Source.objects.get().status) == ("ipfs://source2", 1)
    assert {"Deposited", "Registered", "SourceUpdated"} <= set(Log.objects.values_list("name", flat=True))
    assert rows(network) == read_afresh(network)


@pytest.mark.parametrize("window", [1, 4, 500])
def test_five_blocks_across_a_deposit_and_a_response_are_replaced(
    story: Story, network: Network, settings: Any, window: int
) -> None:
    settings.CHAIN_WINDOW_BLOCKS = window
    devnet = story.devnet
    story.publish_source()
    story.publish_task()
    before = devnet.snapshot()
    story.attempt()
    story.answer()
    story.confirm()
    story.deposit(3 * TOKEN)
    devnet.mine()
    follow(network)
    assert (Response.objects.get().status, Deposit.objects.get().amount) == (1, 3 * TOKEN)
    devnet.revert(before)
    devnet.mine(2)
    story.attempt()
    story.deposit(TOKEN)
    devnet.mine(3)
    follow(network)
    noted = Reorganisation.objects.get()
    assert noted.depth == 5
    assert not Response.objects.exists()
    assert Task.objects.get().status == TaskStatus.ATTEMPTED
    assert rows(network) == read_afresh(network)
    assert [(found.amount, found.status) for found in Deposit.objects.all()] == [(TOKEN, DepositStatus.SEEN)]
    story.answer()
    story.confirm()
    follow(network)
    assert Response.objects.get().status == ResponseStatus.CONFIRMED
    assert rows(network) == read_afresh(network)


def test_the_newest_blocks_are_replaced_while_nobody_looks(story: Story, network: Network) -> None:
    story.publish_source()
    story.publish_task()
    follow(network)
    story.attempt()
    story.devnet.mine(4)
    follow(network)
    story.devnet.reorganise(5)
    follow(network)
    assert Reorganisation.objects.get().depth == 5
    assert not Attempt.objects.exists()
    assert rows(network) == read_afresh(network)


def test_a_chain_with_many_blocks_is_caught_up_with_quickly(story: Story, network: Network) -> None:
    story.publish_source()
    for _ in range(30):
        story.publish_task()
    story.devnet.mine(400)
    began = time.monotonic()
    follow(network)
    assert network.lag == 0
    assert Task.objects.count() == 30
    assert time.monotonic() - began < 10
