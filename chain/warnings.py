"""What operators should know about chains now: a sentence each, and what mends it. Nothing here asks a chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Count, Sum
from django.utils import timezone

from chain import acknowledgements, keys, networks, roots
from chain.models import (
    Deposit,
    DepositStatus,
    Network,
    PublishedRoot,
    Reconciliation,
    Sender,
    Transaction,
    TransactionStatus,
    Withdrawal,
    WithdrawalStatus,
)
from clients import terms
from marketplace import money

# So long nothing may be heard of a chain's reader, and so long something may wait to be sent.
_SILENT_AFTER = timedelta(seconds=60)
_WAITING_AFTER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Warning:
    """`code` for programs, `sentence` for people, and `fix`: what to do about it."""

    code: str
    sentence: str
    fix: str


def current() -> list[Warning]:
    """All there is to say now, what is worst first."""
    now = timezone.now()
    found: list[Warning] = []
    for network in networks.followed():
        found += _reading(network, now)
        found += _comparing(network)
        found += _sending(network, now)
        found += _crossing(network)
        found += _others(network)
    return found


def _reading(network: Network, now: datetime) -> Iterator[Warning]:
    if network.is_paused:
        yield Warning(
            "paused",
            f"{network} is paused: nothing is read from it or sent to it.",
            "Resume it on its page when it may go on.",
        )
    elif network.failing_since is not None:
        yield Warning(
            "away",
            f"{network} could not be read since {network.failing_since:%Y-%m-%d %H:%M:%S}: {network.failure}",
            "It is tried again by itself. If its node is gone for good, set another one in CHAIN_RPC_URL or "
            "CHAIN_RPC_URLS.",
        )
    elif network.polled_at is None or now - network.polled_at > _SILENT_AFTER:
        yield Warning(
            "unread",
            f"Nobody has looked at {network} for more than {_SILENT_AFTER.seconds} seconds.",
            "Is the worker of the queue “chain” running, and beat?",
        )
    elif network.lag > settings.CHAIN_LAG_BLOCKS:
        yield Warning(
            "lag",
            f"{network.lag} blocks of {network} are not read yet.",
            "It catches up by itself. If it does not: a node that answers faster, or a larger CHAIN_WINDOW_BLOCKS.",
        )


def _comparing(network: Network) -> Iterator[Warning]:
    last = Reconciliation.objects.filter(network=network).first()
    if last is not None and not last.is_balanced:
        yield Warning(
            "unbalanced",
            f"The ledger and {network} did not agree at block {last.block_number}.",
            "Look at the reconciliation: its lines say where.",
        )


def _sending(network: Network, now: datetime) -> Iterator[Warning]:
    try:
        addresses = keys.addresses()
        if not addresses:
            yield Warning("no_key", f"Nothing can be sent to {network}: there is no key.", "Set CHAIN_KEY.")
    except keys.BadKey as error:
        addresses = []
        yield Warning("bad_key", f"Nothing can be sent to {network}: {error.message}", "Mend the setting.")
    least = money.parse(settings.CHAIN_LOW_BALANCE)
    low = Sender.objects.filter(network=network, address__in=addresses, balance__lt=least)
    for sender in low.order_by("pk"):
        yield Warning(
            "low_balance",
            f"{sender.address} has {money.render(sender.balance or 0)} coins for gas on {network}.",
            f"Send coins there; {money.render(least)} or more is enough not to be warned (CHAIN_LOW_BALANCE).",
        )
    yield from _waiting(network, now)


def _waiting(network: Network, now: datetime) -> Iterator[Warning]:
    under_way = Transaction.objects.filter(
        network=network,
        created_at__lt=now - _WAITING_AFTER,
        status__in=(TransactionStatus.QUEUED, TransactionStatus.SIGNED, TransactionStatus.SENT),
    ).exclude(reason="")
    reasons = under_way.order_by("reason").values("reason").annotate(count=Count("pk"))
    for row in reasons[:5]:
        what = "1 transaction waits" if row["count"] == 1 else f"{row['count']} transactions wait"
        yield Warning(
            "waiting", f"{what} to be carried out on {network}: {row['reason']}", "Look at the outbox."
        )


def _crossing(network: Network) -> Iterator[Warning]:
    deposits = Deposit.objects.filter(network=network)
    for status, sentence, fix in _ODD_DEPOSITS:
        said = deposits.filter(status=status).aggregate(count=Count("pk"), amount=Sum("amount"))
        if said["count"]:
            yield Warning(
                status.value, sentence.format(money.named(int(said["amount"])), said["count"], network), fix
            )
    withdrawals = Withdrawal.objects.filter(network=network)
    asked = withdrawals.filter(status=WithdrawalStatus.REQUESTED).count()
    if asked:
        yield Warning(
            "to_approve", f"{asked} withdrawals to {network} wait for approval.", "Approve or refuse them."
        )
    lost = withdrawals.filter(
        status=WithdrawalStatus.SENDING, transaction__status=TransactionStatus.CONFIRMED
    ).count()
    if lost:
        yield Warning(
            "unpaid",
            f"{lost} withdrawals were sent to {network}, and its Treasury has told of no payment.",
            "Is TREASURY in the network's manifest the right contract?",
        )
    if terms.current().payouts_frozen and withdrawals.filter(status=WithdrawalStatus.APPROVED).exists():
        yield Warning("frozen", f"Withdrawals to {network} are frozen.", "Unfreeze payouts in the terms.")


def _others(network: Network) -> Iterator[Warning]:
    """What somebody else has done with contracts of ours, or a database that was there before this one."""
    count = acknowledgements.unknown_payments(network).count()
    if count:
        yield Warning(
            "unknown_payment",
            f"The Treasury on {network} has made {count} payments that these books do not know; nothing more is "
            "withdrawn to it.",
            "Was the database restored? Acknowledge them on the reconciliation page.",
        )
    refused = PublishedRoot.objects.filter(
        network=network,
        transaction__status__in=(TransactionStatus.REFUSED, TransactionStatus.REVERTED),
        transaction__reason__startswith=roots.ANOTHER,
    ).count()
    if refused:
        yield Warning(
            "another_root",
            f"{refused} batches of receipts have a root on {network} that is not ours.",
            "Is RECEIPTS in the network's manifest this marketplace's own contract?",
        )


_ODD_DEPOSITS = (
    (
        DepositStatus.ORPHANED,
        "{0} were credited for {1} deposits on {2} whose blocks are gone.",
        "They are found again, or taken back as soon as the accounts have the money.",
    ),
    (
        DepositStatus.UNCLAIMED,
        "{0} came in {1} deposits on {2} that are nobody's.",
        "Credit them to whom they belong, on the deposits' page.",
    ),
)
