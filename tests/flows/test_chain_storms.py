"""Money and work survive whatever befalls chains and processes: reorganisations, a node that is away, kill -9 between
"sent" and "recorded", transactions that are stuck. Afterwards nothing is lost, nothing was done twice, and the ledger
is what the chain says.

CHAIN_KILL_ROUNDS=n kills so many times (`CHAIN_SEED` repeats the choices of another run); CHAIN_STORIES=1 has the node
away for a minute, and kills other parts at random as well.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import requests
from eth_account import Account

from chain.client import (
    ChainConfig,
    DeliveryMethod,
    ImageEnvironments,
    Network,
    SourceInfo,
    TaskInfo,
    TaskInput,
    confirm_response,
    publish_source,
    publish_task,
    treasury,
)
from chain.devnet.accounts import development_accounts
from marketplace.embedded.demo import CHAT_MODEL
from tests.flows.chains import Node, Wire, away, wired
from tests.flows.conftest import Marketplace, eventually
from tests.flows.crossing import Audit, Person

LONG = bool(os.environ.get("CHAIN_STORIES"))
ROUNDS = int(os.environ.get("CHAIN_KILL_ROUNDS", "2"))
SEED = int(os.environ.get("CHAIN_SEED", str(time.time_ns())))
AWAY_S = 60 if LONG else 3
# Long enough for a worker that is started again and again, later and later.
WITHIN_S = 300 if LONG else 120
TOKEN = 10**18
PAYMENT = Decimal("0.01")
# Wallets with coins: one that alice pays in from, and a stranger's who has no account.
PAYER, CHARLIE = development_accounts()[8:10]
# Besides the worker of the chain.
OTHERS = ("web-1", "web-2", "worker", "beat", "postgres", "valkey")
# What the marketplace calls in the course of `life`, and when the worker is killed then.
CALLS = (
    *("withdraw", "submitResponse", "confirmResponse", "publishTask", "attempt"),
    *("deposit", "cancelTask", "publishSource", "register", "announceProvider", "publish"),
)


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

    def deposit(self, coins: str) -> str:
        """The hash of a wallet's transaction that brings alice money."""
        number = self.alice.get("/chain/deposits/address/")[0]["account_number"]
        return str(treasury.deposit(number, int(Decimal(coins) * TOKEN), PAYER.private_key))

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

    def receipt(self) -> None:
        """Something to be paid for, so that there is a root to be published."""
        body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}

        def is_answered() -> bool:
            with self.marketplace.session() as session, suppress(requests.ConnectionError):
                reply = session.post(f"{self.marketplace.url}/v1/chat/completions", json=body, timeout=60)
                return reply.status_code == 200
            return False

        eventually(is_answered, within_s=60, every_s=1)


@pytest.fixture(scope="module")
def scene(marketplace: Marketplace) -> Iterator[Scene]:
    manifest = json.loads((marketplace.home / "chain" / "network.json").read_text())
    node = Node(manifest["rpc_url"])
    network = Network.from_manifest(
        {**manifest, "file_url": f"{marketplace.url}/file/create", "api_url": marketplace.url}
    )
    ChainConfig.use(network)
    alice = Person.register(marketplace, "alice")
    wallet = alice.link(Account.create().key.hex())
    provider = marketplace.provider
    bob = Person(marketplace, provider["email"], provider["password"])
    found = Scene(marketplace, node, network, Audit(marketplace, node, manifest), alice, bob, wallet)
    found.await_deposit(found.deposit("20"), "credited")
    yield found
    ChainConfig.reset()


def publish_through_rest(scene: Scene, *, served: bool, lockup: str = "0") -> str:
    """A source of bob's; its address, as soon as our nodes work for it, or as soon as it is there."""
    body = {"name": CHAT_MODEL if served else "Nobody serves this", "min_available_lockup": lockup}
    body |= {"model": CHAT_MODEL} if served else {"cpu": "https://example.com/docker-compose.yml"}
    order = scene.bob.post("/chain/sources/", body)["order"]["id"]

    def look() -> Any:
        found = scene.bob.get(f"/chain/sources/{order}/")
        ready = not served or (found["service"] and found["service"]["registered"])
        return found["address"] if found["place"] and ready else None

    what = lambda: str(scene.bob.get(f"/chain/sources/{order}/"))  # noqa: E731
    return str(eventually(look, within_s=WITHIN_S, every_s=0.2, what=what))


