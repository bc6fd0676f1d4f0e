"""The ledger against the Vault: tasks that were answered and ordered, and what our addresses have there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from chain import reconciliation
from chain.fulfilment import paying
from chain.models import (
    Fulfilment,
    FulfilmentStatus,
    Purpose,
    Reconciliation,
    Task,
    TaskOrder,
    Transaction,
    VaultFloat,
)
from clients import refunds
from clients.models import Transfer, TransferKind
from marketplace.money import TOKEN
from tests.chain import test_orders_devnet as of_orders
from tests.chain.sending import Sending
from tests.chain.test_reconciliation import explained, line, sql, wrong

work, provider, buyer, place, fund = (
    of_orders.work, of_orders.provider, of_orders.buyer, of_orders.place, of_orders.fund,
)  # fmt: skip


def run(sending: Sending) -> Reconciliation:
    return reconciliation.run(sending.network, now=sending.now)


def right(sending: Sending) -> Reconciliation:
    found = run(sending)
    said = [(each["name"], each["unexplained"], each["wrong"]) for each in found.lines]
    assert found.is_balanced, [each for each in said if each[1] != "0" or each[2]]
    return found


def _ordered_and_paid(place: Any, provider: Any, api: Any, buyer: Any, work: Any) -> dict[str, Any]:
    found: dict[str, Any] = place()
    response = provider.answer(found["address"], TOKEN * 3 // 4)
    work()
    api(buyer).post(f"/chain/responses/{response}/confirm/")
    work()
    return found


def test_an_order_is_explained_at_every_step(
    sending: Sending, place: Any, provider: Any, api: Any, buyer: Any, work: Any
) -> None:
    found = place()
    held = line(right(sending), "Held for orders")
    assert (int(held["ledger"]), int(held["chain"])) == (TOKEN, TOKEN)
    response = provider.answer(found["address"], TOKEN * 3 // 4)
    work()
    right(sending)
    api(buyer).post(f"/chain/responses/{response}/confirm/")
    for _ in range(6):
        work(1)
        right(sending)
    assert TaskOrder.objects.get().status == "finished"
    said = right(sending)
    assert (int(line(said, "Tasks ordered")["ledger"]), int(line(said, "Tasks ordered")["chain"])) == (
        TOKEN * 3 // 4, TOKEN * 3 // 4,
    )  # fmt: skip
    assert int(line(said, "Held for orders")["chain"]) == TOKEN // 4


def test_an_order_that_comes_to_nothing_is_explained(
    sending: Sending, place: Any, api: Any, buyer: Any, work: Any
) -> None:
    found = place()
    assert api(buyer).post(f"/chain/tasks/{found['order']['id']}/cancel/").status_code == 200
    for _ in range(6):
        work(1)
        right(sending)
    assert VaultFloat.objects.get().free == TOKEN


def test_what_our_key_does_by_hand_is_the_marketplaces_own(
    sending: Sending, place: Any, provider: Any, work: Any
) -> None:
    place()
    vault, deployer = sending.devnet.contract("VAULT").functions, sending.devnet.deployer
    sending.devnet.transact(deployer, vault.deposit(deployer.address), value=70, gas=200_000)
    sending.devnet.transact(deployer, vault.lock(20), gas=200_000)
    sending.devnet.transact(deployer, vault.unbond(5), gas=200_000)
    sending.index()
    found = right(sending)
    assert explained(found, "Held for orders") == {"the marketplace's own, and earnings": 50}


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE clients_transfer SET amount = amount + 1 WHERE kind = 'onchain'", "charged"),
        ("DELETE FROM clients_transfer WHERE kind = 'onchain'", "0 charged"),
        ("UPDATE chain_taskorder SET task_address = ''", "0 paid by the Vault"),
        ("UPDATE chain_vaultfloat SET free = free + 1", None),
        (
            "UPDATE chain_log SET arguments = arguments || '{\"amount\": \"1\"}' WHERE name = 'PaymentProcessed'",
            "1 paid",
        ),
        ("DELETE FROM chain_log WHERE name = 'PaymentProcessed'", "0 paid by the Vault"),
    ],
)
def test_whatever_was_tampered_with_is_found(
    sending: Sending,
    place: Any,
    provider: Any,
    api: Any,
    buyer: Any,
    work: Any,
    statement: str,
    names: str | None,
) -> None:
    _ordered_and_paid(place, provider, api, buyer, work)
    right(sending)
    sql(statement)
    found = run(sending)
    assert not found.is_balanced
    if names is None:
        assert found.unexplained
    else:
        assert any(names in sentence for sentence in wrong(found)), wrong(found)


# --- Tasks that we answer -----------------------------------------------------------------------------------


@pytest.fixture
def answered(sending: Sending, provider: Any, bob: Any) -> Fulfilment:
    """A task of charlie's that our provider has answered, for which the Vault has paid 30; bob's node did it."""
    devnet = sending.devnet
    ours, charlie, vault = devnet.accounts[4], devnet.charlie, devnet.contract("VAULT").functions
    source = provider.publish(1)
    nexus, controller = devnet.contract("NEXUS").functions, devnet.contract("CONTROLLER").functions
    devnet.transact(ours, nexus.register(source, ours.address, 1), gas=500_000)
    devnet.transact(charlie, vault.deposit(charlie.address), value=10**16, gas=200_000)
    expiry = int(devnet.w3.eth.get_block("latest")["timestamp"]) + 3600
    devnet.transact(charlie, controller.publishTask((source, "ipfs://x", expiry, 10**15)), gas=3_000_000)
    sending.index()
    task = Task.objects.get()
    devnet.transact(ours, nexus.attempt(task.address, ours.address, 1), gas=500_000)
    said = (task.address, ours.address, "ipfs://answer", 30)
    devnet.transact(ours, nexus.submitResponse(said), gas=3_000_000)
    sending.index()
    sent = Transaction.objects.create(
        network=sending.network, sender=ours.address, purpose=Purpose.RESPONSE, reference="respond:1",
        to=ours.address, status="confirmed", nonce=0,
    )  # fmt: skip
    return Fulfilment.objects.create(
        network=sending.network, task_address=task.address, source_address=source, answer=sent,
        published_transaction=task.transaction_hash, payment=task.payment, status=FulfilmentStatus.ANSWERED,
        expires_at=sending.now + timedelta(hours=1), provider=bob,
    )  # fmt: skip


def test_an_answer_is_explained_before_and_after_it_is_credited(
    sending: Sending, answered: Fulfilment
) -> None:
    found = right(sending)
    assert explained(found, "Tasks answered") == {"confirmed answers that are about to be credited": 30}
    assert paying.sweep(sending.network, now=sending.now) == 1
    said = line(right(sending), "Tasks answered")
    assert (said["ledger"], said["chain"], said["explained"]) == ("30", "30", [])


def test_a_reversed_credit_is_explained(sending: Sending, answered: Fulfilment, operator: Any) -> None:
    paying.sweep(sending.network, now=sending.now)
    refunds.reverse(Transfer.objects.get(kind=TransferKind.ONCHAIN), by=operator, reason="A mistake")
    assert explained(right(sending), "Tasks answered") == {"credits that an operator has reversed": 30}


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE clients_transfer SET amount = amount + 1 WHERE kind = 'onchain'", "31 credited, 30 paid"),
        ("DELETE FROM clients_transfer WHERE kind = 'onchain'", "0 credited, 30 paid"),
        ("DELETE FROM chain_fulfilment", "nobody here has worked on"),
    ],
)
def test_a_wrong_credit_is_found(sending: Sending, answered: Fulfilment, statement: str, names: str) -> None:
    paying.sweep(sending.network, now=sending.now)
    right(sending)
    sql(statement)
    found = run(sending)
    assert not found.is_balanced
    assert any(names in sentence for sentence in wrong(found)), wrong(found)
