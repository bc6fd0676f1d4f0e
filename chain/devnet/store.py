"""A chain in one SQLite file: the state's trie, blocks, transactions with receipts, logs, what waits, settings.

A block is one SQLite transaction, in WAL mode: after `kill -9` the file holds whole blocks, and all that was answered.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth.db.backends.base import BaseDB

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS block (
    number INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, header BLOB NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tx (
    hash TEXT PRIMARY KEY, block INTEGER NOT NULL, position INTEGER NOT NULL,
    raw BLOB NOT NULL, body TEXT NOT NULL, receipt TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tx_block ON tx (block, position);
CREATE TABLE IF NOT EXISTS log (
    block INTEGER NOT NULL, position INTEGER NOT NULL, address TEXT NOT NULL,
    topic0 TEXT, topic1 TEXT, topic2 TEXT, topic3 TEXT, body TEXT NOT NULL,
    PRIMARY KEY (block, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS log_address ON log (address, block, position);
CREATE TABLE IF NOT EXISTS waiting (hash TEXT PRIMARY KEY, raw BLOB NOT NULL, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
CACHED_NODES = 100_000


@dataclass(frozen=True)
class TransactionRow:
    hash: str
    raw: bytes
    body: dict[str, Any]
    receipt: dict[str, Any]


@dataclass(frozen=True)
class BlockRow:
    number: int
    hash: str
    header: bytes
    body: dict[str, Any]
    transactions: list[TransactionRow] = field(default_factory=list)


@dataclass(frozen=True)
class LogQuery:
    """Which logs: `topics` has, by position, the accepted values, or None for any."""

    first: int
    last: int
    addresses: Sequence[str] | None = None
    topics: Sequence[Sequence[str] | None] = ()


class Nodes(BaseDB):
    """The state as py-evm wants it: bytes by key. What is written waits for the block that it belongs to."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._fresh: dict[bytes, bytes] = {}
        self._known: dict[bytes, bytes] = {}

    def __getitem__(self, key: bytes) -> bytes:
        value = self._fresh.get(key)
        if value is None:
            value = self._known.get(key)
        if value is not None:
            return value
        row = self._connection.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        self._remember(key, row[0])
        return bytes(row[0])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._fresh[key] = value

    def __delitem__(self, key: bytes) -> None:
        """Nodes stay: the state of every block can be read, and a reorganisation comes back to one."""
        self._fresh.pop(key, None)

    def _exists(self, key: bytes) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    def flush(self) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", self._fresh.items())
        for key, value in self._fresh.items():
            self._remember(key, value)
        self._fresh = {}

    def forget_fresh(self) -> None:
        self._fresh = {}

    def _remember(self, key: bytes, value: bytes) -> None:
        if len(self._known) >= CACHED_NODES:
            self._known.clear()
        self._known[key] = value


