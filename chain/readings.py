"""What a node says about some blocks, put together so that it is known to belong to one chain. Nothing is written here.

Blocks may change between two questions. So the newest block of a window is asked for before everything else and after
it; each header must name the one before it as its parent; an event's block must have the hash that its header has.
Where a header knows of events of ours that the node has not told of, it is asked for those of just that block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from chain import blooms, decoding, wire
from chain.ethereum import Ethereum, Fault, Head, NodeAway
from chain.models import Log, Network, Source

# So near the chain's end, every block's hash is kept; further back only those of blocks with events in them.
NEAR_BLOCKS = 64
# Events of one window, beyond which a smaller one is read.
LOGS_MOST = 20_000

Question = tuple[str, list[Any]]


class TooMuch(NodeAway):
    """The node does not tell that much at once, or it would be too much for us."""

    message = "The chain's node does not answer for so many blocks at once."


class Moved(NodeAway):
    """The chain changed while it was read."""

    message = "The chain's node gives answers that do not fit together: its blocks change."


class Untold(NodeAway):
    """A node has blocks before it has their events, or one of several nodes behind one address has."""

    message = "The chain's node does not tell (yet) of all events in a block."


@dataclass(frozen=True, slots=True)
class Position:
    """Where a chain is. `here` is the block with the cursor's number, if it has one."""

    chain_id: int
    genesis: Head | None
    head: Head
    here: Head | None


@dataclass(frozen=True, slots=True)
class Window:
    """What was read: all events of the blocks `first` to `last.number`, not saved yet, in the chain's order.

    `said` is what the contracts that came to be in there say about themselves, by address; one that says nothing
    sensible is missing.
    """

    first: int
    last: Head
    blocks: list[Head]
    logs: list[Log]
    said: dict[str, dict[str, Any]] = field(default_factory=dict)


def position(node: Ethereum, network: Network) -> Position:
    """One round trip. Raises NodeAway."""
    chain_id, genesis, head, here = node.ask(
        [("eth_chainId", []), _block(0), _block("latest"), _block(max(network.cursor_block, 0))]
    )
    newest = _head(head)
    if newest is None or not isinstance(chain_id, str):
        raise NodeAway("The chain's node does not say what its newest block is.")
    return Position(
        _chain_id(chain_id),
        # Some nodes keep no blocks that old.
        None if isinstance(genesis, Fault) else _head(genesis),
        newest,
        _head(here) if network.cursor_block <= newest.number else None,
    )


def _chain_id(said: str) -> int:
    try:
        return wire.number(said)
    except ValueError:
        raise NodeAway("The chain's node does not say of which chain it is.") from None


def heads(node: Ethereum, numbers: Sequence[int]) -> list[Head | None]:
    """Several blocks; None for those that are not there. Raises NodeAway."""
    return [_head(found) for found in node.ask([_block(number) for number in numbers])]


def window(node: Ethereum, network: Network, *, first: int, last: int, head: int) -> Window:
    """Read some blocks, both included. Raises NodeAway: TooMuch for fewer blocks, Moved or Untold to ask again."""
    near = range(max(first, head - NEAR_BLOCKS + 1), last + 1)
    numbers = sorted({first, last, *near}, reverse=True)
    *found, raw_logs, again = node.ask([*map(_block, numbers), _logs(network, first, last), _block(last)])
    blocks = dict(zip(numbers, map(_there, found), strict=True))
    logs = _events(network, raw_logs, first, last)
    inquiries = _inquiries(network, logs)
    missing = sorted({log.block_number for log in logs} - set(blocks))
    doubted = _doubted(network, blocks.values(), logs)
    said: dict[str, dict[str, Any]] = {}
    in_doubt: list[Any] = []
    if missing or inquiries or doubted:
        asked = [*map(_block, missing), *(one.then for one in inquiries)]
        *found, again = node.ask([*asked, *(_logs_in(network, block) for block in doubted), _block(last)])
        answers = iter(found)
        blocks |= dict(zip(missing, map(_there, islice(answers, len(missing))), strict=True))
        said = _said(node, inquiries, list(islice(answers, len(inquiries))))
        in_doubt = list(answers)
    if _there(again).hash != blocks[last].hash:
        raise Moved
    _check_told(network, doubted, in_doubt, logs)
    ordered = [blocks[number] for number in sorted(blocks)]
    _check(network, ordered, logs)
    for log in logs:
        log.at = date(blocks[log.block_number].timestamp)
    _note(logs, said)
    return Window(first, blocks[last], ordered, logs, said)


# Asking


