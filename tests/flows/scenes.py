"""A marketplace and its chain with the people of a story, and what they begin with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import requests
from eth_account import Account

from chain.client import (
    DeliveryMethod,
    ImageEnvironments,
    Network,
    SourceInfo,
    TaskInfo,
    TaskInput,
    publish_source,
    treasury,
)
from chain.devnet.accounts import development_accounts
from marketplace.embedded.demo import CHAT_MODEL
from tests.flows.chains import Node
from tests.flows.conftest import Marketplace, eventually
from tests.flows.crossing import Audit, Person

TOKEN = 10**18
# Also where a worker is killed in between, again and again.
PUBLISHED_WITHIN_S = 300
PAYMENT = Decimal("0.01")
# Wallets with coins: one that alice pays in from, and a stranger's who has no account.
PAYER, CHARLIE = development_accounts()[8:10]


@dataclass(frozen=True)
class Scene:
    """A marketplace and its chain; alice, who buys and has a wallet, and bob, whose node works."""

    marketplace: Marketplace
    node: Node
    network: Network
    audit: Audit
    alice: Person
    bob: Person
    # An address that is linked to alice's account.
    wallet: str

    def networks(self) -> dict[str, Any]:
        reply = requests.get(f"{self.marketplace.url}/chain/networks/local/", timeout=30)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def deposit(self, coins: str, whom: Person | None = None) -> str:
        """The hash of a wallet's transaction that brings somebody (alice) money."""
        number = (whom or self.alice).get("/chain/deposits/address/")[0]["account_number"]
        return str(
            treasury.deposit(number, int(Decimal(coins) * TOKEN), PAYER.private_key, network=self.network)
        )

    def deposited(self, transaction: str) -> dict[str, Any] | None:
        found = [
            each for each in self.alice.get("/chain/deposits/") if each["transaction_hash"] == transaction
        ]
        assert len(found) <= 1, found
        return dict(found[0]) if found else None

    def await_deposit(self, transaction: str, status: str) -> None:
        def look() -> bool:
            found = self.deposited(transaction)
            return found is not None and found["status"] == status

        eventually(look, within_s=60, every_s=0.2, what=lambda: str(self.deposited(transaction)))

    def await_fulfilment(self, task: str, status: str) -> None:
        def look() -> bool:
            work = self.alice.task(task)["fulfilment"]
            return work is not None and work["status"] == status

        eventually(look, within_s=60, every_s=0.2, what=lambda: str(self.alice.task(task)))

    def await_withdrawal(self, number: int, status: str, *, within_s: float = 60) -> None:
        eventually(
            lambda: self.alice.withdrawal(number)["status"] == status,
            within_s=within_s,
            every_s=0.2,
            what=lambda: str(self.alice.withdrawal(number)),
        )

    def receipt(self) -> None:
        """Something to be paid for, so that there is a root to be published."""
        body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}

        def is_answered() -> bool:
            with self.marketplace.session() as session, suppress(requests.ConnectionError):
                reply = session.post(f"{self.marketplace.url}/v1/chat/completions", json=body, timeout=60)
                return reply.status_code == 200
            return False

        eventually(is_answered, within_s=60, every_s=1)


def staged(marketplace: Marketplace) -> Scene:
    manifest = json.loads((marketplace.home / "chain" / "network.json").read_text())
    node = Node(manifest["rpc_url"])
    network = Network.from_manifest(
        {**manifest, "file_url": f"{marketplace.url}/file/create", "api_url": marketplace.url}
    )
    alice = Person.register(marketplace, "alice")
    wallet = alice.link(Account.create().key.hex())
    provider = marketplace.provider
    bob = Person(marketplace, provider["email"], provider["password"])
    return Scene(marketplace, node, network, Audit(marketplace, node, manifest), alice, bob, wallet)


def publish_through_rest(scene: Scene, *, served: bool, lockup: str = "0") -> str:
    """A source of bob's; its address, as soon as our nodes work for it, or as soon as it is there."""
    body = {"name": CHAT_MODEL if served else "Nobody serves this", "min_available_lockup": lockup}
    body |= {"model": CHAT_MODEL} if served else {"cpu": "https://example.com/docker-compose.yml"}
    order = scene.bob.post("/chain/sources/", body)["order"]["id"]

    def await_it(is_so: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = scene.bob.get(f"/chain/sources/{order}/")
            return found if found["place"] and is_so(found) else None

        return dict(
            eventually(
                look,
                within_s=PUBLISHED_WITHIN_S,
                every_s=0.2,
                what=lambda: str(scene.bob.get(f"/chain/sources/{order}/")),
            )
        )

    if served and Decimal(lockup):
        address = await_it(lambda found: found["service"])["address"]
        # What is staked for a source is an operator's to decide.
        sql = "SELECT id FROM chain_service WHERE source_address = %s"
        scene.audit.operator.serve(scene.audit.rows(sql, address)[0][0], CHAT_MODEL)
    is_ready: Callable[[dict[str, Any]], Any] = (
        (lambda found: (found["service"] or {}).get("registered")) if served else (lambda found: True)
    )
    return str(await_it(is_ready)["address"])


def publish_by_wallet(scene: Scene) -> str:
    """A source that a wallet has published, as soon as our nodes serve it."""
    info = SourceInfo(
        name=CHAT_MODEL,
        description="Answers chat completions.",
        logoUrl="",
        imageEnvs=ImageEnvironments(cpu=f"{scene.marketplace.url}/chain/services/{CHAT_MODEL}/"),
        minPayment=0,
        minAvailableLockup=0,
        maxExpiryDuration=86_400,
        deliveryMethod=DeliveryMethod.MANUAL_CONFIRMATION,
    )
    source = publish_source(info, CHARLIE.private_key, network=scene.network)
    path = f"/chain/sources/{source}/"

    def is_served() -> bool:
        reply = scene.alice.ask("GET", path)
        return reply.status_code == 200 and bool((reply.json()["service"] or {}).get("registered"))

    eventually(is_served, within_s=60, every_s=0.2, what=lambda: scene.alice.ask("GET", path).text)
    return source


def task_for(source: str) -> TaskInfo:
    data = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    return TaskInfo(
        source=source,
        config=TaskInput(function_name="chat", data=data),
        expiryTime=int(time.time()) + 3600,
        payment=int(PAYMENT * TOKEN),
    )