class Store:
    """Not safe for threads by itself: the chain holds one lock around it."""

    def __init__(self, path: Path | str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(SCHEMA)
        self.nodes = Nodes(self._connection)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All of it, or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.nodes.flush()
        except BaseException:
            self._connection.execute("ROLLBACK")
            self.nodes.forget_fresh()
            raise
        self._connection.execute("COMMIT")

    # Blocks

    def add_block(self, block: BlockRow) -> None:
        self._connection.execute(
            "INSERT INTO block VALUES (?, ?, ?, ?)",
            (block.number, block.hash, block.header, json.dumps(block.body)),
        )
        for position, found in enumerate(block.transactions):
            self._connection.execute(
                "INSERT OR REPLACE INTO tx VALUES (?, ?, ?, ?, ?, ?)",
                (
                    found.hash,
                    block.number,
                    position,
                    found.raw,
                    json.dumps(found.body),
                    json.dumps(found.receipt),
                ),
            )
            self._connection.execute("DELETE FROM waiting WHERE hash = ?", (found.hash,))
            self._connection.executemany(
                "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [self._log_row(block.number, log) for log in found.receipt["logs"]],
            )

    @staticmethod
    def _log_row(number: int, log: dict[str, Any]) -> tuple[Any, ...]:
        topics = [*log["topics"], None, None, None, None][:4]
        return (number, int(log["logIndex"], 16), log["address"].lower(), *topics, json.dumps(log))

    def drop_blocks_after(self, number: int) -> list[bytes]:
        """The raw transactions that stood in them, oldest first."""
        raws = [
            row[0]
            for row in self._connection.execute(
                "SELECT raw FROM tx WHERE block > ? ORDER BY block, position", (number,)
            )
        ]
        for table, column in (("block", "number"), ("tx", "block"), ("log", "block")):
            self._connection.execute(f"DELETE FROM {table} WHERE {column} > ?", (number,))  # noqa: S608
        return raws

    def head_number(self) -> int | None:
        found = self._connection.execute("SELECT max(number) FROM block").fetchone()[0]
        return None if found is None else int(found)

    def header(self, number: int) -> bytes | None:
        row = self._connection.execute("SELECT header FROM block WHERE number = ?", (number,)).fetchone()
        return None if row is None else bytes(row[0])

    def block(self, number: int) -> dict[str, Any] | None:
        row = self._connection.execute("SELECT body FROM block WHERE number = ?", (number,)).fetchone()
        return None if row is None else json.loads(row[0])

    def number_of(self, block_hash: str) -> int | None:
        row = self._connection.execute("SELECT number FROM block WHERE hash = ?", (block_hash,)).fetchone()
        return None if row is None else int(row[0])

    def hashes_before(self, number: int, count: int) -> list[bytes]:
        """The hashes of the blocks below `number`, nearest first."""
        rows = self._connection.execute(
            "SELECT hash FROM block WHERE number < ? ORDER BY number DESC LIMIT ?", (number, count)
        )
        return [bytes.fromhex(row[0][2:]) for row in rows]

    # Transactions and logs

    def transaction(self, transaction_hash: str) -> dict[str, Any] | None:
        return self._one("SELECT body FROM tx WHERE hash = ?", transaction_hash)

    def receipt(self, transaction_hash: str) -> dict[str, Any] | None:
        return self._one("SELECT receipt FROM tx WHERE hash = ?", transaction_hash)

    def transactions_of(self, number: int) -> list[dict[str, Any]]:
        return self._all("SELECT body FROM tx WHERE block = ? ORDER BY position", (number,))

    def receipts_of(self, number: int) -> list[dict[str, Any]]:
        return self._all("SELECT receipt FROM tx WHERE block = ? ORDER BY position", (number,))

    def logs(self, query: LogQuery, limit: int) -> list[dict[str, Any]]:
        """At most `limit`, oldest first."""
        conditions, values = ["block BETWEEN ? AND ?"], [query.first, query.last]
        columns = [("address", query.addresses)] + [
            (f"topic{index}", accepted) for index, accepted in enumerate(query.topics)
        ]
        for column, accepted in columns:
            if accepted is not None:
                conditions.append(f"{column} IN ({', '.join('?' * len(accepted))})")
                values.extend(accepted)  # type: ignore[arg-type]
        # A topic that must be there, though any value will do.
        conditions += [f"topic{index} IS NOT NULL" for index in range(len(query.topics))]
        where = " AND ".join(conditions)
        return self._all(
            f"SELECT body FROM log WHERE {where} ORDER BY block, position LIMIT ?",  # noqa: S608
            (*values, limit),
        )

    def _one(self, statement: str, key: str) -> dict[str, Any] | None:
        row = self._connection.execute(statement, (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def _all(self, statement: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
        return [json.loads(row[0]) for row in self._connection.execute(statement, values)]

    # Waiting transactions and settings

    def add_waiting(self, transaction_hash: str, raw: bytes) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO waiting VALUES (?, ?, (SELECT coalesce(max(sequence), 0) + 1 FROM waiting))",
            (transaction_hash, raw),
        )

    def drop_waiting(self, transaction_hash: str) -> None:
        self._connection.execute("DELETE FROM waiting WHERE hash = ?", (transaction_hash,))

    def waiting(self) -> list[bytes]:
        return [row[0] for row in self._connection.execute("SELECT raw FROM waiting ORDER BY sequence")]

    def setting(self, name: str, default: Any = None) -> Any:
        row = self._connection.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set(self, name: str, value: Any) -> None:
        self._connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, json.dumps(value)))