def _block(which: int | str) -> Question:
    return "eth_getBlockByNumber", [which if isinstance(which, str) else hex(which), False]


def _logs(network: Network, first: int, last: int) -> Question:
    return "eth_getLogs", [{"fromBlock": hex(first), "toBlock": hex(last), "address": _emitters(network)}]


def _logs_in(network: Network, block: Head) -> Question:
    """Of one block by its hash: a node that has not got it refuses (EIP-234)."""
    return "eth_getLogs", [{"blockHash": block.hash, "address": _emitters(network)}]


def _emitters(network: Network) -> list[str]:
    return [address for name, address in network.contracts.items() if name in decoding.FOLLOWED]


def _head(said: Any) -> Head | None:
    """None where there is no such block. Raises NodeAway for what is no block, and where the node will not say."""
    if said is None:
        return None
    if isinstance(said, Fault):
        raise NodeAway(f"The chain's node does not tell of its blocks: {said.message}")
    try:
        return Head(
            number=wire.number(said["number"]),
            hash=wire.digest(said["hash"]),
            parent_hash=wire.digest(said["parentHash"]),
            timestamp=wire.number(said["timestamp"]),
            base_fee=int(said.get("baseFeePerGas") or "0x0", 16),
            bloom=blooms.read(said.get("logsBloom")),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NodeAway("The chain's node answers with something that is no block.") from None


def _there(said: Any) -> Head:
    found = _head(said)
    if found is None:
        raise Moved
    return found


def date(timestamp: int) -> datetime:
    """Of a block: seconds since 1970."""
    try:
        return datetime.fromtimestamp(timestamp, UTC)
    except (OverflowError, ValueError, OSError):
        raise NodeAway("The chain's node dates a block beyond all calendars.") from None


# Events


def _events(network: Network, said: Any, first: int, last: int) -> list[Log]:
    """Those of the network's own contracts that their ABI knows, in the chain's order, each once."""
    if not isinstance(said, list) or (len(said) > LOGS_MOST and last > first):
        raise TooMuch
    shapes = decoding.shapes(network.contracts)
    found = {}
    try:
        for raw in said:
            # Nodes leave the number out where an event is in no block.
            if (
                raw.get("removed")
                or not raw.get("blockNumber")
                or not first <= wire.number(raw["blockNumber"]) <= last
            ):
                raise Moved
            log = _log(network, shapes, raw)
            if log is not None:
                found[log.block_number, log.log_index] = log
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NodeAway("The chain's node answers with something that is no event.") from None
    return [found[place] for place in sorted(found)]


def _log(
    network: Network, shapes: Mapping[str, Mapping[str, decoding.Shape]], raw: Mapping[str, Any]
) -> Log | None:
    # Whoever else emits events of the same names is not listened to, whatever the node answers.
    address = raw["address"].lower()
    topics = raw["topics"]
    shape = shapes.get(address, {}).get(topics[0].lower()) if topics else None
    if shape is None:
        return None
    try:
        arguments = shape.read(topics, bytes.fromhex(raw["data"][2:]))
    except decoding.Undecodable:
        return None
    return Log(
        network=network,
        block_number=wire.number(raw["blockNumber"]),
        log_index=wire.number(raw["logIndex"], most=2**31 - 1),
        transaction_hash=wire.digest(raw["transactionHash"]),
        block_hash=wire.digest(raw["blockHash"]),
        address=decoding.checksummed(address[2:]),
        name=shape.name,
        arguments=decoding.plain(arguments),
    )


def _doubted(network: Network, blocks: Iterable[Head], logs: Iterable[Log]) -> list[Head]:
    """Blocks that seem to have events of contracts of which none was told."""
    told = {(log.block_number, log.address.lower()) for log in logs}
    shapes = decoding.shapes(network.contracts)
    return [
        block
        for block in blocks
        if any(
            (block.number, address) not in told
            and blooms.names(block.bloom, address)
            and any(blooms.names(block.bloom, topic) for topic in events)
            for address, events in shapes.items()
        )
    ]


def _check_told(
    network: Network, doubted: Sequence[Head], answers: Sequence[Any], logs: Iterable[Log]
) -> None:
    """Raises Untold where blocks have events that are not among those that were told."""
    told = {(log.block_number, log.log_index) for log in logs}
    for block, answer in zip(doubted, answers, strict=True):
        if isinstance(answer, Fault):
            raise Untold
        there = _events(network, answer, block.number, block.number)
        if not told.issuperset((log.block_number, log.log_index) for log in there):
            raise Untold


def _check(network: Network, blocks: Sequence[Head], logs: Iterable[Log]) -> None:
    """Raises Moved unless all of it is of one chain, and goes on from the cursor."""
    hashes = {block.number: block.hash for block in blocks}
    if blocks[0].number == network.cursor_block + 1 and network.cursor_hash:
        hashes[network.cursor_block] = network.cursor_hash
    if any(hashes.get(block.number - 1, block.parent_hash) != block.parent_hash for block in blocks):
        raise Moved
    if any(log.block_hash != hashes[log.block_number] for log in logs):
        raise Moved


# Contracts that have come to be


@dataclass(frozen=True, slots=True)
class _Inquiry:
    contract: str
    function: str
    address: str
    block: int

    @property
    def then(self) -> Question:
        return self._at(hex(self.block))

    @property
    def now(self) -> Question:
        return self._at("latest")

    def _at(self, block: str) -> Question:
        data, _ = decoding.answers(self.contract, self.function)
        return "eth_call", [{"to": self.address, "data": data}, block]

    def read(self, answer: str) -> dict[str, Any]:
        _, kinds = decoding.answers(self.contract, self.function)
        found = decoding.unpacked(kinds, bytes.fromhex(answer[2:]))
        # One value without a name: a struct, or a number.
        whole = found.get("")
        if isinstance(whole, dict):
            return whole
        return {self.function: whole} if len(found) == 1 and "" in found else found


STATUS = "getStatus"
_NEWS = {
    "SourcePublished": ("Source", "source", ("getSourceParams",)),
    "TaskPublished": ("Task", "task", ("taskParams", "getDeliveryMethod")),
    "ResponseSubmitted": ("Response", "response", ("getResponseParams",)),
}


def _inquiries(network: Network, logs: Sequence[Log]) -> list[_Inquiry]:
    """What to ask the new contracts, each as it was in the block in which it came to be."""
    found = [
        _Inquiry(contract, function, log.arguments[argument], log.block_number)
        for log in logs
        if log.name in _NEWS
        for contract, argument, functions in [_NEWS[log.name]]
        for function in functions
    ]
    for address, block in _older_sources(network, logs).items():
        found += [_Inquiry("Source", name, address, block) for name in ("getSourceParams", STATUS)]
    return found


def _older_sources(network: Network, logs: Sequence[Log]) -> dict[str, int]:
    """Sources that were published before the first block that is ever read, and where a task first names them."""
    named: dict[str, int] = {}
    for log in logs:
        if log.name == "TaskPublished":
            named.setdefault(log.arguments["source"], log.block_number)
    known = {log.arguments["source"] for log in logs if log.name == "SourcePublished"}
    wanted = set(named) - known
    if wanted:
        rows = Source.objects.filter(network=network, address__in=wanted)
        wanted -= set(rows.values_list("address", flat=True))
    return {address: block for address, block in named.items() if address in wanted}


def _said(node: Ethereum, inquiries: Sequence[_Inquiry], answers: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """By address. Nodes that forget the past are asked for the present: what they forgot is not rolled back."""
    found = dict(zip(inquiries, answers, strict=True))
    forgotten = [one for one, answer in found.items() if _is_forgotten(answer)]
    if forgotten:
        found |= dict(zip(forgotten, node.ask([one.now for one in forgotten]), strict=True))
    said: dict[str, dict[str, Any]] = {}
    unreadable = set()
    for one, answer in found.items():
        if isinstance(answer, Fault) and not answer.is_revert:
            raise NodeAway(f"The chain's node does not say what a contract says: {answer.message}")
        try:
            said.setdefault(one.address, {}).update(one.read("" if isinstance(answer, Fault) else answer))
        except (ValueError, TypeError):
            unreadable.add(one.address)
    return {address: values for address, values in said.items() if address not in unreadable}


def _is_forgotten(answer: Any) -> bool:
    return answer == "0x" or (isinstance(answer, Fault) and not answer.is_revert)


def _note(logs: Iterable[Log], said: Mapping[str, Mapping[str, Any]]) -> None:
    """What a source was at first is kept with the event that tells of it, for when a later change is rolled back."""
    noted = set()
    for log in logs:
        address = log.arguments.get("source", "")
        of_source = said.get(address, {})
        is_older = log.name == "TaskPublished" and STATUS in of_source and address not in noted
        if of_source and (log.name == "SourcePublished" or is_older):
            noted.add(address)
            params = {name: value for name, value in of_source.items() if name != STATUS}
            log.arguments["sourceParams"] = decoding.plain(params)
            log.arguments["sourceStatus"] = str(of_source.get(STATUS, 0))
