"""Rows of everything about a chain, made directly, for operators to look at."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from django.utils import timezone
from eth_utils import to_checksum_address

from chain.models import (
    Attempt,
    Deposit,
    Fulfilment,
    Log,
    Network,
    Pin,
    PublishedRoot,
    Purpose,
    Reconciliation,
    Reorganisation,
    Response,
    Sender,
    Service,
    Signed,
    Source,
    SourceOrder,
    Task,
    TaskOrder,
    Transaction,
    Withdrawal,
)
from clients.models import Client
from inference.models import ReceiptBatch
from marketplace.money import TOKEN
from tests.finetune.made import blob

GWEI = 10**9
SECRET = "0x02f8" + "5ec7e7" * 40  # what was signed, which nobody is to see
_numbers = itertools.count(1)


def address() -> str:
    return to_checksum_address(hash_()[:42])


def hash_() -> str:
    return "0x" + hashlib.sha256(str(next(_numbers)).encode()).hexdigest()


def network(name: str = "local", **fields: Any) -> Network:
    now = timezone.now()
    names = ("NEXUS", "CONTROLLER", "TERMINAL", "VAULT", "MANAGER", "TREASURY", "RECEIPTS")
    values: dict[str, Any] = {
        "chain_id": 131277322940537 + next(_numbers), "contracts": {each: address() for each in names},
        "confirmations": 12, "head_block": 1000, "cursor_block": 998, "cursor_hash": hash_(), "head_at": now,
        "polled_at": now,
    } | fields  # fmt: skip
    found = Network.objects.create(name=name, **values)
    Sender.objects.create(network=found, address=address(), balance=5 * TOKEN, balance_at=now, next_nonce=7)
    Reorganisation.objects.create(network=found, common_block=900, depth=5, logs=3, at=now)
    return found


def transaction(on: Network, purpose: Purpose, reference: str = "", **fields: Any) -> Transaction:
    number = next(_numbers)
    values: dict[str, Any] = {
        "status": "confirmed", "nonce": number, "hash": hash_(), "block_number": 950, "block_hash": hash_(),
        "gas": 300_000, "gas_used": 210_000, "gas_price": 3 * GWEI, "sent_at": timezone.now(),
    } | fields  # fmt: skip
    found = Transaction.objects.create(
        network=on, sender=on.senders.all()[0].address, purpose=purpose,
        reference=reference or f"{purpose}:{number}", to=address(), data="0x" + "ab" * 100, **values,
    )  # fmt: skip
    if found.nonce is not None:
        Signed.objects.create(
            transaction=found, hash=found.hash or hash_(), raw=SECRET, nonce=found.nonce, gas=300_000,
            max_fee=5 * GWEI, priority_fee=GWEI, signed_at=timezone.now(),
        )  # fmt: skip
    return found


def source(on: Network, name: str = "Sentiment", **fields: Any) -> Source:
    values: dict[str, Any] = {
        "client": address(), "metadata_url": "https://m.example/ipfs/bafkreia", "environments": 3,
        "min_payment": TOKEN // 10, "max_expiry_duration": 86400, "delivery_method": 0,
        "published_at": timezone.now(), "description": "Says how a text feels.", "metadata": {"name": name},
    } | fields  # fmt: skip
    return Source.objects.create(network=on, address=address(), name=name, **_place(), **values)


def task(of: Source, **fields: Any) -> Task:
    now = timezone.now()
    values: dict[str, Any] = {
        "config_url": "https://m.example/ipfs/bafkreib", "payment": 2 * TOKEN, "delivery_method": of.delivery_method,
        "expiry_time": int((now + timedelta(hours=1)).timestamp()), "published_at": now, "status_at": now,
    } | fields  # fmt: skip
    return Task.objects.create(network=of.network, address=address(), source=of, **_place(), **values)


def response(to: Task, **fields: Any) -> Response:
    now = timezone.now()
    values: dict[str, Any] = {
        "provider": address(), "data": "https://m.example/ipfs/bafkreic", "payment": to.payment, "submitted_at": now,
        "status": 1, "confirmed_at": now, "confirmed_block": 960, "confirmed_transaction": hash_(),
    } | fields  # fmt: skip
    return Response.objects.create(network=to.network, address=address(), task=to, **_place(), **values)


def attempt(at: Task) -> Attempt:
    return Attempt.objects.create(
        network=at.network, task=at, provider=address(), suggested_payment=at.payment,
        attempted_at=timezone.now(), **_place(),
    )  # fmt: skip


def fulfilment(of: Task, **fields: Any) -> Fulfilment:
    values: dict[str, Any] = {
        "status": "working", "reason": "A node works on it.", "expires_at": timezone.now() + timedelta(hours=1),
        "config": {"function_name": "chat", "data": {"messages": []}}, "function": "chat",
    } | fields  # fmt: skip
    return Fulfilment.objects.create(
        network=of.network, task_address=of.address, source_address=of.source.address,
        published_transaction=of.transaction_hash, payment=of.payment, config_url=of.config_url, **values,
    )  # fmt: skip


def service(of: Source, **fields: Any) -> Service:
    return Service.objects.create(network=of.network, source_address=of.address, **fields)


def deposit(on: Network, **fields: Any) -> Deposit:
    values: dict[str, Any] = {
        "transaction_hash": hash_(), "ordinal": 0, "block_number": 940, "log_index": next(_numbers),
        "sender": address(), "account_number": 0, "amount": 10 * TOKEN, "at": timezone.now(), "status": "unclaimed",
        "reason": "No wallet of a client's has this address.",
    } | fields  # fmt: skip
    return Deposit.objects.create(network=on, **values)


def withdrawal(on: Network, client: Client, **fields: Any) -> Withdrawal:
    values: dict[str, Any] = {"address": address(), "amount": 3 * TOKEN, "status": "requested"} | fields
    return Withdrawal.objects.create(network=on, client=client, **values)


def task_order(at: Task, owner: Client, **fields: Any) -> TaskOrder:
    values: dict[str, Any] = {
        "status": "published", "expires_at": timezone.now() + timedelta(hours=1), "payment": at.payment,
        "publication": transaction(at.network, Purpose.PUBLISH_TASK), "task_address": at.address,
    } | fields  # fmt: skip
    return TaskOrder.objects.create(
        owner=owner, network=at.network, source_address=at.source.address, function="chat",
        config_url=at.config_url, **values,
    )  # fmt: skip


def source_order(of: Source, owner: Client) -> SourceOrder:
    return SourceOrder.objects.create(
        owner=owner, network=of.network, name=of.name, metadata_url=of.metadata_url, delivery_method=0,
        publication=transaction(of.network, Purpose.PUBLISH_SOURCE), source_address=of.address,
    )  # fmt: skip


def pin(**fields: Any) -> Pin:
    cid = (
        f"bafkrei{next(_numbers):0>52}".replace("0", "a")
        .replace("1", "b")
        .replace("8", "c")
        .replace("9", "d")
    )
    values: dict[str, Any] = {
        "filename": "config.json",
        "content_type": "application/json",
        "size": 123,
    } | fields
    return Pin.objects.create(cid=cid, blob=blob(), **values)


def root(on: Network) -> PublishedRoot:
    number = next(_numbers)
    batch = ReceiptBatch.objects.create(
        first_transfer=number * 100, last_transfer=number * 100 + 9, receipts=10, root=hash_(), signature="0x",
        signer=address(), marketplace="m", currency="OMNIT", leaves=b"\0" * 320, created_at=timezone.now(),
    )  # fmt: skip
    return PublishedRoot.objects.create(network=on, batch=batch, transaction=transaction(on, Purpose.ROOT))


def log(on: Network, name: str = "TaskPublished") -> Log:
    number = next(_numbers)
    return Log.objects.create(
        network=on, block_number=number, log_index=number, transaction_hash=hash_(), block_hash=hash_(),
        address=on.address("NEXUS"), name=name, arguments={"task": address(), "source": address()},
        at=timezone.now(),
    )  # fmt: skip


def reconciliation(on: Network, *, off_by: int = 0, wrong: Sequence[str] = ()) -> Reconciliation:
    lines = [
        {
            "name": "treasury", "says": "What the Treasury holds.", "ledger": str(100 * TOKEN),
            "chain": str(110 * TOKEN + off_by), "difference": str(10 * TOKEN + off_by),
            "explained": [{"says": "deposits that nobody has claimed", "amount": str(10 * TOKEN)}],
            "unexplained": str(off_by), "wrong": list(wrong),
        },
        {
            "name": "vault", "says": "What the Vault owes us.", "ledger": "0", "chain": "0", "difference": "0",
            "explained": [], "unexplained": "0", "wrong": [],
        },
    ]  # fmt: skip
    return Reconciliation.objects.create(
        network=on, at=timezone.now(), block_number=980, lines=lines, unexplained=off_by,
        is_balanced=not off_by and not wrong,
    )  # fmt: skip


def everything(on: Network, owner: Client) -> SimpleNamespace:
    """One row at least of each kind."""
    published = source(on)
    ordered = task(published, status=2)
    attempted, answered = (transaction(on, purpose) for purpose in (Purpose.ATTEMPT, Purpose.RESPONSE))
    attempt(ordered)
    return SimpleNamespace(
        network=on,
        source=published,
        task=ordered,
        response=response(ordered),
        fulfilment=fulfilment(ordered, attempt=attempted, answer=answered, status="answered"),
        service=service(published),
        transaction=transaction(on, Purpose.WITHDRAWAL, status="sent", block_number=None, block_hash=""),
        deposit=deposit(on),
        withdrawal=withdrawal(on, owner),
        taskorder=task_order(ordered, owner),
        sourceorder=source_order(published, owner),
        pin=pin(),
        publishedroot=root(on),
        reconciliation=reconciliation(on),
        log=log(on),
    )


def _place() -> dict[str, Any]:
    return {"block_number": 950, "log_index": next(_numbers), "transaction_hash": hash_()}
