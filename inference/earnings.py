"""What nodes have brought in: added up hour by hour (`inference.hours`), and reported to the second.

Money, requests and tokens are those of requests that were paid. A report takes sealed hours from `Earning` and reads
what is not sealed yet from the transfers themselves, in one statement, so that no request is missing or counted twice.

A request is busy from its placement to its end. With `slots` (how many requests the node takes at once, all models
together, as it is set up now), it uses 1/slots of the node's GPUs for that time, and

    utilisation         = (busy time + leased time × slots) / (time online × slots)
    price per GPU-hour  = net income of requests and leases / (busy time / slots × GPUs + leased time × GPUs)

for the nodes that are still registered. Income of leases is spread evenly over the time that they were paid for. What
trainings bring in is told by who places them (`count_also`); it is part of the net income alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

from django.db import connection, transaction

from clients.models import Account, AccountKind
from gpus.models import Lease, Node
from inference import capacity
from inference.capacity import Capacity, Span
from inference.models import Earning
from inference.receipts import BUSY_MS, ONE_BY_ONE, REQUEST
from marketplace.errors import InvalidRequest, NotFound

HOUR_MS = 3_600_000
LONGEST = timedelta(days=366)
# How lines are told apart, and the column that does it.
GROUPS = {
    "node": "node_id",
    "model": "model",
    "day": "(hour AT TIME ZONE 'UTC')::date",
    "provider": "provider_id",
}


class TooLong(InvalidRequest):
    code = "period_too_long"


class NoSuchNode(NotFound):
    pass


@dataclass(slots=True)
class Line:
    """Sums over some requests and leases. Amounts in base units, times in milliseconds."""

    key: Any = None
    name: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    busy_ms: int = 0
    charged: int = 0
    fee: int = 0
    refunded: int = 0
    lease_income: int = 0  # after the fee
    leased_ms: int = 0
    training_income: int = 0  # after the fee, less what was given back
    task_income: int = 0  # likewise
    # Of registered nodes only: what was used of how many slots, of GPUs, and what that brought in.
    slot_ms: int = 0
    used_slot_ms: int = 0
    gpu_ms: int = 0
    gpu_income: int = 0

    @property
    def net(self) -> int:
        requests = self.charged - self.fee - self.refunded
        return requests + self.lease_income + self.training_income + self.task_income

    @property
    def utilisation(self) -> float | None:
        """From 0 to 1; None where nothing was online."""
        return min(1.0, round(self.used_slot_ms / self.slot_ms, 4)) if self.slot_ms else None

    @property
    def per_gpu_hour(self) -> int | None:
        """What an hour of a busy GPU has brought in; None where none was busy."""
        return self.gpu_income * HOUR_MS // self.gpu_ms if self.gpu_ms else None

    @property
    def gpu_hours(self) -> float:
        return round(self.gpu_ms / HOUR_MS, 4)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose earnings a report is about, and of when: whole hours. `provider_id` None: everybody's."""

    provider_id: int | None
    since: datetime
    until: datetime
    node_id: int | None = None

    @classmethod
    def of(
        cls, *, provider_id: int | None, since: datetime, until: datetime, node_id: int | None = None
    ) -> Scope:
        """The hours that hold this time. Raises TooLong, NoSuchNode for a node that is, and was, another's."""
        first, last = since.astimezone(UTC), until.astimezone(UTC)
        first = first.replace(minute=0, second=0, microsecond=0)
        last = -(-(last - first) // timedelta(hours=1)) * timedelta(hours=1) + first
        if not timedelta(0) < last - first <= LONGEST:
            raise TooLong(f"`since` must be before `until`, by at most {LONGEST.days} days.")
        if node_id is not None and provider_id is not None and not _is_of(node_id, provider_id):
            raise NoSuchNode
        return cls(provider_id, first, last, node_id)


def _is_of(node_id: int, provider_id: int) -> bool:
    return (
        Node.objects.filter(pk=node_id, owner_id=provider_id).exists()
        or Earning.objects.filter(node_id=node_id, provider_id=provider_id).exists()
    )


@dataclass(slots=True)
class Report:
    scope: Scope
    group: str
    total: Line = field(default_factory=Line)
    _lines: dict[Any, Line] = field(default_factory=dict)

    def line(self, key: Any, node_name: str) -> Line:
        """The line of a key, made where it is missing."""
        found = self._lines.setdefault(key, Line(key))
        if self.group == "node":
            found.name = node_name or found.name
        return found

    @property
    def lines(self) -> list[Line]:
        by_income = self.group != "day"
        return sorted(self._lines.values(), key=lambda line: (-line.net * by_income, str(line.key)))


class Income(NamedTuple):
    """What a node has brought in otherwise: after the fee, in base units, and below zero where it was given back.

    `of_task`: by a task that was published on a chain; else by a training.
    """

    provider_id: int
    node_id: int
    node_name: str
    model: str
    at: datetime
    amount: int
    of_task: bool = False

    def key(self, group: str) -> int | str | date:
        """Which line of a report by this group it belongs to."""
        if group == "day":
            return self.at.astimezone(UTC).date()
        return {"node": self.node_id, "provider": self.provider_id}.get(group, self.model)


_others: list[Callable[[Scope], Iterable[Income]]] = []


def count_also(of: Callable[[Scope], Iterable[Income]]) -> None:
    """Have reports count incomes that this app knows nothing of."""
    _others.append(of)


# --- Reporting ----------------------------------------------------------------------------------------------


def report(scope: Scope, *, group: str, now: datetime) -> Report:
    """What a provider's nodes, or everybody's, have brought in, a line for each of a kind of `GROUPS`.

    Nodes that brought in nothing have a line too. Days are in their order, all else by income.
    """
    made = Report(scope, group)
    rows, leases = _rows(scope, group), _leases(scope)
    until = min(scope.until, now)
    ids = {row.node_id for row in rows} | {lease.node_id for lease in leases} | _present(scope)
    nodes = capacity.of(ids, since=scope.since, until=until)
    for row in rows:
        for line in (made.total, made.line(row.key, row.name)):
            _count(line, row, nodes.get(row.node_id))
    for lease in leases:
        for key, piece in _pieces(made, lease.node_id, lease.provider_id, until):
            lines = [made.total] if group == "model" else [made.total, made.line(key, lease.node_name)]
            for line in lines:
                _count_lease(line, lease, piece, nodes.get(lease.node_id))
    _count_others(made)
    for node_id, node in nodes.items():
        made.total.slot_ms += node.all_slots * node.online_ms(scope.since, until)
        for key, piece in _pieces(made, node_id, node.owner_id, until):
            slots = node.slots if group == "model" else {key: node.all_slots}
            for each, count in slots.items():
                made.line(each, node.name).slot_ms += count * node.online_ms(*piece)
    return made


def _pieces(made: Report, node_id: int, owner_id: int, until: datetime) -> Iterator[tuple[Any, Span]]:
    """The line that a node's time goes to, or its days one by one."""
    since = made.scope.since
    if made.group != "day":
        yield {"node": node_id, "provider": owner_id}.get(made.group), (since, until)
        return
    while since < until:
        end = min(until, since.replace(hour=0) + timedelta(days=1))
        yield since.date(), (since, end)
        since = end


def _count_others(made: Report) -> None:
    for income in chain.from_iterable(of(made.scope) for of in _others):
        for line in (made.total, made.line(income.key(made.group), income.node_name)):
            if income.of_task:
                line.task_income += income.amount
            else:
                line.training_income += income.amount


def _count(line: Line, row: _Row, node: Capacity | None) -> None:
    line.requests += row.requests
    line.prompt_tokens += row.prompt_tokens
    line.completion_tokens += row.completion_tokens
    line.busy_ms += row.busy_ms
    line.charged += row.charged
    line.fee += row.fee
    line.refunded += row.refunded
    if node is not None and node.all_slots:
        line.used_slot_ms += row.busy_ms
        line.gpu_ms += row.busy_ms * node.gpus // node.all_slots
        line.gpu_income += row.charged - row.fee - row.refunded


def _count_lease(line: Line, lease: Lease, piece: Span, node: Capacity | None) -> None:
    paid = lease.started_at, lease.paid_until
    leased, whole = capacity.overlap_ms(paid, *piece), capacity.overlap_ms(paid, *paid)
    income = (lease.charged - lease.fee) * leased // whole if whole else 0
    line.lease_income += income
    line.leased_ms += leased
    line.gpu_ms += leased * lease.gpus
    line.gpu_income += income
    line.used_slot_ms += leased * node.all_slots if node is not None else 0


def _leases(scope: Scope) -> list[Lease]:
    found = Lease.objects.filter(started_at__lt=scope.until, paid_until__gt=scope.since)
    if scope.provider_id is not None:
        found = found.filter(provider_id=scope.provider_id)
    return list(found if scope.node_id is None else found.filter(node_id=scope.node_id))


def _present(scope: Scope) -> set[int]:
    """The nodes that are registered now."""
    found = (
        Node.objects.all() if scope.provider_id is None else Node.objects.filter(owner_id=scope.provider_id)
    )
    found = found if scope.node_id is None else found.filter(pk=scope.node_id)
    return set(found.values_list("pk", flat=True))


class _Row(NamedTuple):
    """The paid requests of one node within a line."""

    key: Any
    node_id: int
    name: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    busy_ms: int
    charged: int
    fee: int
    refunded: int


def _rows(scope: Scope, group: str) -> list[_Row]:
    accounts = Account.objects.filter(kind=AccountKind.EARNED)
    values: dict[str, Any] = {
        "since": scope.since,
        "until": scope.until,
        "provider": scope.provider_id,
        "node": scope.node_id,
    }
    whose = {"provider": "TRUE", "to": "TRUE", "from": "TRUE", "node": "TRUE"}
    if scope.provider_id is not None:
        values["accounts"] = list(accounts.filter(client_id=scope.provider_id).values_list("pk", flat=True))
        whose |= {
            "provider": "provider_id = %(provider)s",
            "to": "t.destination_id = ANY (%(accounts)s)",
            "from": "r.source_id = ANY (%(accounts)s)",
        }
    if scope.node_id is not None:
        whose["node"] = "node_id = %(node)s"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(ONE_BY_ONE)
        cursor.execute(_REPORT.format(key=GROUPS[group], request=REQUEST, busy_ms=BUSY_MS, **whose), values)
        return [_Row(*row[:3], *map(int, row[3:])) for row in cursor.fetchall()]


# What is sealed, what is not yet, and what operators have given back.
_REPORT = """
    WITH part AS (
        SELECT hour, provider_id, node_id, node_name, model, requests, prompt_tokens, completion_tokens, busy_ms,
            charged, fee, 0 AS refunded
        FROM inference_earning
        WHERE {provider}
        UNION ALL
        SELECT date_trunc('hour', coalesce(i.finished_at, t.at), 'UTC'), i.provider_id, i.node_id, '',
            i.desired_model, 1, i.prompt_tokens, i.completion_tokens,
            {busy_ms}, t.amount, t.fee, 0
        FROM clients_transfer t
        JOIN inference_inference i ON i.id = {request}
        WHERE t.kind = 'inference' AND {to}
            AND t.id > (SELECT coalesce(max(last_transfer), 0) FROM inference_receiptbatch)
        UNION ALL
        SELECT date_trunc('hour', r.at, 'UTC'), i.provider_id, i.node_id, '', i.desired_model, 0, 0, 0, 0, 0, 0,
            r.amount
        FROM clients_transfer r
        JOIN clients_account payer ON payer.id = r.source_id AND payer.kind = 'earned'
        JOIN clients_transfer t ON t.id = r.reverses_id AND t.kind = 'inference'
        JOIN inference_inference i ON i.id = {request}
        WHERE r.kind = 'reversal' AND r.reverses_id IS NOT NULL AND {from}
    )
    SELECT {key}, node_id, max(node_name), sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(busy_ms),
        sum(charged), sum(fee), sum(refunded)
    FROM part
    WHERE hour >= %(since)s AND hour < %(until)s AND {node}
    GROUP BY 1, 2
"""
