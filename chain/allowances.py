"""What may leave an account for chains: by withdrawals to wallets, and as payments of tasks.

Coins are anybody's, so granted credit must not become some, and both ways share one limit a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet, Sum

from chain.models import ENDED_ORDERS, OPEN_WITHDRAWALS, TaskOrder, Withdrawal, WithdrawalStatus
from clients import ledger, terms
from clients.models import Account, AccountKind, Client, Transfer, TransferKind
from marketplace import money
from marketplace.errors import Conflict, PaymentRequired


class OverDailyLimit(Conflict):
    """Details: `allowed`, `used`, decimal strings of tokens."""

    code = "over_daily_limit"


class NotWithdrawable(PaymentRequired):
    """Credit that was given, or sent by others, can be spent and not withdrawn. Details: `available`, `needed`."""

    code = "not_withdrawable"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client can withdraw, in base units; None: no such limit.

    `spendable` and `earned` can leave these accounts now, of all accounts together `daily` less `used_today` on this
    day (UTC). `minimum` is the least; beyond `approval_above` an operator decides.
    """

    spendable: int
    earned: int
    minimum: int
    daily: int | None
    used_today: int
    approval_above: int | None
    is_frozen: bool


def limits_of(client: Client, *, now: datetime) -> Limits:
    """What a withdrawal would be allowed now."""
    said = terms.current()
    return Limits(
        spendable=withdrawable(client),
        earned=withdrawable(client, AccountKind.EARNED),
        minimum=said.withdrawal_minimum or 0,
        daily=said.withdrawal_daily,
        used_today=_used_today(client, now),
        approval_above=said.withdrawal_approval_above,
        is_frozen=said.payouts_frozen,
    )


def withdrawable(client: Client, kind: AccountKind = AccountKind.SPENDABLE) -> int:
    """How much of an account can be withdrawn now, in base units.

    All that was earned; and of what can be spent no more than came in by deposits and from what the client had earned,
    less what was withdrawn before or paid for tasks on chains: granted credit, and what others sent, is for spending.
    """
    account = ledger.account(client.pk, kind)
    total, held = ledger.balances([account])[account.pk]
    free = max(total - held, 0)
    if kind == AccountKind.EARNED:
        return free
    return max(min(free, _brought_in(client, account) - _gone(client)), 0)


def check_day(client: Client, amount: int, allowed: int, now: datetime) -> None:
    """Whether a client may have so much leave for chains today, besides what has left. Raises OverDailyLimit."""
    used = _used_today(client, now)
    if used + amount > allowed:
        raise OverDailyLimit(
            f"{money.named(allowed)} can be withdrawn, or pay for tasks on chains, on a day (UTC), of which "
            f"{money.render(used)} are used.",
            details={"allowed": money.render(allowed), "used": money.render(used)},
        )


def _gone(client: Client) -> int:
    """What has left the spendable account for chains, or may leave it."""
    withdrawals = Withdrawal.objects.filter(client=client, account_kind=AccountKind.SPENDABLE)
    return _of_withdrawals(withdrawals) + _of_orders(TaskOrder.objects.filter(owner=client))


def _of_withdrawals(withdrawals: QuerySet[Withdrawal]) -> int:
    """What withdrawals have paid, or may pay."""
    counted = withdrawals.filter(status__in=(*OPEN_WITHDRAWALS, WithdrawalStatus.CONFIRMED))
    return int(counted.aggregate(total=Sum("amount"))["total"] or 0)


def _of_orders(orders: QuerySet[TaskOrder]) -> int:
    """What orders of tasks have paid, or may pay."""
    paid = orders.aggregate(paid=Sum("paid"), open=Sum("payment", filter=~Q(status__in=ENDED_ORDERS)))
    return sum(int(amount or 0) for amount in paid.values())


def _used_today(client: Client, now: datetime) -> int:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    withdrawals = Withdrawal.objects.filter(client=client, requested_at__gte=today)
    orders = TaskOrder.objects.filter(owner=client, created_at__gte=today)
    return _of_withdrawals(withdrawals) + _of_orders(orders)


def _brought_in(client: Client, account: Account) -> int:
    """What came into an account from the client's own pocket, in base units."""
    own = Q(kind=TransferKind.DEPOSIT) | Q(
        kind=TransferKind.TRANSFER, source__client=client, source__kind=AccountKind.EARNED
    )
    came = Transfer.objects.filter(own, destination=account).aggregate(total=Sum("amount"))["total"] or 0
    taken_back = Transfer.objects.filter(source=account, reverses__kind=TransferKind.DEPOSIT)
    return int(came) - int(taken_back.aggregate(total=Sum("amount"))["total"] or 0)
