"""One node of an allocation: paid as time passes, ended when its time is over or its node fails.

Whatever pays or ends a lease holds the rows of its node, its allocation and itself, taken in this order and before any
account: two workers cannot pay for the same second, and one that is killed leaves nothing half done.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import DatabaseError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from clients import ledger
from clients.models import TransferKind
from gpus import liveness, states
from gpus.models import Allocation, Lease, Node, NodeState
from marketplace import money
from marketplace.errors import MarketplaceError

logger = logging.getLogger(__name__)

PAY_EVERY = timedelta(seconds=30)
# So long a node may be out of reach until its lease ends: its agent, or one of our processes, may be restarting.
COMES_BACK = timedelta(seconds=60)
EXPIRED, RELEASED, REMOVED, UNPAID = "expired", "released", "node_removed", "hold_ended"
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a leased node is. It is to be paid up to `served_until`; `failed`: the code of why its lease must end.

    `heard_at`: its last sign of life, up to which it is paid while the lease goes on.
    """

    served_until: datetime
    heard_at: datetime
    failed: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Locked:
    """A running allocation with its open leases and what is known of their nodes, until the transaction ends."""

    allocation: Allocation
    leases: list[Lease]
    nodes: Mapping[int, Mapping[str, Any]]

    def standing(self, lease: Lease, now: datetime) -> Standing:
        return _standing(self.nodes.get(lease.node_id), lease, now)


def hold(lease: Lease, *, client_id: int, api_key_id: int | None, until: datetime) -> None:
    """Reserve what a lease costs until then, all in all. Raises what `ledger.hold` does."""
    if lease.hour_price:
        amount = price_until(lease, until)
        ledger.hold(
            reference=lease.reference, client_id=client_id, api_key_id=api_key_id, amount=amount, tokens=None
        )


def price_until(lease: Lease, at: datetime) -> int:
    """What a lease costs from its start to an instant; a second that has begun counts."""
    return money.for_seconds(lease.hour_price, _seconds(at - lease.started_at))


