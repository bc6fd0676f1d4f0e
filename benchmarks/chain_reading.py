"""Catches up with a chain once, as the marketplace does or as somebody would with plain web3.

    chain_reading WHO RPC_URL      (needs Django; the tables are emptied first)

Prints seconds, round trips, how many events there were, and a sum over all rows, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import requests
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from eth_utils.abi import event_abi_to_log_topic
from web3 import HTTPProvider, Web3

from chain import decoding, indexer, networks
from chain.contracts import artifact
from chain.models import Attempt, Block, Log, Network, Response, ResponseStatus, Source, Task


def ours(network: Network) -> None:
    indexer.follow(network, now=timezone.now(), for_s=3600)
    assert not Network.objects.get().failure, Network.objects.get().failure


def per_block(network: Network) -> None:
    """One block after the other, as most who poll a chain do."""
    _Plain(network).catch_up(window=1)


def in_windows(network: Network) -> None:
    """As many blocks at once as the marketplace asks for."""
    _Plain(network).catch_up(window=settings.CHAIN_WINDOW_BLOCKS)


class _Plain:
    """web3 as its documentation shows it: get_logs, process_log, and a call for each thing that is to be known.

    A window's rows and the cursor are written in one transaction, row by row where one needs another.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.web3 = Web3(HTTPProvider(networks.manifest_of(network).rpc_url))
        self.addresses = [address for key, address in network.contracts.items() if key in decoding.FOLLOWED]
        self.events: dict[tuple[str, bytes], Any] = {}
        for key, name in decoding.FOLLOWED.items():
            address = Web3.to_checksum_address(network.address(key))
            for event in self.web3.eth.contract(address, abi=artifact(name).abi).events:
                self.events[address, event_abi_to_log_topic(event().abi)] = event

    def catch_up(self, *, window: int) -> None:
        head = self.web3.eth.block_number
        first = self.network.start_block
        while first <= head:
            last = min(first + window - 1, head)
            self._read(first, last)
            first = last + 1

    def _read(self, first: int, last: int) -> None:
        wanted = {"fromBlock": first, "toBlock": last, "address": self.addresses}
        found = self.web3.eth.get_logs(wanted)
        blocks = {
            number: self.web3.eth.get_block(number)
            for number in {last} | {raw["blockNumber"] for raw in found}
        }
        logs = [log for raw in found if (log := self._log(raw, blocks)) is not None]
        about = [self._ask(log) for log in logs]
        with transaction.atomic():
            Block.objects.bulk_create(
                Block(network=self.network, number=number, hash=_hexed(block["hash"]), at=_date(block))
                for number, block in blocks.items()
            )
            for log, answers in zip(logs, about, strict=True):
                log.save()
                self._project(log, answers)
            Network.objects.filter(pk=self.network.pk).update(
                cursor_block=last, cursor_hash=_hexed(blocks[last]["hash"])
            )

    def _log(self, raw: Any, blocks: dict[int, Any]) -> Log | None:
        event = self.events.get((raw["address"], bytes(raw["topics"][0])))
        if event is None:
            return None
        said = event().process_log(raw)
        return Log(
            network=self.network, block_number=raw["blockNumber"], log_index=raw["logIndex"],
            transaction_hash=_hexed(raw["transactionHash"]), block_hash=_hexed(raw["blockHash"]),
            address=raw["address"], name=said["event"], arguments=_plain(dict(said["args"])),
            at=_date(blocks[raw["blockNumber"]]),
        )  # fmt: skip

    def _ask(self, log: Log) -> Sequence[Any]:
        """What a new contract says about itself."""
        if log.name == "SourcePublished":
            return [self._call("Source", log.arguments["source"], "getSourceParams")]
        if log.name == "TaskPublished":
            task = log.arguments["task"]
            return [self._call("Task", task, "taskParams"), self._call("Task", task, "getDeliveryMethod")]
        if log.name == "ResponseSubmitted":
            return [self._call("Response", log.arguments["response"], "getResponseParams")]
        return []

    def _call(self, name: str, address: str, function: str) -> Any:
        return (
            self.web3.eth.contract(Web3.to_checksum_address(address), abi=artifact(name).abi)
            .functions[function]()
            .call()
        )

    def _project(self, log: Log, about: Sequence[Any]) -> None:
        said = log.arguments
        place = {"network": self.network, "block_number": log.block_number, "log_index": log.log_index}
        place["transaction_hash"] = log.transaction_hash
        if log.name == "SourcePublished":
            client, url, environments, least, lockup, duration, private, optional, delivery, _ = about[0]
            Source.objects.create(
                address=said["source"], client=client, metadata_url=url, environments=environments, min_payment=least,
                min_available_lockup=lockup, max_expiry_duration=duration, privacy_enabled=private,
                optional_params_url=optional, delivery_method=delivery, published_at=log.at, **place,
            )  # fmt: skip
        elif log.name == "TaskPublished":
            _, config, expiry, payment = about[0]
            Task.objects.create(
                address=said["task"], source=Source.objects.get(address=said["source"]), config_url=config,
                expiry_time=expiry, payment=payment, delivery_method=about[1], published_at=log.at, status_at=log.at,
                **place,
            )  # fmt: skip
        elif log.name == "TaskStatusChanged":
            Task.objects.filter(address=said["task"]).update(status=int(said["status"]), status_at=log.at)
        elif log.name == "Attempted":
            task = Task.objects.get(address=said["task"])
            Attempt.objects.create(
                task=task, provider=said["provider"], suggested_payment=int(said["suggestedPayment"]),
                attempted_at=log.at, **place,
            )  # fmt: skip
        elif log.name == "ResponseSubmitted":
            _, provider, data, payment = about[0]
            Response.objects.create(
                address=said["response"], task=Task.objects.get(address=said["task"]), provider=provider, data=data,
                payment=payment, submitted_at=log.at, **place,
            )  # fmt: skip
        elif log.name == "ResponseStatusChanged" and said["status"] == str(ResponseStatus.CONFIRMED.value):
            Response.objects.filter(address=said["response"]).update(
                status=1, confirmed_at=log.at, confirmed_block=log.block_number,
                confirmed_transaction=log.transaction_hash,
            )  # fmt: skip


