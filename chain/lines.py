"""Lines of a comparison of the ledger with the chain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import connection

# So many rows that are wrong are named.
NAMED = 20


class Question(NamedTuple):
    """A number that the chain is asked for: what a function answers, or (without one) the coins of an address."""

    address: str
    function: str = ""
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison, in base units: `chain` less `ledger` should be the sum of what is `explained`.

    `wrong` names rows that are not as they should be, a sentence each.
    """

    name: str
    says: str
    ledger: int
    chain: int
    explained: list[tuple[str, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def difference(self) -> int:
        return self.chain - self.ledger

    @property
    def unexplained(self) -> int:
        return self.difference - sum(amount for _, amount in self.explained)

    @property
    def is_right(self) -> bool:
        return self.unexplained == 0 and not self.wrong

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "says": self.says,
            "ledger": str(self.ledger),
            "chain": str(self.chain),
            "difference": str(self.difference),
            "explained": [{"says": says, "amount": str(amount)} for says, amount in self.explained if amount],
            "unexplained": str(self.unexplained),
            "wrong": self.wrong,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows with one verdict: what they are together in the ledger and on the chain, and the first of them in words."""

    ledger: int
    chain: int
    named: list[str]


def judged(sql: str, parameters: dict[str, Any]) -> dict[str, Judged]:
    """The rows of a statement (verdict, ledger, chain, words), by verdict."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT verdict, coalesce(sum(ledger), 0), coalesce(sum(chain), 0),
                (array_agg(words ORDER BY words) FILTER (WHERE words <> ''))[1:{NAMED}]
            FROM ({sql}) AS rows (verdict, ledger, chain, words) GROUP BY verdict
            """,  # noqa: S608 - constants
            parameters,
        )
        return {
            verdict: Judged(int(ledger), int(chain), list(named or []))
            for verdict, ledger, chain, named in cursor.fetchall()
        }


def line(name: str, says: str, found: dict[str, Judged], explanations: Iterable[tuple[str, str]]) -> Line:
    """A line of all judged rows; `explanations` are verdicts with what they say. The verdict "wrong" names rows."""
    return Line(
        name,
        says,
        ledger=sum(each.ledger for each in found.values()),
        chain=sum(each.chain for each in found.values()),
        explained=[
            (words, found[verdict].chain - found[verdict].ledger)
            for verdict, words in explanations
            if verdict in found
        ],
        wrong=found["wrong"].named if "wrong" in found else [],
    )


def sums(sql: str, parameters: dict[str, Any]) -> list[int]:
    """One row of sums."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return [int(value or 0) for value in cursor.fetchone()]
