"""A chain with all contracts on it, and the people that the tests are about."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import boa
from eth_utils import keccak

from tests.chain.contracts.evm import NOBODY, Contract, create, create_blueprint

COIN = 10**18
HOUR, DAY, WEEK = 3600, 24 * 3600, 7 * 24 * 3600
MIN_LOCKUP = 10 * COIN

ACTIVE, INACTIVE = range(2)
NEW, ATTEMPTED, RESPONDED, CANCELED, EXPIRED, FINALIZED = range(6)
SUBMITTED, CONFIRMED = range(2)
MANUAL_CONFIRMATION, FIRST_RESPONSE = range(2)
CPU, NVIDIA, AMD = 1, 2, 4

CONTROLLER, PROVIDER, JUDGE = (keccak(text=role) for role in ("CONTROLLER", "PROVIDER", "JUDGE"))
ADMIN = bytes(32)


def person(name: str, coins: int = 1000) -> str:
    address = boa.env.generate_address(name)
    boa.env.set_balance(address, coins * COIN)
    return str(address)


def now() -> int:
    return int(boa.env.timestamp)


def wait(seconds: int) -> None:
    boa.env.timestamp += seconds


@dataclass
class World:
    """alice buys, bob provides, mary is his master, charlie is a stranger."""

    deployer: str
    judge: str
    alice: str
    bob: str
    mary: str
    charlie: str
    manager: Contract
    terminal: Contract
    nexus: Contract
    vault: Contract
    controller: Contract
    treasury: Contract
    receipts: Contract
    blueprints: SimpleNamespace = field(default_factory=SimpleNamespace)

    def source_params(self, **changes: Any) -> tuple[Any, ...]:
        values = {
            "client": self.alice,
            "imageMetadataUrl": "https://files.example/imageMetadata.json",
            "imageEnvironments": CPU | NVIDIA,
            "minPayment": COIN,
            "minAvailableLockup": 0,
            "maxExpiryDuration": DAY,
            "privacyEnabled": False,
            "optionalParamsUrl": "",
            "deliveryMethod": MANUAL_CONFIRMATION,
            "lastUpdateTime": 1,
        }
        assert set(changes) <= set(values)
        return tuple((values | changes).values())

    def source(self, *, sender: str | None = None, **changes: Any) -> Contract:
        self.nexus.publishSource(
            self.source_params(**changes), sender=sender or changes.get("client", self.alice)
        )
        return Contract("Source", self.nexus.event("SourcePublished")["source"])

    def task_params(self, source: Contract, **changes: Any) -> tuple[Any, ...]:
        values = {
            "source": source.address,
            "config": "https://files.example/taskConfig.json",
            "expiryTime": now() + HOUR,
            "payment": 5 * COIN,
        }
        assert set(changes) <= set(values)
        return tuple((values | changes).values())

    def task(self, source: Contract, *, client: str | None = None, **changes: Any) -> Contract:
        """A task whose payment was deposited just before."""
        client, params = client or self.alice, self.task_params(source, **changes)
        if params[3]:
            self.vault.deposit(client, sender=client, value=params[3])
        self.controller.publishTask(params, sender=client)
        return Contract("Task", self.controller.event("TaskPublished")["task"])

    def stake(self, provider: str, amount: int = MIN_LOCKUP) -> None:
        self.vault.deposit(provider, sender=provider, value=amount)
        self.vault.lock(amount, sender=provider)

    def register(self, source: Contract, provider: str, environment: int = CPU) -> None:
        """With a stake that suffices for one more source."""
        self.stake(provider)
        self.nexus.register(source, provider, environment, sender=provider)

    def pair(self, provider: str, master: str, amount: int = 0) -> None:
        self.terminal.announceProvider(provider, amount, sender=master, value=amount)
        self.terminal.announceMaster(master, sender=provider)

    def attempted(self, source: Contract, provider: str | None = None, **changes: Any) -> Contract:
        provider, task = provider or self.bob, self.task(source, **changes)
        if not source.registrantId(provider):
            self.register(source, provider)
        self.nexus.attempt(task, provider, 0, sender=provider)
        return task

    def respond(
        self,
        task: Contract,
        provider: str | None = None,
        *,
        payment: int = 4 * COIN,
        data: str = '{"answer":42}',
    ) -> Contract:
        provider = provider or self.bob
        self.nexus.submitResponse((task.address, provider, data, payment), sender=provider)
        return Contract("Response", self.nexus.event("ResponseSubmitted")["response"])


def create_world() -> World:
    """As `chain.contracts.deployment` does it; a test compares the two."""
    deployer = person("deployer")
    manager = create("Manager", sender=deployer)
    terminal = create("Terminal", manager, NOBODY, sender=deployer)
    nexus = create("Nexus", manager, terminal, NOBODY, sender=deployer)
    vault = create("Vault", manager, nexus, terminal, sender=deployer)
    controller = create("Controller", nexus, terminal, vault, sender=deployer)
    world = World(
        deployer=deployer,
        judge=person("judge"),
        alice=person("alice"),
        bob=person("bob"),
        mary=person("mary"),
        charlie=person("charlie"),
        manager=manager,
        terminal=terminal,
        nexus=nexus,
        vault=vault,
        controller=controller,
        treasury=create("Treasury", sender=deployer),
        receipts=create("Receipts", sender=deployer),
    )
    wire(world)
    return world


def wire(world: World) -> None:
    deployer = world.deployer
    source, task, response = (
        create_blueprint(kind, sender=deployer) for kind in ("Source", "Task", "Response")
    )
    world.blueprints = SimpleNamespace(source=source, task=task, response=response)
    world.terminal.setVault(world.vault, sender=deployer)
    world.nexus.setVault(world.vault, sender=deployer)
    world.nexus.setBlueprints(source, response, sender=deployer)
    world.controller.setTaskBlueprint(task, sender=deployer)
    for contract in (world.nexus, world.controller):
        world.manager.grantRole(CONTROLLER, contract, sender=deployer)
    world.manager.grantRole(JUDGE, world.judge, sender=deployer)
    world.vault.setMinLockupPerSource(MIN_LOCKUP, sender=deployer)