def _seconds(time: timedelta) -> int:
    return max(0, -(-time // _SECOND))


# --- What becomes of them by themselves -------------------------------------------------------------------


def sweep(*, now: datetime) -> int:
    """Pay for the time that has passed, end what is over or has failed; how many allocations this was about."""
    return sum(_attend(allocation_id, now=now) for allocation_id in _due(now))


def _attend(allocation_id: UUID, *, now: datetime) -> bool:
    """The same as `attend`; what goes wrong with one allocation is logged, and does not stop the others."""
    try:
        return attend(allocation_id, now=now)
    except (DatabaseError, MarketplaceError):
        logger.exception("Allocation %s could not be attended to; it is tried again", allocation_id)
        return False


def _due(now: datetime) -> list[UUID]:
    online = Node.objects.filter(pk=OuterRef("node_id"), state=NodeState.ONLINE)
    due = Q(expires_at__lte=now) | Q(paid_until__lte=now - PAY_EVERY) | ~Exists(online)
    open_ones: QuerySet[Lease] = Lease.objects.filter(due, ended_at=None)
    return list(open_ones.order_by("allocation_id").values_list("allocation_id", flat=True).distinct())


@transaction.atomic
def attend(allocation_id: UUID, *, now: datetime) -> bool:
    """Do what is due for one allocation. False when it has ended, or another worker is at it."""
    locked = lock(allocation_id, skip_locked=True)
    if locked is None:
        return False
    for lease in locked.leases:
        standing = locked.standing(lease, now)
        if lease.expires_at <= min(now, standing.served_until) or (
            lease.expires_at <= now and not standing.failed
        ):
            end(lease, standing.served_until, code=EXPIRED, reason="Its time is over.", now=now)
        elif standing.failed:
            end(lease, standing.served_until, code=standing.failed, reason=standing.reason, now=now)
        elif not _pay(lease, min(standing.served_until, standing.heard_at), whole_seconds=True):
            end(lease, lease.paid_until, code=UNPAID, reason="Its money is no longer reserved.", now=now)
    finish(locked.allocation, now=now)
    return True


@transaction.atomic
def end_of_node(*, node_id: int, now: datetime) -> None:
    """End the lease of a node that leaves the marketplace. The node's row must be locked, if there is one still."""
    lease = Lease.objects.filter(node_id=node_id, ended_at=None).first()
    locked = _lock(lease.allocation_id, node_ids=[node_id]) if lease is not None else None
    if locked is None:
        return
    for each in locked.leases:
        until = locked.standing(each, now).served_until
        end(each, until, code=REMOVED, reason="Its owner has removed it from the marketplace.", now=now)
    finish(locked.allocation, now=now)


def lock(allocation_id: UUID, *, skip_locked: bool = False) -> Locked | None:
    """Have a running allocation, its open leases and their nodes to oneself. None when it has ended, or is skipped."""
    open_ones = Lease.objects.filter(allocation_id=allocation_id, ended_at=None)
    node_ids = list(open_ones.values_list("node_id", flat=True))
    nodes = Node.objects.select_for_update(no_key=True).filter(pk__in=node_ids).order_by("pk")
    list(nodes.values_list("pk"))
    return _lock(allocation_id, node_ids=node_ids, skip_locked=skip_locked)


def _lock(allocation_id: UUID, *, node_ids: Sequence[int], skip_locked: bool = False) -> Locked | None:
    running = Allocation.objects.filter(pk=allocation_id, ended_at=None)
    allocation = running.select_for_update(no_key=True, skip_locked=skip_locked).first()
    if allocation is None:
        return None
    leases = Lease.objects.select_for_update(no_key=True).filter(
        allocation_id=allocation_id, node_id__in=node_ids, ended_at=None
    )
    found = list(leases.order_by("pk"))
    # They are paid one by one: whoever pays several at the same time must not lock them in another order.
    ledger.lock([allocation.client_id], payees=[lease.provider_id for lease in found])
    rows = Node.objects.filter(pk__in=node_ids).values("id", "state", "state_since", *states.FACT_FIELDS)
    return Locked(allocation, found, {row["id"]: row for row in rows})


def _standing(row: Mapping[str, Any] | None, lease: Lease, now: datetime) -> Standing:
    if row is None:
        return Standing(lease.paid_until, lease.paid_until, REMOVED, "It is no longer registered.")
    found, heard_at = states.assess(row, now=now), row["heartbeat__at"] or lease.started_at
    if found.takes_work:
        return Standing(now, heard_at)
    since = heard_at
    if found.state != liveness.SILENT:
        is_noted = row["state"] == found.state and row["state_since"] is not None
        since = row["state_since"] if is_noted else now
    until = max(min(since, now), lease.started_at)
    if found.state == liveness.UNREACHABLE and now - since < COMES_BACK:
        return Standing(until, min(until, heard_at))
    return Standing(until, heard_at, found.state, found.reason)


# --- Paying and ending; under `lock` ----------------------------------------------------------------------


def end(lease: Lease, served_until: datetime, *, code: str, reason: str, now: datetime) -> None:
    """Pay a lease up to `served_until`, or to its end, give back the rest, and let its node serve everybody again."""
    _pay(lease, min(served_until, lease.expires_at))
    if lease.hour_price:
        ledger.release(lease.reference)
    lease.ended_at, lease.end_code, lease.end_reason = now, code, reason[:500]
    lease.save(update_fields=["ended_at", "end_code", "end_reason"])
    states.touch([lease.node_id], now=now)


def _pay(lease: Lease, until: datetime, *, whole_seconds: bool = False) -> bool:
    """Pay a lease up to an instant; a second that has begun counts, unless `whole_seconds`. False: its hold is gone.

    What is paid all in all is the price of all its seconds, however often it was paid in between.
    """
    time = until - lease.started_at
    second = max(0, time // _SECOND) if whole_seconds else _seconds(time)
    charged = money.for_seconds(lease.hour_price, second)
    if charged > lease.charged:
        fee = money.share(charged, lease.fee_bps)
        paid = ledger.capture(
            reference=lease.reference,
            amount=charged - lease.charged,
            transfer_reference=f"{lease.reference}:{second}",
            payee_id=lease.provider_id,
            kind=TransferKind.ALLOCATION,
            fee=fee - lease.fee,
            memo=f"{lease.node_name}, allocation {lease.allocation_id}",
        )
        if not paid:
            return False
        lease.charged, lease.fee = charged, fee
    lease.paid_until = max(lease.paid_until, lease.started_at + second * _SECOND)
    lease.save(update_fields=["charged", "fee", "paid_until"])
    return True


def finish(allocation: Allocation, *, now: datetime) -> None:
    """End an allocation if its last node has gone."""
    leases = list(Lease.objects.filter(allocation=allocation))
    if any(lease.ended_at is None for lease in leases):
        return
    reasons = {lease.end_code: lease.end_reason for lease in leases}
    reason = reasons.get(RELEASED) or reasons.get(EXPIRED) or f"No node is left. {leases[-1].end_reason}"
    allocation.ended_at, allocation.end_reason = now, reason[:500]
    allocation.save(update_fields=["ended_at", "end_reason"])
