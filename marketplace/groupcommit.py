"""Many small writes, one transaction: what waits while a transaction commits is committed together by the next.

A request that had to wait for its own transaction would wait for a disk; sixty-four of them share one wait here. Each
write is a row for a prepared statement that takes all its rows as one JSON array, so that a batch is one round trip:
several statements in one simple query are one transaction. The connection is driven by the event loop itself.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import psycopg2
from django.db import connections
from psycopg2.extensions import POLL_OK, POLL_WRITE, TransactionRollbackError

from marketplace.errors import Unavailable

logger = logging.getLogger(__name__)


# Every statement finds its rows by keys. The planner, who has last seen a table when it was small, or whose statistics
# tell of one that is emptied all the time, would rather read it whole.
PLANNER = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off"


class NotRecorded(Unavailable):
    code, message = (
        "database_unavailable",
        "The request could not be recorded, so it was not carried out. Try again.",
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with one parameter `$1`, a JSON array of rows. Repeating it must change nothing: it may run twice.

    Statements of one batch run in the order in which the GroupCommit was given them.
    `answers` names the field by which its result is told apart: rows (value of that field, anything, …).
    `locks` names a field whose values are locked before the batch does anything else.
    """

    name: str
    sql: str
    answers: str = ""
    locks: str = ""


Row = dict[str, Any]
Part = tuple[Statement, Row]


@dataclass(slots=True)
class _Write:
    parts: tuple[Part, ...]
    done: asyncio.Future[Any]
    keep: bool = False
    submitted_at: float = field(default_factory=time.monotonic)


