"""Rows as the indexer and the verbs leave them, for tests that need no chain."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db.models import F
from django.utils import timezone

from chain import outbox
from chain.models import (
    DeliveryMethod,
    Log,
    Network,
    Response,
    ResponseStatus,
    Source,
    Task,
    TaskOrder,
    TaskStatus,
    Transaction,
    TransactionStatus,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def address(number: int) -> str:
    """A checksummed address that nobody has: digits have no case."""
    return f"0x{number:040d}"


def digest(number: int) -> str:
    """A hash that nothing has."""
    return f"0x{number:064x}"


def contracts() -> dict[str, str]:
    names = ("NEXUS", "CONTROLLER", "TERMINAL", "VAULT", "MANAGER", "TREASURY", "RECEIPTS")
    return {name: address(number) for number, name in enumerate(names, start=100)}


def manifest(settings: Any, folder: Path, *names: str) -> None:
    """Have the settings name networks (the first one: "local") that nobody can reach."""
    paths = []
    for number, name in enumerate(names or ("local",)):
        said = {
            "name": name, "chain_id": 131277322940537 + number, "rpc_url": f"http://127.0.0.1:9/{name}",
            "contracts": contracts(), "confirmations": 3, "is_public": True,
        }  # fmt: skip
        path = folder / f"{name}.json"
        path.write_text(json.dumps(said))
        paths.append(str(path))
    settings.CHAIN_NETWORKS, settings.CHAIN_RPC_URL, settings.CHAIN_RPC_URLS = paths, "", {}


def network(name: str = "local", chain_id: int = 131277322940537, **fields: Any) -> Network:
    """A network whose blocks up to 100 are read, of which 98 are final."""
    return Network.objects.create(
        **{
            "name": name, "chain_id": chain_id, "contracts": contracts(), "confirmations": 3, "cursor_block": 100,
            "head_block": 100, "head_at": AT, "polled_at": AT,
        }
        | fields
    )  # fmt: skip


def source(network: Network, number: int = 1, **fields: Any) -> Source:
    return Source.objects.create(
        **{
            "network": network, "address": address(number), "client": address(7), "block_number": 10,
            "log_index": number, "transaction_hash": digest(number), "environments": 1, "min_payment": 10**15,
            "max_expiry_duration": 86400, "delivery_method": DeliveryMethod.MANUAL_CONFIRMATION,
            "published_at": AT, "metadata_url": "https://elsewhere.example/metadata.json", "name": "sentiment",
        }
        | fields
    )  # fmt: skip


def task(source: Source, number: int = 11, **fields: Any) -> Task:
    return Task.objects.create(
        **{
            "network": source.network, "address": address(number), "source": source, "block_number": 20,
            "log_index": number, "transaction_hash": digest(number), "payment": 10**16, "expiry_time": 4_000_000_000,
            "delivery_method": source.delivery_method, "published_at": AT, "status_at": AT,
            "config_url": "https://elsewhere.example/config.json",
        }
        | fields
    )  # fmt: skip


def response(task: Task, number: int = 21, **fields: Any) -> Response:
    return Response.objects.create(
        **{
            "network": task.network, "address": address(number), "task": task, "provider": address(8),
            "block_number": 30, "log_index": number, "transaction_hash": digest(number), "payment": task.payment,
            "data": "https://elsewhere.example/answer.json", "submitted_at": AT,
        }
        | fields
    )  # fmt: skip


# The well-known first account of development chains.
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def carried_out(row: Transaction, block: int = 30) -> None:
    """As the outbox ends a transaction that was carried out and is final."""
    _end(row, TransactionStatus.CONFIRMED, hash=digest(10**6 + row.pk), block_number=block)


def failed(row: Transaction, status: TransactionStatus, reason: str) -> None:
    _end(row, status, reason=reason)


def _end(row: Transaction, status: TransactionStatus, **values: Any) -> None:
    row.refresh_from_db()
    assert outbox.end(row, status, now=timezone.now(), **values)


def published(order: TaskOrder, number: int = 31, *, deposited: bool = False, ended: bool = False) -> Task:
    """An order's task on the chain, as the indexer and the outbox write it down: deposit, events, publication."""
    order.refresh_from_db()
    source = Source.objects.get(network=order.network, address=order.source_address)
    while Task.objects.filter(address=address(number)).exists():
        number += 1
    assert order.publication is not None
    published_by = digest(10**6 + order.publication.pk)
    found = task(
        source, number, payment=order.payment, expiry_time=int(order.expires_at.timestamp()),
        transaction_hash=published_by, config_url=order.config_url,
    )  # fmt: skip
    log(found, "TaskPublished", {"task": found.address, "source": source.address}, block=20)
    log(found, "PaymentFrozen", {"client": order.publisher, "task": found.address}, block=20, index=1)
    if not ended:
        if order.deposit is not None and not deposited:
            carried_out(order.deposit)
        carried_out(order.publication, block=20)
    return found


def log(task: Task, name: str, arguments: dict[str, Any], *, block: int, index: int = 0) -> Log:
    return Log.objects.create(
        network=task.network, block_number=block, log_index=task.log_index * 10 + index, block_hash=digest(block),
        transaction_hash=task.transaction_hash, address=address(100), name=name, arguments=arguments, at=AT,
    )  # fmt: skip


def end(task: Task, status: TaskStatus, *, block: int) -> None:
    """A task has ended on the chain."""
    Task.objects.filter(pk=task.pk).update(status=status, status_at=AT)
    log(task, "TaskStatusChanged", {"task": task.address, "status": str(int(status))}, block=block, index=2)


def confirm(response: Response, *, block: int) -> None:
    """A response is confirmed on the chain, by whomever."""
    Response.objects.filter(pk=response.pk).update(
        status=ResponseStatus.CONFIRMED,
        confirmed_at=AT,
        confirmed_block=block,
        confirmed_transaction=digest(block),
    )
    end(response.task, TaskStatus.FINALIZED, block=block)


def grow(network: Network, blocks: int) -> None:
    """Blocks come, and are read."""
    Network.objects.filter(pk=network.pk).update(
        head_block=F("head_block") + blocks, cursor_block=F("cursor_block") + blocks
    )


def source_log(source: Source) -> Log:
    return Log.objects.create(
        network=source.network, block_number=source.block_number, log_index=source.log_index,
        block_hash=digest(source.block_number), transaction_hash=source.transaction_hash, address=address(100),
        name="SourcePublished", arguments={"source": source.address}, at=AT,
    )  # fmt: skip
