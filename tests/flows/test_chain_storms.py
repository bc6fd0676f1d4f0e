"""Money and work survive whatever befalls chains and processes: reorganisations, a node that is away, kill -9 between
"sent" and "recorded", transactions that are stuck. Afterwards nothing is lost, nothing was done twice, and the ledger
is what the chain says.

CHAIN_KILL_ROUNDS=n kills so many times (`CHAIN_SEED` repeats the choices of another run); CHAIN_STORIES=1 has the node
away for a minute, kills other parts at random as well, and has another marketplace that wants twelve confirmations.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from eth_account import Account

from chain.client import confirm_response, publish_task
from tests.flows.chains import Wire, away, wired
from tests.flows.conftest import Marketplace, eventually, start, stop
from tests.flows.crossing import Person
from tests.flows.scenes import (
    CHARLIE,
    PAYER,
    PAYMENT,
    TOKEN,
    Scene,
    publish_by_wallet,
    publish_through_rest,
    staged,
    task_for,
)

LONG = bool(os.environ.get("CHAIN_STORIES"))
ROUNDS = int(os.environ.get("CHAIN_KILL_ROUNDS", "2"))
SEED = int(os.environ.get("CHAIN_SEED", str(time.time_ns())))
AWAY_S = 60 if LONG else 3
# Long enough for a worker that is started again and again, later and later.
WITHIN_S = 300 if LONG else 120
# Besides the worker of the chain.
OTHERS = ("web-1", "web-2", "worker", "beat", "postgres", "valkey")
# What the marketplace calls in the course of `live`.
CALLS = (
    *("withdraw", "submitResponse", "confirmResponse", "publishTask", "attempt"),
    *("deposit", "cancelTask", "publishSource", "register", "announceProvider", "publish"),
)


@pytest.fixture(scope="module")
def scene(marketplace: Marketplace) -> Scene:
    found = staged(marketplace)
    found.await_deposit(found.deposit("20"), "credited")
    return found


@pytest.fixture(scope="module")
def served(scene: Scene) -> str:
    return publish_through_rest(scene, served=True)


@pytest.fixture(scope="module")
def unserved(scene: Scene) -> str:
    return publish_through_rest(scene, served=False)


class Expiring(NamedTuple):
    owner: Person
    had: Decimal
    order: int


@pytest.fixture(scope="module")
def expiring(scene: Scene, unserved: str) -> Expiring:
    """Charlie's order that nobody answers, and that is over a minute later: after the other stories."""
    charlie = Person.register(scene.marketplace, "charlie")
    before = charlie.balance()
    scene.deposit("1", charlie)
    eventually(lambda: charlie.balance() == before + 1)
    return Expiring(charlie, before + 1, charlie.order(unserved, payment="0.5", expires_in=60))


# --- People without a wallet client ---------------------------------------------------------------------------


