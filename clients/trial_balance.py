"""The trial balance: whether the books add up, and where they do not, which rows are wrong and by how much.

Nothing here writes. All of it is read as of one moment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connection, transaction

from clients import books
from clients.books import Check
from clients.models import AccountKind

# So many of the rows that break a check are shown; all of them are counted.
SHOWN = 20

_HAS = """
    SELECT a.id, a.client_id, a.kind, a.held, a.balance + coalesce(s.balance, 0) AS balance
    FROM clients_account a
    LEFT JOIN (SELECT account_id, sum(balance) AS balance FROM clients_stripe GROUP BY account_id) s
        ON s.account_id = a.id
"""

# What must be so of the ledger itself; the apps' own checks come after these.
CHECKS = (
    Check(
        says="All accounts together hold nothing: what somebody has, somebody else has given.",
        page="",
        sql=f"""
        SELECT 'all accounts', NULL, 0, sum(balance), '' FROM ({_HAS}) AS has HAVING sum(balance) <> 0
        """,  # noqa: S608 - constants
    ),
    Check(
        says="Each account holds what came in, less what went out.",
        page="clients_account",
        sql=f"""
        WITH moved AS (
            SELECT account, sum(amount) AS amount FROM (
                SELECT destination_id AS account, sum(amount - fee) AS amount FROM clients_transfer GROUP BY 1
                UNION ALL SELECT source_id, -sum(amount) FROM clients_transfer GROUP BY 1
                UNION ALL SELECT (SELECT id FROM clients_account WHERE client_id IS NULL AND kind = 'fees'), sum(fee)
                FROM clients_transfer
            ) AS each GROUP BY account
        )
        SELECT 'acc_' || coalesce(has.id, moved.account), coalesce(has.id, moved.account), coalesce(moved.amount, 0),
            coalesce(has.balance, 0), CASE WHEN has.id IS NULL THEN 'there is no such account' ELSE has.kind END
        FROM ({_HAS}) AS has FULL JOIN moved ON moved.account = has.id
        WHERE coalesce(moved.amount, 0) <> coalesce(has.balance, 0)
        """,  # noqa: S608 - constants
    ),
    Check(
        says="What is held of each account is what its open holds reserve.",
        page="clients_account",
        sql="""
        WITH reserved AS (
            SELECT account_id, sum(amount - captured) AS amount FROM clients_hold
            WHERE ended_at IS NULL GROUP BY account_id
        )
        SELECT 'acc_' || coalesce(a.id, reserved.account_id), coalesce(a.id, reserved.account_id),
            coalesce(reserved.amount, 0), coalesce(a.held, 0),
            CASE WHEN a.id IS NULL THEN 'there is no such account' ELSE a.kind END
        FROM clients_account a FULL JOIN reserved ON reserved.account_id = a.id
        WHERE coalesce(reserved.amount, 0) <> coalesce(a.held, 0)
        """,
    ),
    Check(
        says="Each reversal gave back all that its transfer took, the fee included.",
        page="clients_transfer",
        sql="""
        SELECT back.reference, back.id, original.amount, back.amount + coalesce(fee.amount, 0), ''
        FROM clients_transfer back
        JOIN clients_transfer original ON original.id = back.reverses_id
        LEFT JOIN clients_transfer fee ON fee.reference = back.reference || ':fee'
        WHERE original.amount <> back.amount + coalesce(fee.amount, 0)
        """,
    ),
    Check(
        says="Each payout that was paid has its transfer, and each of these transfers its payout.",
        page="clients_payout",
        sql="""
        SELECT coalesce(t.reference, 'payout:' || p.id), p.id, coalesce(p.amount, 0), coalesce(t.amount, 0),
            CASE WHEN t.id IS NULL THEN 'paid, without a transfer' WHEN p.id IS NULL THEN 'a transfer without a payout'
            ELSE 'another amount' END
        FROM (SELECT id, amount FROM clients_payout WHERE status = 'paid') p
        FULL JOIN (SELECT id, reference, amount FROM clients_transfer WHERE kind = 'payout') t
            ON t.reference = 'payout:' || p.id
        WHERE p.amount IS DISTINCT FROM t.amount
        """,
    ),
    Check(
        says="Each payout that waits has its money held, and no other payout has.",
        page="clients_payout",
        sql="""
        SELECT coalesce(h.reference, 'payout:' || p.id), p.id,
            CASE WHEN p.status = 'requested' THEN p.amount ELSE 0 END, coalesce(h.amount, 0),
            coalesce(p.status, 'there is no such payout')
        FROM clients_payout p
        FULL JOIN (
            SELECT reference, amount - captured AS amount FROM clients_hold
            WHERE ended_at IS NULL AND reference LIKE 'payout:%'
        ) h ON h.reference = 'payout:' || p.id
        WHERE CASE WHEN p.status = 'requested' THEN p.amount ELSE 0 END <> coalesce(h.amount, 0) OR p.id IS NULL
        """,
    ),
)


@dataclass(frozen=True, slots=True)
class Break:
    """A row that breaks a check. Amounts in base units; `expected` and `found` may be None."""

    name: str
    pk: int | None
    expected: int | None
    found: int | None
    note: str

    @property
    def difference(self) -> int | None:
        return None if self.expected is None or self.found is None else self.found - self.expected


@dataclass(frozen=True, slots=True)
class Result:
    check: Check
    count: int
    breaks: list[Break]


@dataclass(frozen=True, slots=True)
class Total:
    """All accounts of a kind together."""

    kind: AccountKind
    accounts: int
    balance: int
    held: int


@dataclass(slots=True)
class Report:
    totals: list[Total] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    transfers: int = 0
    seconds: float = 0.0

    @property
    def sum(self) -> int:
        return sum(total.balance for total in self.totals)

    @property
    def adds_up(self) -> bool:
        return not any(result.count for result in self.results)


def run() -> Report:
    """Look at all of the books. Not within a transaction: it takes one of its own."""
    report, started = Report(), time.perf_counter()
    with _snapshot() as cursor:
        cursor.execute(
            f"SELECT kind, count(*), sum(balance), sum(held) FROM ({_HAS}) AS has GROUP BY kind ORDER BY kind"  # noqa: S608
        )
        report.totals = [Total(AccountKind(kind), *map(int, numbers)) for kind, *numbers in cursor.fetchall()]
        cursor.execute("SELECT count(*) FROM clients_transfer")
        report.transfers = cursor.fetchone()[0]
        for check in (*CHECKS, *books.checks()):
            report.results.append(_result(cursor, check))
    report.seconds = time.perf_counter() - started
    return report


def _result(cursor: Any, check: Check) -> Result:
    sql = f"SELECT *, count(*) OVER () FROM ({check.sql}) AS broken ORDER BY 2 LIMIT {SHOWN}"  # noqa: S608 - constants
    cursor.execute(sql)
    rows = cursor.fetchall()
    breaks = [
        Break(name, pk, _whole(expected), _whole(found), note) for name, pk, expected, found, note, _ in rows
    ]
    return Result(check, count=rows[0][-1] if rows else 0, breaks=breaks)


def _whole(amount: Any) -> int | None:
    return None if amount is None else int(amount)


@contextmanager
def _snapshot() -> Iterator[Any]:
    """A cursor to which the database looks as it did at one moment, whatever others commit meanwhile."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield cursor
