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
from psycopg2.extensions import POLL_OK, POLL_WRITE

from marketplace.errors import Unavailable

logger = logging.getLogger(__name__)


class NotRecorded(Unavailable):
    code, message = (
        "database_unavailable",
        "The request could not be recorded, so it was not carried out. Try again.",
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with one parameter `$1`, a JSON array of rows. Repeating it must change nothing: it may run twice.

    Statements of one batch run in the order in which the GroupCommit was given them.
    """

    name: str
    sql: str


@dataclass(slots=True)
class _Write:
    statement: Statement
    row: dict[str, Any]
    done: asyncio.Future[None]
    submitted_at: float = field(default_factory=time.monotonic)


class GroupCommit:
    """Collects the writes of an event loop and commits them in batches. One per process."""

    def __init__(
        self, statements: Sequence[Statement], *, give_up_after_s: float = 15.0, max_batch: int = 1000
    ) -> None:
        self._rank = {statement.name: rank for rank, statement in enumerate(statements)}
        self._statements = statements
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

    def submit(self, statement: Statement, row: dict[str, Any]) -> asyncio.Future[None]:
        """Done when the row is durable; NotRecorded when the database stayed away for too long."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(_Write(statement, row, done))
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
                await self._execute(batch)
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
                _resolve(batch, None)
                return

    async def _execute(self, batch: list[_Write]) -> None:
        if self._connection is None:
            self._connection = await _Connection.open(self._loop)
            for statement in self._statements:
                await self._connection.execute(f"PREPARE {statement.name}(json) AS {statement.sql}")
        rows: dict[str, list[dict[str, Any]]] = {}
        for write in batch:
            rows.setdefault(write.statement.name, []).append(write.row)
        names = sorted(rows, key=self._rank.__getitem__)
        sql = ";".join(f"EXECUTE {name}(%s)" for name in names)
        await self._connection.execute(sql, [orjson.dumps(rows[name]).decode() for name in names])

    async def _refused(self, batch: list[_Write], error: Exception) -> None:
        if len(batch) == 1:
            logger.error("Refused by the database: %s %s", batch[0].statement.name, error)
            _resolve(batch, error)
            return
        for write in batch:
            await self._commit([write])

    def _give_up_on_old(self, batch: list[_Write]) -> list[_Write]:
        limit = time.monotonic() - self._give_up_after_s
        _resolve([write for write in batch if write.submitted_at < limit], NotRecorded(retry_after=2))
        return [write for write in batch if write.submitted_at >= limit]

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


def _resolve(batch: list[_Write], error: Exception | None) -> None:
    for write in batch:
        if write.done.done():
            continue
        if error is None:
            write.done.set_result(None)
        else:
            write.done.set_exception(error)
            # Whoever still waits sees it; where nobody does, the log has said it already.
            write.done.exception()