@pytest.fixture(scope="module")
def served(scene: Scene) -> str:
    return publish_through_rest(scene, served=True)


@pytest.fixture(scope="module")
def unserved(scene: Scene) -> str:
    return publish_through_rest(scene, served=False)


@pytest.fixture(scope="module")
def expiring(scene: Scene, unserved: str) -> int:
    """An order that nobody answers, and that is over a minute later: after the other stories."""
    return scene.alice.order(unserved, payment="0.5", expires_in=60)


# --- People without a wallet client ---------------------------------------------------------------------------


def test_a_task_through_rest_is_answered_confirmed_and_charged_its_payment(
    scene: Scene, served: str, expiring: int
) -> None:
    before, incomes = scene.alice.balance(), len(scene.bob.incomes())
    order = scene.alice.order(served, payment=str(PAYMENT))
    task = scene.alice.await_order(order, "published")["address"]
    response = scene.alice.await_response(task)
    scene.alice.post(f"/chain/responses/{response}/confirm/")
    ended = scene.alice.await_order(order, "finished")
    assert (Decimal(ended["order"]["paid"]), Decimal(ended["order"]["held"])) == (PAYMENT, 0)
    assert scene.alice.balance() == before - PAYMENT
    scene.await_fulfilment(task, "confirmed")
    assert len(scene.bob.incomes()) == incomes + 1
    assert scene.bob.incomes()[0] == PAYMENT * Decimal("0.95")


def test_a_task_that_is_taken_back_costs_nothing(scene: Scene, unserved: str) -> None:
    before = scene.alice.balance()
    order = scene.alice.order(unserved, payment=str(PAYMENT))
    scene.alice.await_order(order, "published")
    scene.alice.post(f"/chain/tasks/{order}/cancel/")
    scene.alice.await_order(order, "cancelled")
    assert scene.alice.balance() == before


# --- Withdrawals ----------------------------------------------------------------------------------------------


def test_a_withdrawal_is_paid_and_a_large_one_is_approved_first(scene: Scene) -> None:
    wallet = scene.alice.link(Account.create().key.hex())
    operator = scene.audit.operator
    operator.change_terms(withdrawal_approval_above="2")
    small, large = (scene.alice.withdraw(amount, wallet)["id"] for amount in ("2", "2.5"))
    await_withdrawal(scene, small, "confirmed")
    assert scene.alice.withdrawal(large)["status"] == "requested"
    operator.freeze(True)
    frozen = scene.alice.withdraw("1", wallet)["id"]
    operator.approve(large)
    time.sleep(3)
    assert scene.alice.withdrawal(large)["status"] == "requested"
    assert scene.alice.withdrawal(frozen)["status"] == "approved"
    operator.freeze(False)
    operator.approve(large)
    await_withdrawal(scene, large, "confirmed")
    await_withdrawal(scene, frozen, "confirmed")
    assert int(scene.node.rpc("eth_getBalance", wallet, "latest"), 16) == int(Decimal("5.5") * TOKEN)
    operator.change_terms(withdrawal_approval_above="")
    scene.audit.check()


def await_withdrawal(scene: Scene, number: int, status: str, *, within_s: float = 60) -> None:
    eventually(
        lambda: scene.alice.withdrawal(number)["status"] == status,
        within_s=within_s,
        every_s=0.2,
        what=lambda: str(scene.alice.withdrawal(number)),
    )


def test_what_is_stuck_gets_higher_fees_and_is_paid_once(scene: Scene) -> None:
    sender = scene.audit.rows("SELECT sender FROM chain_transaction WHERE purpose = 'withdrawal' LIMIT 1")[0][
        0
    ]

    def fee() -> int:
        return max((int(each["maxFeePerGas"], 16) for each in scene.node.waiting(sender)), default=0)

    with scene.node.held():
        number = scene.alice.withdraw("0.25", scene.wallet)["id"]
        first = eventually(fee, within_s=30)
        eventually(lambda: fee() > first, within_s=60, every_s=0.2)
        assert len(scene.node.waiting(sender)) == 1
    await_withdrawal(scene, number, "confirmed")
    scene.audit.check()


# --- Reorganisations ------------------------------------------------------------------------------------------

GONE = {
    "nothing": "mined again",
    "deposit": "without the deposit",
    "everything": "with nothing but the task",
}


