"""The chain: its head, its clock, the transactions that wait, and when blocks are made."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eth_utils import to_checksum_address

from chain.devnet import formats
from chain.devnet.accounts import BALANCE, development_accounts
from chain.devnet.errors import refused
from chain.devnet.machine import (
    GAS_LIMIT,
    Applied,
    Executed,
    Machine,
    encoded_header,
    hash_of,
    header_from,
    raw_of,
)
from chain.devnet.pool import Pool, Waiting
from chain.devnet.store import BlockRow, Store, TransactionRow

CHAIN_ID = 131277322940537
# After the last transaction the chain goes on for this many empty blocks, one a second, so that confirmations come;
# then it rests.
TAIL = 12
ANCESTORS = 256


class Chain:
    """All methods are safe for threads: they share one lock."""

    def __init__(
        self,
        path: Path | str,
        *,
        chain_id: int = CHAIN_ID,
        tail: int = TAIL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lock = threading.RLock()
        self.store = Store(path)
        self.machine = Machine(self.store.nodes, chain_id)
        self.pool = Pool()
        self.tail = tail
        self._clock = clock
        self._changed = threading.Condition(self.lock)
        self._open(chain_id)

    def _open(self, chain_id: int) -> None:
        number = self.store.head_number()
        if number is None:
            self._begin(chain_id)
        else:
            self.head = header_from(self.store.header(number) or b"")
        kept = self.store.setting("chain_id")
        if kept != chain_id:
            raise ValueError(f"this folder holds the chain {kept}, not {chain_id}")
        self.offset: int = self.store.setting("offset", 0)
        self.automine: bool = self.store.setting("automine", True)
        self.next_timestamp: int | None = None
        self._tail_left: int = self.store.setting("tail_left", 0)
        for raw in self.store.waiting():
            self.pool.add(self._waiting(raw))

    def _begin(self, chain_id: int) -> None:
        balances = {bytes.fromhex(found.address[2:]): BALANCE for found in development_accounts()}
        with self.store.together():
            self.head = self.machine.genesis(balances, int(self._clock()))
            self.store.add_block(self._block_row(Executed(self.head, [], [])))
            self.store.set("chain_id", chain_id)

    def close(self) -> None:
        with self.lock:
            self.store.close()

    # The clock

    def now(self) -> int:
        """The time on this chain, in seconds: the real one, plus what tests have added."""
        return int(self._clock()) + self.offset

    def upcoming(self) -> Any:
        """The header of the block that would be made now."""
        return self.machine.successor(self.head, timestamp=self.upcoming_timestamp())

    def upcoming_timestamp(self) -> int:
        return max(self.head.timestamp, self.next_timestamp or self.now())

    def shift_clock(self, seconds: int) -> None:
        with self.lock, self.store.together():
            self.offset += seconds
            self.store.set("offset", self.offset)

    def set_next_timestamp(self, timestamp: int) -> None:
        with self.lock:
            if timestamp < self.head.timestamp:
                raise refused(
                    f"timestamp {timestamp} is lower than the previous block's timestamp {self.head.timestamp}"
                )
            self.next_timestamp = timestamp
            self.shift_clock(timestamp - self.now())

    # Transactions

    def submit(self, raw: bytes) -> str:
        """Take a signed transaction; mine it at once unless that is switched off. Its hash."""
        with self.lock:
            found = self._waiting(raw)
            replaced = self._admit(found)
            with self.store.together():
                if replaced is not None:
                    self.store.drop_waiting(replaced.hash)
                self.store.add_waiting(found.hash, raw)
            self.pool.add(found)
            if self.automine:
                self._mine_waiting()
            return found.hash

    def _waiting(self, raw: bytes) -> Waiting:
        transaction = self.machine.decode(raw)
        chain_id = _chain_of(transaction)
        if chain_id is not None and chain_id != self.machine.chain_id:
            raise refused(f"invalid chain id for signer: have {chain_id} want {self.machine.chain_id}")
        if transaction.type_id == 3:
            raise refused("transaction type not supported")
        return Waiting(hash_of(raw), bytes(transaction.sender), raw, transaction)

    def _admit(self, found: Waiting) -> Waiting | None:
        transaction = found.transaction
        if transaction.gas > GAS_LIMIT:
            raise refused("exceeds block gas limit")
        if transaction.gas < transaction.intrinsic_gas:
            raise refused(
                f"intrinsic gas too low: gas {transaction.gas}, minimum needed {transaction.intrinsic_gas}"
            )
        if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
            raise refused("max priority fee per gas higher than max fee per gas")
        state = self.machine.state(self.head)
        return self.pool.check(found, state.get_nonce(found.sender), state.get_balance(found.sender))

    def waiting_json(self, found: Waiting) -> dict[str, Any]:
        body = formats.transaction_json(found.transaction, found.sender, self.machine.chain_id)
        return body | {"blockHash": None, "blockNumber": None, "transactionIndex": None}

    def drop(self, transaction_hash: str) -> bool:
        """Forget a waiting transaction, as a node does that restarts or runs full."""
        with self.lock:
            found = self.pool.get(transaction_hash)
            if found is None:
                return False
            with self.store.together():
                self.store.drop_waiting(transaction_hash)
            self.pool.remove(transaction_hash)
            return True

    # Blocks

    def mine(self, count: int = 1) -> None:
        with self.lock:
            for _ in range(count):
                self._mine(self.ready())

    def _mine_waiting(self) -> None:
        while ready := self.ready():
            if not self._mine(ready):
                return

    def ready(self) -> list[Waiting]:
        """What the next block would take."""
        state = self.machine.state(self.head)
        return self.pool.ready(state.get_nonce, self.upcoming().base_fee_per_gas)

    def _mine(self, ready: list[Waiting]) -> int:
        """Make one block; how many transactions have left the pool."""
        header = self.upcoming().copy(mix_hash=os.urandom(32))
        ancestors = self.ancestors(header.block_number)
        with self.store.together():
            executed = self.machine.execute(header, [found.transaction for found in ready], ancestors)
            self.store.add_block(self._block_row(executed))
            gone = [hash_of(raw_of(found.transaction)) for found in executed.applied]
            gone += [hash_of(raw_of(transaction)) for transaction, _ in executed.invalid]
            gone += [found.hash for found in self.pool.stale(self.machine.state(executed.header).get_nonce)]
            for transaction_hash in gone:
                self.store.drop_waiting(transaction_hash)
            tail_left = self.tail if executed.applied else max(0, self._tail_left - 1)
            self.store.set("tail_left", tail_left)
        self.head, self.next_timestamp, self._tail_left = executed.header, None, tail_left
        for transaction_hash in gone:
            self.pool.remove(transaction_hash)
        self._changed.notify_all()
        return len(gone)

    def _block_row(self, executed: Executed) -> BlockRow:
        header = executed.header
        rows = _Receipts(header, self.machine.chain_id).rows(executed.applied)
        encoded = encoded_header(header)
        size = len(encoded) + sum(len(row.raw) for row in rows)
        body = formats.block_json(header, [row.hash for row in rows], size)
        return BlockRow(header.block_number, body["hash"], encoded, body, rows)

    def ancestors(self, number: int) -> list[bytes]:
        return self.store.hashes_before(number, ANCESTORS)

    def header_at(self, number: int) -> Any:
        if number == self.head.block_number:
            return self.head
        encoded = self.store.header(number)
        if encoded is None:
            raise refused("header not found")
        return header_from(encoded)

    # Going back

    def snapshot(self) -> int:
        """A number under which `revert` finds the present head again."""
        with self.lock, self.store.together():
            snapshots = self.store.setting("snapshots", [])
            number = snapshots[-1][0] + 1 if snapshots else 1
            mark = (number, self.head.block_number, formats.data(self.head.hash), self.offset)
            self.store.set("snapshots", [*snapshots, mark])
            return int(number)

    def revert(self, snapshot: int) -> bool:
        """Back to a snapshot, which is used up, with those after it and all that waited; False where there is none."""
        with self.lock:
            snapshots = self.store.setting("snapshots", [])
            found = next((mark for mark in snapshots if mark[0] == snapshot), None)
            if found is None or self.store.number_of(found[2]) != found[1]:
                return False
            with self.store.together():
                self._back_to(found[1])
                self.offset = found[3]
                self.store.set("offset", self.offset)
                self.store.set("snapshots", [mark for mark in snapshots if mark[0] < snapshot])
                for waiting in self.pool:
                    self.store.drop_waiting(waiting.hash)
            self.pool.clear()
            return True

    def reorganise(self, depth: int, *, keep: bool = False) -> list[str]:
        """Replace the last `depth` blocks by as many others, and one more.

        What stood in them is forgotten, or, with `keep`, mined again in the first of the new ones.
        The hashes of the transactions concerned.
        """
        with self.lock:
            if not 0 < depth <= self.head.block_number:
                raise refused(f"cannot reorganise {depth} of {self.head.block_number} blocks")
            with self.store.together():
                raws = self._back_to(self.head.block_number - depth)
            ready = [self._waiting(raw) for raw in raws] if keep else []
            for found in ready:
                self.pool.add(found)
            self._mine(ready)
            for _ in range(depth):
                self._mine(self.ready() if keep else [])
            return [hash_of(raw) for raw in raws]

    def _back_to(self, number: int) -> list[bytes]:
        raws = self.store.drop_blocks_after(number)
        self.head = header_from(self.store.header(number) or b"")
        self.next_timestamp, self._tail_left = None, 0
        self.store.set("tail_left", 0)
        return raws

    # The quiet time after a transaction

    def rest(self, stop: threading.Event) -> None:
        """Make the empty blocks after the last transaction, until `stop` is set; runs in a thread of its own."""
        with self._changed:
            while not stop.is_set():
                due = self.head.timestamp + 1 - self.now()
                if self._tail_left and self.automine and due <= 0:
                    self._mine(self.ready())
                elif self._tail_left and self.automine:
                    self._changed.wait(min(due, 1))
                else:
                    self._changed.wait(1)

    def set_automine(self, wanted: bool) -> None:
        """Without it transactions wait until `mine` is called, and time makes no blocks either."""
        with self.lock:
            self.automine = wanted
            with self.store.together():
                self.store.set("automine", wanted)
            if wanted:
                self._mine_waiting()
            self._changed.notify_all()


def _chain_of(transaction: Any) -> int | None:
    """The chain that a transaction is signed for; None where an old one names none."""
    if transaction.type_id is None:
        return None if transaction.v < 35 else int((transaction.v - 35) // 2)
    return int(transaction.chain_id)


class _Receipts:
    """The rows of a block's transactions."""

    def __init__(self, header: Any, chain_id: int) -> None:
        self._header = header
        self._chain_id = chain_id
        self._logs = 0

    def rows(self, applied: list[Applied]) -> list[TransactionRow]:
        return [self._row(found, position) for position, found in enumerate(applied)]

    def _row(self, found: Applied, position: int) -> TransactionRow:
        transaction, raw = found.transaction, raw_of(found.transaction)
        body = formats.transaction_json(transaction, bytes(transaction.sender), self._chain_id)
        body = formats.placed(body, self._header, position)
        return TransactionRow(body["hash"], raw, body, self._receipt(found, body))

    def _receipt(self, found: Applied, body: dict[str, Any]) -> dict[str, Any]:
        place = {name: body[name] for name in ("blockHash", "blockNumber", "transactionIndex")}
        created = formats.created_address(found.transaction) if body["to"] is None else None
        return place | {
            "transactionHash": body["hash"],
            "type": body["type"],
            "from": body["from"],
            "to": body["to"],
            "contractAddress": to_checksum_address(created) if created else None,
            "status": "0x1" if found.succeeded else "0x0",
            "gasUsed": formats.quantity(found.gas_used),
            "cumulativeGasUsed": formats.quantity(found.receipt.gas_used),
            "effectiveGasPrice": body["gasPrice"],
            "logsBloom": formats.data(found.receipt.bloom.to_bytes(256, "big")),
            "logs": [self._log(log, place, body["hash"]) for log in found.receipt.logs],
        }

    def _log(self, log: Any, place: dict[str, Any], transaction_hash: str) -> dict[str, Any]:
        self._logs += 1
        return place | {
            "transactionHash": transaction_hash,
            "address": to_checksum_address(log.address),
            "topics": [formats.data(topic.to_bytes(32, "big")) for topic in log.topics],
            "data": formats.data(log.data),
            "logIndex": formats.quantity(self._logs - 1),
            "removed": False,
        }