class GroupCommit:
    """Collects the writes of an event loop and commits them in batches. One per process."""

    def __init__(
        self,
        statements: Sequence[Statement],
        *,
        lock: Statement | None = None,
        give_up_after_s: float = 15.0,
        max_batch: int = 1000,
    ) -> None:
        """`lock` takes a JSON array of the values that a batch's rows have in their statements' `locks`."""
        self._lock = lock
        self._rank = {statement.name: rank for rank, statement in enumerate(statements)}
        self._statements = statements
        self._answering = frozenset(statement.name for statement in statements if statement.answers)
        self._give_up_after_s = give_up_after_s
        self._max_batch = max_batch
        self._waiting: list[_Write] = []
        self._connection: _Connection | None = None
        self._wake: asyncio.Future[None] | None = None
        self._stopping = False

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._work())

    async def stop(self) -> None:
        """Commit what waits, then close the connection."""
        self._stopping = True
        self._ring()
        await self._task
        self._disconnect()

    def submit(self, *parts: Part, keep: bool = False) -> asyncio.Future[Any]:
        """Done when all parts are durable, which they are together or not at all. The result is the answer, if any.

        NotRecorded when the database stayed away for too long; with `keep` it is written nevertheless when it is back.
        """
        done: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(_Write(parts, done, keep))
        self._ring()
        return done

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query on a connection of its own. Raises psycopg2.Error."""
        connection = await _Connection.open(self._loop)
        try:
            return await connection.execute(sql, parameters)
        finally:
            connection.close()

    def _ring(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _work(self) -> None:
        while True:
            while not self._waiting and not self._stopping:
                self._wake = self._loop.create_future()
                await self._wake
            batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
            if not batch:
                return
            await self._commit(batch)

    async def _commit(self, batch: list[_Write]) -> None:
        """Commit one batch, waiting for a database that is away; a row that it refuses fails alone."""
        pause = 0.05
        while batch:
            try:
                answers = await self._execute(batch)
            except TransactionRollbackError as error:
                # A deadlock with something slower: everything was undone, and can be done again at once.
                logger.warning("A batch is repeated: %s", str(error).split("\n")[0])
                await asyncio.sleep(0)
            except (psycopg2.OperationalError, psycopg2.InterfaceError, OSError) as error:
                logger.warning(
                    "The database is away (%s); %d writes wait", str(error).split("\n")[0], len(batch)
                )
                self._disconnect()
                batch = self._give_up_on_old(batch)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            except (psycopg2.Error, TypeError) as error:
                await self._refused(batch, error)
                return
            else:
                _answer(batch, answers)
                return

    async def _execute(self, batch: list[_Write]) -> dict[Any, Any]:
        if self._connection is None:
            self._connection = await _Connection.open(self._loop)
            await self._connection.execute(PLANNER)
            for statement in (*self._statements, *filter(None, [self._lock])):
                await self._connection.execute(f"PREPARE {statement.name}(json) AS {statement.sql}")
        rows: dict[str, list[Row]] = {}
        locked = set()
        for write in batch:
            for statement, row in write.parts:
                rows.setdefault(statement.name, []).append(row)
                if statement.locks:
                    locked.add(row[statement.locks])
        names: list[str] = sorted(rows, key=self._rank.__getitem__)
        queries = [(name, orjson.dumps(rows[name]).decode()) for name in names]
        # Also a single one: a statement that waits for a row goes on with what it saw of other rows before it waited.
        if locked and self._lock is not None:
            queries.insert(0, (self._lock.name, orjson.dumps(list(locked)).decode()))
        return await self._run(queries)

    async def _run(self, queries: list[tuple[str, str]]) -> dict[Any, Any]:
        """Run statements in one transaction; what they answered.

        Several statements in one simple query are one transaction, and one round trip. What comes back is the result
        of the last one, so that a second one that answers needs a round trip more.
        """
        connection = self._connection
        assert connection is not None
        answering = [name for name, _ in queries if name in self._answering]
        if len(answering) < 2 and (not answering or answering[0] == queries[-1][0]):
            found = await connection.execute(_joined(queries), [rows for _, rows in queries])
            return {row[0]: row[1:] for row in found} if answering else {}
        answers: dict[Any, Any] = {}
        await connection.execute("BEGIN")
        try:
            for name, rows in queries:
                found = await connection.execute(f"EXECUTE {name}(%s)", [rows])
                if name in self._answering:
                    answers |= {row[0]: row[1:] for row in found}
        except psycopg2.Error:
            await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        return answers

    async def _refused(self, batch: list[_Write], error: Exception) -> None:
        if len(batch) == 1:
            logger.error("Refused by the database: %s %s", batch[0].parts[0][0].name, error)
            _resolve(batch, error)
            return
        for write in batch:
            await self._commit([write])

    def _give_up_on_old(self, batch: list[_Write]) -> list[_Write]:
        limit = time.monotonic() - self._give_up_after_s
        _resolve([write for write in batch if write.submitted_at < limit], NotRecorded(retry_after=2))
        return [write for write in batch if write.keep or write.submitted_at >= limit]

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Connection:
    """A psycopg2 connection in asynchronous mode, on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, raw: Any) -> None:
        self._loop = loop
        self._raw = raw

    @classmethod
    async def open(cls, loop: asyncio.AbstractEventLoop) -> "_Connection":
        parameters = {**connections["default"].get_connection_params(), "connect_timeout": 5}
        parameters.pop("cursor_factory", None)
        parameters.pop("context", None)
        connection = cls(loop, psycopg2.connect(**parameters, async_=1, application_name="group-commit"))
        try:
            async with asyncio.timeout(5):
                await connection._settle()
        except TimeoutError:
            connection.close()
            raise psycopg2.OperationalError("no answer while connecting") from None
        return connection

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._raw.cursor() as cursor:
            cursor.execute(sql, parameters)
            await self._settle()
            return cursor.fetchall() if cursor.description else []

    async def _settle(self) -> None:
        """Wait until the connection has nothing more to do."""
        while (state := self._raw.poll()) != POLL_OK:
            ready = self._loop.create_future()
            descriptor = self._raw.fileno()
            add, remove = (
                (self._loop.add_writer, self._loop.remove_writer)
                if state == POLL_WRITE
                else (self._loop.add_reader, self._loop.remove_reader)
            )
            add(descriptor, _set, ready)
            try:
                await ready
            finally:
                remove(descriptor)

    def close(self) -> None:
        self._raw.close()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _joined(queries: list[tuple[str, str]]) -> str:
    return ";".join(f"EXECUTE {name}(%s)" for name, _ in queries)


def _answer(batch: list[_Write], answers: dict[Any, Any]) -> None:
    for write in batch:
        if not write.done.done():
            statement, row = write.parts[-1]
            write.done.set_result(answers.get(row[statement.answers]) if statement.answers else None)


def _resolve(batch: list[_Write], error: Exception) -> None:
    for write in batch:
        if not write.done.done():
            write.done.set_exception(error)
            # Whoever still waits sees it; where nobody does, the log has said it already.
            write.done.exception()
