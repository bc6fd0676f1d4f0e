"""What an account and each of its API keys may spend and send: reading and setting these limits.

They are enforced, and what is used is counted, by `ledger_hold` and `ledger_settle`
(`clients/migrations/0002_ledger.sql`), under the lock of the account that is spent from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Case, Count, F, QuerySet, Sum, When
from django.db.models.functions import TruncDate

from clients import audit, ledger
from clients.models import AccountKind, Allowance, ApiKey, Client, Hold
from marketplace import money
from marketplace.bus import announce

PRICES = ("max_input_price", "max_output_price", "max_request_price")
BUDGETS = ("budget_day", "budget_month", "budget_total")
RATES = ("requests_per_minute", "tokens_per_minute", "concurrency")
LIMITS = (*PRICES, *BUDGETS, *RATES)


class Used(NamedTuple):
    """Base units that are spent or held, of the present day and month (UTC), and since there are counters."""

    day: int
    month: int
    total: int


class Ended(NamedTuple):
    """What work that has ended, and whose holds are gone, did cost by the UTC day on which it began; and how many
    requests began in one minute, and their tokens.
    """

    by_day: Mapping[date, int]
    requests: int
    tokens: int


# Called with client_id, api_key_id (None: all of the account's) and the minute.
Record = Callable[[int, int | None, datetime], Ended]
_records: list[Record] = []


def count_also(record: Record) -> None:
    """Have `record` asked for what an account or key has used before it has counters of its own."""
    _records.append(record)


def of_account(client: Client) -> Allowance:
    """The limits of an account; a row without limits, that is not stored, where none was ever set."""
    found = Allowance.objects.filter(client=client, api_key=None).first()
    return found or Allowance(client=client)


def of_key(key: ApiKey) -> Allowance:
    """The limits of an API key, likewise."""
    found = Allowance.objects.filter(api_key=key).first()
    return found or Allowance(client_id=key.client_id, api_key=key)


@transaction.atomic
def change_by_operator(
    owner: Client | ApiKey, *, limits: Mapping[str, int | None], by: Client, reason: str
) -> Allowance:
    """The same as `change`, by an operator, who says why."""
    key = owner if isinstance(owner, ApiKey) else None
    client_id = owner.client_id if isinstance(owner, ApiKey) else owner.pk
    ledger.lock([client_id])
    before = of_key(owner) if isinstance(owner, ApiKey) else of_account(owner)
    after = change(client_id=client_id, api_key=key, limits=limits)
    audit.note(
        by=by,
        action="change_limits",
        subject=f"{'API key' if key else 'client'} {owner.pk} {owner}",
        reason=reason,
        details={name: [_shown(name, getattr(before, name)), _shown(name, limits[name])] for name in limits},
    )
    return after


def _shown(name: str, value: int | None) -> Any:
    if value is None:
        return "no limit"
    return value if name in RATES else money.named(value)


def change(
    *, client_id: int, api_key: ApiKey | None = None, limits: Mapping[str, int | None], is_new: bool = False
) -> Allowance:
    """Set some of LIMITS, of an account or of one of its keys; None takes a limit away.

    Amounts are base units. What is used is counted on. The first time, it is counted from what was spent before, unless
    the key `is_new`. All processes are told once it is committed.
    """
    with transaction.atomic():
        # The counters belong to whoever has this lock.
        ledger.account(client_id, AccountKind.SPENDABLE)
        ledger.lock([client_id])
        allowance = Allowance.objects.filter(client_id=client_id, api_key=api_key).first()
        if allowance is not None:
            for name, value in limits.items():
                setattr(allowance, name, value)
            allowance.save(update_fields=list(limits))
            if api_key is not None:
                # The key had read them before.
                allowance.api_key = api_key
        elif any(value is not None for value in limits.values()):
            counters = {} if is_new else _counters(client_id, api_key)
            allowance = Allowance.objects.create(client_id=client_id, api_key=api_key, **limits, **counters)
            _announce(f"client:{client_id}")
        _announce(f"key:{api_key.pk}" if api_key else f"client:{client_id}")
    return allowance or Allowance(client_id=client_id)


def used(allowance: Allowance, *, now: datetime) -> Used:
    """What is spent or held of an allowance's budgets; a day or month that is over counts no more."""
    today, counted = now.astimezone(UTC).date(), allowance.day
    same_month = counted is not None and (counted.year, counted.month) == (today.year, today.month)
    return Used(
        day=allowance.day_used if counted == today else 0,
        month=allowance.month_used if same_month else 0,
        total=allowance.total_used,
    )


def _counters(client_id: int, api_key: ApiKey | None) -> dict[str, Any]:
    """The counters of a first allowance, as if it had always been there. The account must be locked.

    Of holds that have ended within this minute, all tokens that they reserved are counted.
    """
    moment = _clock()
    minute, today = moment.replace(second=0, microsecond=0), moment.date()
    holds = Hold.objects.filter(account__client_id=client_id, account__kind=AccountKind.SPENDABLE)
    holds = holds if api_key is None else holds.filter(api_key_id=api_key.pk)
    recent = holds.filter(created_at__gte=minute, tokens__isnull=False).aggregate(
        requests=Count("pk"), tokens=Sum("tokens")
    )
    ended = [record(client_id, api_key.pk if api_key else None, minute) for record in _records]
    by_day = sum((Counter(each.by_day) for each in ended), _by_day(holds))
    return {
        "running": holds.filter(ended_at=None, tokens__isnull=False).count(),
        "minute": minute,
        "minute_requests": recent["requests"] + sum(each.requests for each in ended),
        "minute_tokens": (recent["tokens"] or 0) + sum(each.tokens for each in ended),
        "day": today,
        "day_used": by_day[today],
        "month_used": sum(spent for day, spent in by_day.items() if day >= today.replace(day=1)),
        "total_used": by_day.total(),
    }


def _by_day(holds: QuerySet[Hold]) -> Counter[date]:
    reserved = Case(When(ended_at=None, then=F("amount")), default=F("captured"))
    days = holds.annotate(day=TruncDate("created_at", tzinfo=UTC)).order_by().values_list("day")
    return Counter({day: int(spent) for day, spent in days.annotate(spent=Sum(reserved))})


def _clock() -> datetime:
    # The database's, which counts from here on; and read under the lock, since waiting for it may have taken long.
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment.astimezone(UTC)


def _announce(whose: str) -> None:
    transaction.on_commit(lambda: announce("credentials", whose))
