"""A chain that is only what a node would say about it: for what no real chain can be made to do on demand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import eth_abi
from eth_bloom import BloomFilter
from eth_utils import keccak, to_checksum_address

from chain.contracts import artifact
from chain.ethereum import Fault, NodeAway

CHAIN_ID = 4242
NAMES = ("Nexus", "Controller", "Terminal", "Vault", "Treasury", "Receipts")


def address(number: int) -> str:
    return str(to_checksum_address(number.to_bytes(20, "big")))


CONTRACTS = {name.upper(): address(0xC0DE00 + place) for place, name in enumerate(NAMES)}
# What a contract's getters say: (address, function) -> packed.
Answers = dict[tuple[str, str], bytes]


@dataclass(frozen=True)
class Event:
    """`answers` is what new contracts say from here on; `transaction` names the same one again in another block."""

    contract: str
    name: str
    arguments: tuple[Any, ...]
    answers: Answers = field(default_factory=dict)
    transaction: str = ""
    emitter: str = ""

    def packed(self) -> tuple[list[str], str]:
        """Topics and data."""
        entry = next(
            one for one in artifact(self.contract).abi if one["type"] == "event" and one["name"] == self.name
        )
        pairs = list(zip(entry["inputs"], self.arguments, strict=True))
        topics = [keccak(text=f"{self.name}({','.join(map(type_of, entry['inputs']))})")]
        topics += [eth_abi.encode([type_of(one)], [value]) for one, value in pairs if one["indexed"]]
        rest = [(type_of(one), value) for one, value in pairs if not one["indexed"]]
        data = eth_abi.encode([kind for kind, _ in rest], [value for _, value in rest])
        return ["0x" + topic.hex() for topic in topics], "0x" + data.hex()


def type_of(entry: dict[str, Any]) -> str:
    if entry["type"] == "tuple":
        return f"({','.join(map(type_of, entry['components']))})"
    return str(entry["type"])


def said(contract: str, function: str, *values: Any) -> bytes:
    """What a getter answers."""
    entry = next(one for one in artifact(contract).abi if one.get("name") == function)
    return eth_abi.encode([type_of(one) for one in entry["outputs"]], list(values))


# What people do


def source_params(client: str, url: str = "https://files.example/source", **changes: Any) -> tuple[Any, ...]:
    usual = {
        "environments": 1,
        "min_payment": 10**15,
        "lockup": 0,
        "duration": 3600,
        "private": False,
        "optional": "",
        "delivery": 1,
        "updated": 0,
    } | changes
    return (client, url, *usual.values())


def source_published(source: str, client: str, *, status: int = 0, **params: Any) -> Event:
    answers = {
        (source, "getSourceParams"): said("Source", "getSourceParams", source_params(client, **params)),
        (source, "getStatus"): said("Source", "getStatus", status),
    }
    return Event("Nexus", "SourcePublished", (source,), answers)


def source_updated(source: str, client: str, **params: Any) -> Event:
    values = source_params(client, **params)
    answers = {(source, "getSourceParams"): said("Source", "getSourceParams", values)}
    return Event("Nexus", "SourceUpdated", (source, values), answers)


def source_status(source: str, status: int) -> Event:
    answers = {(source, "getStatus"): said("Source", "getStatus", status)}
    return Event("Nexus", "SourceStatusChanged", (source, status), answers)


def task_published(
    task: str,
    source: str,
    *,
    config: str = "https://files.example/task",
    expiry: int = 2_000_000_000,
    payment: int = 10**16,
) -> Event:
    answers = {
        (task, "taskParams"): said("Task", "taskParams", source, config, expiry, payment),
        (task, "getDeliveryMethod"): said("Task", "getDeliveryMethod", 1),
    }
    return Event("Nexus", "TaskPublished", (task, source), answers)


def task_status(task: str, status: int) -> Event:
    return Event("Nexus", "TaskStatusChanged", (task, status))


def attempted(task: str, provider: str, payment: int = 10**16) -> Event:
    return Event("Nexus", "Attempted", (task, provider, payment))


def response_submitted(
    response: str, task: str, provider: str, data: str = "https://files.example/answer"
) -> Event:
    values = (task, provider, data, 10**16)
    answers = {(response, "getResponseParams"): said("Response", "getResponseParams", values)}
    return Event("Nexus", "ResponseSubmitted", (response, task), answers)


def response_status(response: str, status: int) -> Event:
    return Event("Nexus", "ResponseStatusChanged", (response, status))


def deposited(sender: str, amount: int, *, account: int = 0, transaction: str = "") -> Event:
    return Event("Treasury", "Deposited", (account, sender, amount), transaction=transaction)


@dataclass(frozen=True)
class Mined:
    number: int
    hash: str
    parent_hash: str
    timestamp: int
    events: tuple[Event, ...]


class FakeChain:
    """Blocks, and what their contracts say. It answers like `chain.ethereum.Ethereum.ask`, and misbehaves when told to.

    `interrupt(method)` is called before each question is answered: it may raise, or change the chain.
    """

    def __init__(self, chain_id: int = CHAIN_ID, genesis: str = "genesis") -> None:
        self.chain_id = chain_id
        self.blocks: list[Mined] = []
        self.is_away = False
        self.most_blocks = 10**9
        self.keeps_states = True
        # Of these blocks no events are told (yet), unless one asks for just theirs.
        self.untold: set[int] = set()
        self.interrupt: Callable[[str], None] | None = None
        self.asked: list[list[str]] = []
        self._salts = itertools.count()
        self._append((), genesis)

    @property
    def head(self) -> Mined:
        return self.blocks[-1]

    def mine(self, *events: Event) -> Mined:
        return self._append(events, str(next(self._salts)))

    def mine_empty(self, count: int) -> None:
        for _ in range(count):
            self.mine()

    def fork(self, depth: int) -> list[Mined]:
        """Forget the last blocks (never the first of all); returns them."""
        cut = max(len(self.blocks) - depth, 1)
        gone, self.blocks = self.blocks[cut:], self.blocks[:cut]
        return gone

    def _append(self, events: Sequence[Event], salt: str) -> Mined:
        parent = self.blocks[-1].hash if self.blocks else "0x" + "00" * 32
        number = len(self.blocks)
        found = Mined(
            number,
            "0x" + keccak(text=f"{parent}/{number}/{salt}").hex(),
            parent,
            1_700_000_000 + 10 * number,
            tuple(events),
        )
        self.blocks.append(found)
        return found

    # As a node

    def ask(self, questions: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.asked.append([method for method, _ in questions])
        if self.is_away:
            raise NodeAway
        return [self._answer(method, list(params)) for method, params in questions]

    def _answer(self, method: str, params: list[Any]) -> Any:
        if self.interrupt is not None:
            self.interrupt(method)
        return {
            "eth_chainId": lambda: hex(self.chain_id),
            "eth_getBlockByNumber": lambda: self._block(params[0]),
            "eth_getLogs": lambda: self._logs(params[0]),
            "eth_call": lambda: self._call(params[0], params[1]),
        }[method]()

    def _block(self, which: str) -> dict[str, Any] | None:
        number = self.head.number if which == "latest" else int(which, 16)
        if number >= len(self.blocks):
            return None
        block = self.blocks[number]
        return {
            "number": hex(number),
            "hash": block.hash,
            "parentHash": block.parent_hash,
            "timestamp": hex(block.timestamp),
            "baseFeePerGas": "0x7",
            "logsBloom": self._bloom(block),
        }

    def _bloom(self, block: Mined) -> str:
        bloom = BloomFilter()
        for event in self._events(block):
            bloom.extend(bytes.fromhex(value[2:]) for value in (event["address"], *event["topics"]))
        return f"0x{int(bloom):0512x}"

    def _logs(self, wanted: dict[str, Any]) -> Any:
        if "blockHash" in wanted:
            block = next((one for one in self.blocks if one.hash == wanted["blockHash"]), None)
            return Fault("unknown block", is_revert=False) if block is None else self._events(block)
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        if last - first + 1 > self.most_blocks:
            return Fault("query exceeds max block range", is_revert=False)
        emitters = {one.lower() for one in wanted["address"]}
        blocks = [block for block in self.blocks[first : last + 1] if block.number not in self.untold]
        found = [log for block in blocks for log in self._events(block)]
        return [log for log in found if log["address"] in emitters]

    def _events(self, block: Mined) -> list[dict[str, Any]]:
        found = []
        for index, event in enumerate(block.events):
            topics, data = event.packed()
            transaction = event.transaction or f"{block.hash}/{index}"
            found.append(
                {
                    "address": (event.emitter or CONTRACTS[event.contract.upper()]).lower(),
                    "topics": topics,
                    "data": data,
                    "blockNumber": hex(block.number),
                    "blockHash": block.hash,
                    "transactionHash": "0x" + keccak(text=transaction).hex(),
                    "logIndex": hex(index),
                    "removed": False,
                }
            )
        return found

    def _call(self, call: dict[str, Any], which: str) -> Any:
        number = self.head.number if which == "latest" else int(which, 16)
        if number < self.head.number and not self.keeps_states:
            return Fault("missing trie node", is_revert=False)
        function = _FUNCTIONS[call["data"][:10]]
        for block in reversed(self.blocks[: number + 1]):
            for event in reversed(block.events):
                if (call["to"], function) in event.answers:
                    return "0x" + event.answers[call["to"], function].hex()
        return "0x"


_FUNCTIONS = {
    "0x" + keccak(text=f"{name}()")[:4].hex(): name
    for name in ("getSourceParams", "getStatus", "taskParams", "getDeliveryMethod", "getResponseParams")
}
