"""What the rows of each app say about money, for comparison with what the ledger says.

Money is held and paid under references such as `inference:12`. Whoever holds money for something of its own describes
it in a module `books` of its app: a `Purpose` for each prefix, and a `Check` for each thing that must be so. All such
modules are loaded when Django starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from clients.models import Payout, PayoutStatus


@dataclass(frozen=True, slots=True)
class Standing:
    """What has become of something that money was held for. `due`: when it should have ended at the latest."""

    says: str
    ended: bool
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class Purpose:
    """What references with a prefix are for. `page` is the admin's page of it ("inference_inference")."""

    prefix: str
    page: str
    standings: Callable[[Sequence[int]], Mapping[int, Standing]]


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be so in the books.

    `sql` selects the rows that break it: the row's name, its id on `page`, the amount (base units, or null) that should
    be there, the amount that is there, and what is wrong in words.
    """

    says: str
    page: str
    sql: str


_purposes: dict[str, Purpose] = {}
_checks: dict[str, Check] = {}


def know(*purposes: Purpose) -> None:
    _purposes.update({purpose.prefix: purpose for purpose in purposes})


def watch(*checks: Check) -> None:
    _checks.update({check.says: check for check in checks})


def checks() -> list[Check]:
    return list(_checks.values())


def purpose_of(reference: str) -> tuple[Purpose, int] | None:
    """What a reference is for, and the id of that; None where nobody knows."""
    prefix, _, rest = reference.partition(":")
    number = rest.partition(":")[0]
    if prefix not in _purposes or not (number.isascii() and number.isdecimal() and len(number) <= 18):
        return None
    return _purposes[prefix], int(number)


def standings(references: Iterable[str]) -> dict[str, Standing]:
    """What has become of what these references are for; one query for each prefix.

    A reference is left out where nobody knows what it is for, or where that has no record.
    """
    wanted: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for reference in references:
        known = purpose_of(reference)
        if known is not None:
            purpose, number = known
            wanted[purpose.prefix][number] = reference
    found: dict[str, Standing] = {}
    for prefix, numbers in wanted.items():
        for number, standing in _purposes[prefix].standings(list(numbers)).items():
            found[numbers[number]] = standing
    return found


def _payouts(ids: Sequence[int]) -> dict[int, Standing]:
    rows = Payout.objects.filter(pk__in=ids)
    return {row.pk: Standing(row.status, ended=row.status != PayoutStatus.REQUESTED) for row in rows}


know(Purpose(prefix="payout", page="clients_payout", standings=_payouts))