def test_a_task_through_rest_is_answered_confirmed_and_charged_its_payment(
    scene: Scene, served: str, expiring: Expiring
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
    scene.await_withdrawal(small, "confirmed")
    assert scene.alice.withdrawal(large)["status"] == "requested"
    operator.freeze(True)
    try:
        frozen = scene.alice.withdraw("1", wallet)["id"]
        operator.approve(large)
        time.sleep(3)
        assert scene.alice.withdrawal(large)["status"] == "requested"
        assert scene.alice.withdrawal(frozen)["status"] == "approved"
    finally:
        operator.freeze(False)
    operator.approve(large)
    scene.await_withdrawal(large, "confirmed")
    scene.await_withdrawal(frozen, "confirmed")
    assert int(scene.node.rpc("eth_getBalance", wallet, "latest"), 16) == int(Decimal("5.5") * TOKEN)
    operator.change_terms(withdrawal_approval_above="")
    scene.audit.check()


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
    scene.await_withdrawal(number, "confirmed")
    scene.audit.check()


# --- Reorganisations ------------------------------------------------------------------------------------------

GONE = {
    "nothing": "mined again",
    "deposit": "without the deposit",
    "everything": "with nothing but the task",
}
SUBMISSION = "SELECT transaction_hash FROM chain_response WHERE address = %s"


@pytest.mark.parametrize("gone", GONE)
def test_a_reorganisation_across_a_deposit_and_a_response(
    scene: Scene, wallet_source: str, gone: str
) -> None:
    before, incomes = scene.alice.balance(), len(scene.bob.incomes())
    task = publish_task(
        task_for(wallet_source), CHARLIE.private_key, auto_deposit=True, network=scene.network
    )
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
    confirm_response(again, CHARLIE.private_key, network=scene.network)
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
    return publish_by_wallet(scene)


@pytest.mark.skipif(not LONG, reason="another marketplace, for CHAIN_STORIES=1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("gone", GONE)
def test_a_reorganisation_of_what_is_not_final(cautious: Scene, cautious_source: str, gone: str) -> None:
    scene = cautious
    before, incomes = scene.alice.balance(), len(scene.bob.incomes())
    task = publish_task(
        task_for(cautious_source), CHARLIE.private_key, auto_deposit=True, network=scene.network
    )
    with scene.node.ticking():
        response = scene.alice.await_response(task)
    deposit = scene.deposit("3")
    scene.await_deposit(deposit, "seen")
    (submission,) = scene.audit.rows(SUBMISSION, response)
    first = min(scene.node.block_of(deposit), scene.node.block_of(submission[0]))
    scene.node.mine(max(0, first + 4 - scene.node.head()))
    eventually(lambda: scene.networks()["cursor"] >= first + 4)
    depth = scene.node.head() - first + 1
    assert 5 <= depth < scene.network.confirmations

    nonce = int(scene.node.rpc("eth_getTransactionByHash", deposit)["nonce"], 16)
    reorganise(scene, depth, gone, deposit)
    if gone != "nothing":
        scene.node.spend_nonce(PAYER.private_key, nonce)
        eventually(lambda: scene.deposited(deposit) is None)
    assert scene.alice.balance() == before
    with scene.node.ticking():
        again = scene.alice.await_response(task)
        scene.await_fulfilment(task, "answered")
        confirm_response(again, CHARLIE.private_key, network=scene.network)
        scene.await_fulfilment(task, "confirmed")
        if gone == "nothing":
            scene.await_deposit(deposit, "credited")
        scene.audit.await_rest()
    assert len(scene.bob.incomes()) == incomes + 1
    assert scene.alice.balance() == before + (3 if gone == "nothing" else 0)
    scene.audit.check()


@pytest.fixture(scope="module")
def cautious() -> Iterator[Scene]:
    """A marketplace that wants as many confirmations as one does on a real chain."""
    home = Path(tempfile.mkdtemp(prefix="marketplace-cautious-"))
    home.chmod(0o755)
    stop(start(home, CHAIN_TIMEOUT_S="3"))
    manifest = home / "chain" / "network.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"confirmations": 12}))
    found = start(home, CHAIN_TIMEOUT_S="3")
    yield staged(found)
    stop(found)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def cautious_source(cautious: Scene) -> str:
    with cautious.node.ticking():
        return publish_by_wallet(cautious)


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
        scene.await_withdrawal(number, "confirmed", within_s=90)
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
        scene.await_withdrawal(number, "confirmed", within_s=WITHIN_S)
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
def test_a_task_that_nobody_answers_in_time_costs_nothing(scene: Scene, expiring: Expiring) -> None:
    charlie = expiring.owner
    ended = charlie.await_order(expiring.order, "cancelled", "expired", within_s=150)
    assert (ended["order"]["paid"], Decimal(ended["order"]["held"])) == (None, 0)
    assert (charlie.balance(), charlie.held()) == (expiring.had, 0)
    scene.audit.check()
