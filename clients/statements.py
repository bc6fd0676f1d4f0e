"""What came into accounts and went out of them, newest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import BigIntegerField, ExpressionWrapper, F, Q, QuerySet, Value
from django.db.models.expressions import CombinedExpression

from clients.models import Account, AccountKind, Transfer, TransferKind
from marketplace.money import MoneyField

CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A transfer as one account sees it: `amount` is what it changed there, below zero for what went out.

    `fee` is the marketplace's part of the transfer: an entry of its own on the account of the fees.
    """

    transfer: Transfer
    account: Account
    counterparty: Account
    amount: int

    @property
    def counterparty_name(self) -> str:
        """The other side, for the account's owner: nobody's name, and no account except where people send each other
        money.
        """
        other = self.counterparty
        if other.client_id is None:
            return "outside" if other.kind == AccountKind.OUTSIDE else "marketplace"
        if other.client_id == self.account.client_id:
            return f"own {other.kind}"
        kinds = {self.account.kind, other.kind}
        if self.transfer.kind == TransferKind.TRANSFER or kinds == {AccountKind.SPENDABLE}:
            return other.name
        return "provider" if other.kind == AccountKind.EARNED else "consumer"


class Statement:
    """The entries of some accounts; of any accounts, for operators, and of a client's for itself.

    A transfer between two of them is two entries.
    """

    def __init__(
        self,
        accounts: Iterable[Account],
        *,
        kinds: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self._accounts = {account.pk: account for account in accounts}
        self._where = Q()
        if kinds:
            self._where &= Q(kind__in=kinds)
        if since is not None:
            self._where &= Q(at__gte=since)
        if until is not None:
            self._where &= Q(at__lt=until)

    def count(self) -> int:
        return sum(branch.count() for branch in self._branches())

    def page(self, *, limit: int, offset: int = 0) -> list[Entry]:
        """Some entries, newest first."""
        return self._entries(self._rows(Q())[offset : offset + limit])

    def all(self) -> Iterator[Entry]:
        """All entries, newest first, read a piece at a time."""
        before = Q()
        while rows := list(self._rows(before)[:CHUNK]):
            if len(rows) == CHUNK:
                # There may be more of the last transfer's entries.
                last = rows[-1].pk
                rows = [row for row in rows if row.pk != last]
            yield from self._entries(rows)
            before = Q(pk__lt=rows[-1].pk)

    def _rows(self, further: Q) -> QuerySet[Transfer]:
        branches = [branch.filter(further).order_by() for branch in self._branches()]
        if not branches:
            return Transfer.objects.none()
        return branches[0].union(*branches[1:], all=True).order_by("-id", "-change")  # type: ignore[misc]  # annotated

    def _branches(self) -> Iterator[QuerySet[Transfer]]:
        for pk, account in self._accounts.items():
            yield self._seen_by(pk, Value(0) - F("amount"), Q(source_id=pk))
            if account.kind != AccountKind.FEES:
                yield self._seen_by(pk, F("amount") - F("fee"), Q(destination_id=pk))
                continue
            yield self._seen_by(pk, F("amount"), Q(destination_id=pk))
            yield self._seen_by(pk, F("fee"), Q(fee__gt=0) & ~Q(destination_id=pk) & ~Q(source_id=pk))

    def _seen_by(self, pk: int, change: CombinedExpression | F, which: Q) -> QuerySet[Transfer]:
        return Transfer.objects.filter(which & self._where).annotate(
            of_account=Value(pk, BigIntegerField()), change=ExpressionWrapper(change, MoneyField())
        )

    def _entries(self, rows: Iterable[Transfer]) -> list[Entry]:
        found = list(rows)
        ends = {pk for row in found for pk in (row.source_id, row.destination_id)}
        known = (
            Account.objects.select_related("client").in_bulk(ends - self._accounts.keys()) | self._accounts
        )
        return [_entry(row, known) for row in found]


def _entry(row: Any, accounts: Mapping[int, Account]) -> Entry:
    other = row.destination_id if row.of_account == row.source_id else row.source_id
    return Entry(
        transfer=row, account=accounts[row.of_account], counterparty=accounts[other], amount=row.change
    )