@pytest.mark.parametrize("gone", GONE)
def test_a_reorganisation_across_a_deposit_and_a_response(
    scene: Scene, wallet_source: str, gone: str
) -> None:
    before, incomes = scene.alice.balance(), len(scene.bob.incomes())
    task = publish_task(task_for(wallet_source), CHARLIE.private_key, auto_deposit=True)
    deposit = scene.deposit("3")
    scene.await_deposit(deposit, "credited")
    response = scene.alice.await_response(task)
    scene.await_fulfilment(task, "answered")
    (submission,) = scene.audit.rows(
        "SELECT transaction_hash FROM chain_response WHERE address = %s", response
    )
    (known,) = scene.audit.rows("SELECT count(*) FROM chain_reorganisation WHERE depth >= 5")
    assert scene.alice.balance() == before + 3

    first = min(scene.node.block_of(deposit), scene.node.block_of(submission[0]))
    scene.node.mine(max(0, first + 4 - scene.node.head()))
    eventually(lambda: scene.networks()["cursor"] >= first + 4)
    nonce = int(scene.node.rpc("eth_getTransactionByHash", deposit)["nonce"], 16)
    reorganise(scene, scene.node.head() - first + 1, gone, deposit)
    if gone == "nothing":
        scene.await_deposit(deposit, "credited")
    else:
        scene.node.spend_nonce(PAYER.private_key, nonce)
        scene.await_deposit(deposit, "reversed")
    eventually(
        lambda: scene.audit.rows("SELECT count(*) FROM chain_reorganisation WHERE depth >= 5") > [known]
    )
    assert scene.alice.balance() == before + (3 if gone == "nothing" else 0)

    again = scene.alice.await_response(task)
    eventually(lambda: scene.node.receipt(submission[0]), within_s=60)
    confirm_response(again, CHARLIE.private_key)
    scene.await_fulfilment(task, "confirmed")
    assert len(scene.bob.incomes()) == incomes + 1
    scene.audit.check()
    assert scene.alice.balance() == before + (3 if gone == "nothing" else 0)


def reorganise(scene: Scene, depth: int, gone: str, deposit: str) -> None:
    if gone == "nothing" and not scene.node.is_anvil:
        scene.node.rpc("devnet_reorg", depth, True)
        return
    ours = [row[0] for row in scene.audit.rows("SELECT hash FROM chain_transaction")]
    forget = {"nothing": [], "deposit": [deposit], "everything": [deposit, *ours]}[gone]
    scene.node.reorganise(depth, forget=forget)


@pytest.fixture(scope="module")
def wallet_source(scene: Scene) -> str:
    """A source that a wallet has published and our nodes serve."""
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
    source = publish_source(info, CHARLIE.private_key)
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


# --- A node that is away --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.timeout(300)
def test_a_node_that_is_away_holds_things_up_and_nothing_else(scene: Scene, served: str, how: str) -> None:
    if scene.node.is_anvil:
        pytest.skip("anvil is not one of the marketplace's parts")
    before, incomes = scene.alice.balance(), len(scene.bob.incomes())
    asked = scene.alice.withdraw("0.5", scene.wallet)["id"], scene.alice.order(served, payment=str(PAYMENT))
    deposit = scene.deposit("1")
    with away(scene.marketplace, how):
        over = time.monotonic() + AWAY_S
        asked += (
            scene.alice.withdraw("0.75", scene.wallet)["id"],
            scene.alice.order(served, payment=str(PAYMENT)),
        )
        eventually(lambda: scene.networks()["failing_since"], within_s=AWAY_S + 20)
        while time.monotonic() < over:
            check_answers_while_away(scene)
            time.sleep(0.5)
    eventually(lambda: scene.networks()["failing_since"] is None, within_s=60)
    scene.await_deposit(deposit, "credited")
    for number in asked[::2]:
        await_withdrawal(scene, number, "confirmed", within_s=90)
    for order in asked[1::2]:
        task = scene.alice.await_order(order, "published", within_s=90)["address"]
        scene.alice.post(f"/chain/responses/{scene.alice.await_response(task)}/confirm/")
    for order in asked[1::2]:
        scene.alice.await_order(order, "finished", within_s=90)
    scene.audit.check()
    assert scene.networks()["lag"] == 0
    assert scene.alice.balance() == before + 1 - Decimal("1.25") - 2 * PAYMENT
    assert len(scene.bob.incomes()) == incomes + 2


def check_answers_while_away(scene: Scene) -> None:
    """Whatever is asked is answered; what needs the chain says that it is away."""
    for path in ("sources", "tasks", "responses", "deposits", "deposits/address", "withdrawals", "networks"):
        reply = scene.alice.ask("GET", f"/chain/{path}/")
        assert reply.status_code == 200 or (reply.status_code == 503 and reply.json()["code"]), reply.text