def _hexed(value: Any) -> str:
    return "0x" + bytes(value).hex()


def _date(block: Any) -> datetime:
    return datetime.fromtimestamp(block["timestamp"], UTC)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return _hexed(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value


# What was written

COMPARED = {
    Log: ("block_number", "log_index", "transaction_hash", "block_hash", "address", "name", "at"),
    Source: ("address", "client", "metadata_url", "min_payment", "status"),
    Task: ("address", "config_url", "expiry_time", "payment", "status", "status_at", "published_at"),
    Attempt: ("task__address", "provider", "suggested_payment", "attempted_at"),
    Response: ("address", "task__address", "provider", "data", "payment", "status", "confirmed_transaction"),
}


def _sum() -> str:
    """Over all rows; what the marketplace keeps beside an event's arguments is left out."""
    digest = hashlib.sha256()
    for model, names in COMPARED.items():
        for row in _ordered(model.objects.values_list(*names)):
            digest.update(repr(row).encode())
    for arguments in _ordered(Log.objects.values_list("arguments", flat=True)):
        kept = {
            name: value for name, value in arguments.items() if name not in ("sourceParams", "sourceStatus")
        }
        digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()


def _ordered(rows: Any) -> Iterable[Any]:
    return rows.order_by("block_number", "log_index").iterator()


WHO: dict[str, Callable[[Network], None]] = {"ours": ours, "per_block": per_block, "in_windows": in_windows}


def main() -> None:
    who = sys.argv[1]
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE chain_network CASCADE")
    network = networks.default()
    trips = [0]
    send = requests.Session.send

    def counted(*arguments: Any, **options: Any) -> Any:
        trips[0] += 1
        return send(*arguments, **options)

    requests.Session.send = counted  # type: ignore[method-assign]
    began, worked = time.perf_counter(), time.process_time()
    WHO[who](network)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    found = {"seconds": seconds, "cpu": cpu, "trips": trips[0], "events": Log.objects.count(), "sum": _sum()}
    print(json.dumps(found))