# --- kill -9 --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(0)
def test_a_worker_killed_between_sent_and_recorded_does_everything_once(
    scene: Scene, served: str, unserved: str
) -> None:
    draw = random.Random(SEED)
    left = [call for _ in range(-(-ROUNDS // len(CALLS))) for call in draw.sample(CALLS, len(CALLS))][:ROUNDS]
    print(f"CHAIN_SEED={SEED} CHAIN_KILL_ROUNDS={ROUNDS}: {left}", flush=True)
    with wired(scene.marketplace) as wire:
        for number in range(0, ROUNDS, len(CALLS)):
            strikes = left[number : number + len(CALLS)]
            with Havoc(scene.marketplace, draw) if LONG else nullcontext():
                live(scene, wire, strikes, draw, unserved, served)
            scene.audit.check(within_s=WITHIN_S)
            print(f"{wire.struck[-len(strikes) :]}; sent by then: {dict(wire.sent)}", flush=True)
    assert len(wire.struck) == ROUNDS


def live(
    scene: Scene, wire: Wire, strikes: list[str], draw: random.Random, unserved: str, served: str
) -> None:
    """All that the marketplace sends to a chain, with its worker killed at these calls."""
    alice, incomes = scene.alice, len(scene.bob.incomes())
    before, paid = alice.balance(), 2 * PAYMENT
    recorded: list[str] = []

    def kill(transaction: str) -> None:
        os.kill(scene.marketplace.pid("chain"), signal.SIGKILL)
        sql = "SELECT status FROM chain_transaction WHERE hash = %s"
        recorded.extend(status for (status,) in scene.audit.rows(sql, transaction))

    for call in strikes:
        # Mostly at the worst moment: it is sent, and nobody has written that down.
        wire.strike(call, draw.choice(["after", "after", "after", "before"]), kill)
    if {"publishSource", "register", "announceProvider"} & set(strikes):
        # A higher stake is needed each time.
        served = publish_through_rest(scene, served=True, lockup=str(1 + Decimal(time.time_ns()) / 10**18))
    withdrawals = [alice.withdraw(amount, scene.wallet)["id"] for amount in ("0.1", "0.2")]
    # Another payment than what earlier ones have left in the Vault, so that there is something to deposit.
    orders = [alice.order(served, payment=str(PAYMENT)) for _ in range(2)]
    taken_back = alice.order(unserved, payment="0.9")
    if "publish" in strikes:
        scene.receipt()
    alice.await_order(taken_back, "published", within_s=WITHIN_S)
    alice.post(f"/chain/tasks/{taken_back}/cancel/")
    for order in orders:
        task = alice.await_order(order, "published", within_s=WITHIN_S)["address"]
        alice.post(f"/chain/responses/{alice.await_response(task, within_s=WITHIN_S)}/confirm/")
    for order in orders:
        alice.await_order(order, "finished", within_s=WITHIN_S)
    alice.await_order(taken_back, "cancelled", within_s=WITHIN_S)
    for number in withdrawals:
        await_withdrawal(scene, number, "confirmed", within_s=WITHIN_S)
    eventually(lambda: not wire.armed(), within_s=WITHIN_S, what=lambda: f"never called: {wire.armed()}")
    # Whatever had been sent then, nobody had written down.
    assert recorded == ["signed"] * len(strikes)
    assert alice.balance() == before - paid - Decimal("0.3")
    eventually(lambda: len(scene.bob.incomes()) == incomes + 2, within_s=60)


class Havoc(threading.Thread):
    """Kills other parts at random, for as long as a block lasts."""

    def __init__(self, marketplace: Marketplace, draw: random.Random) -> None:
        super().__init__(daemon=True)
        self.marketplace, self.draw, self.over = marketplace, random.Random(draw.random()), threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(self.draw.uniform(4, 12)):
            part = self.draw.choice(OTHERS)
            with suppress(ProcessLookupError):
                self.marketplace.kill(part)


# --- At last --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_task_that_nobody_answers_in_time_costs_nothing(scene: Scene, expiring: int) -> None:
    ended = scene.alice.await_order(expiring, "cancelled", "expired", within_s=150)
    assert (ended["order"]["paid"], Decimal(ended["order"]["held"])) == (None, 0)
    assert scene.alice.held() == 0
    scene.audit.check()
