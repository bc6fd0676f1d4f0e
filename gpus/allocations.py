"""Nodes that are somebody's alone for hours: allocate, extend, release.

A node is reserved by its open lease, of which the database allows one. How leases are paid and end: `gpus.leases`.
"""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from clients import audit, terms
from clients.models import Client, Terms
from gpus import candidates, leases, states
from gpus.candidates import Candidate, Wanted
from gpus.models import Allocation, Lease, Node
from gpus.placement import NoCapacity
from gpus.pools import AllocationNotFound
from marketplace.errors import Conflict, InvalidRequest

# Another request may be reserving the nodes that we want; it is done in a moment.
ATTEMPTS, PAUSE_S = 10, 0.03


class AllocationEnded(Conflict):
    code = "allocation_ended"


class TooLong(InvalidRequest):
    code = "allocation_too_long"


def visible_to(client_id: int) -> QuerySet[Allocation]:
    """A client's allocations with their leases, the newest first."""
    return Allocation.objects.filter(client_id=client_id).prefetch_related("leases").order_by("-created_at")


def get(*, allocation_id: UUID, client_id: int) -> Allocation:
    """One of a client's allocations. Raises AllocationNotFound."""
    found = visible_to(client_id).filter(pk=allocation_id).first()
    if found is None:
        raise AllocationNotFound("You have no allocation with this id.")
    return found


def allocate(*, client_id: int, api_key_id: int | None = None, wanted: Wanted, now: datetime) -> Allocation:
    """Reserve the cheapest nodes that fit, each with all of its GPUs, and the money for all of the time.

    Raises NoCapacity, InsufficientFunds, BudgetExceeded, RateLimited, TooLong; nothing is reserved then.
    """
    expires_at = _checked(now, now + timedelta(seconds=wanted.seconds))
    told = terms.current()
    for _ in range(ATTEMPTS):
        with transaction.atomic():
            chosen, is_contested = _reserve(wanted, told, now)
            if chosen:
                made = _begin(client_id, api_key_id, wanted, chosen, told, now, expires_at)
                return get(allocation_id=made.pk, client_id=client_id)
            # Let go of what was locked so far: whoever else tries may need just these.
            transaction.set_rollback(True)
        if is_contested:
            time.sleep(PAUSE_S)
    raise NoCapacity("Others were quicker to reserve the nodes that fit.", retry_after=1)


def _checked(now: datetime, expires_at: datetime) -> datetime:
    if expires_at - now > timedelta(hours=settings.ALLOCATION_MAX_HOURS):
        most = f"{settings.ALLOCATION_MAX_HOURS:g}"
        raise TooLong(fields={"duration_hours": [f"At most {most} hours from now can be reserved."]})
    return expires_at


def _reserve(wanted: Wanted, told: Terms, now: datetime) -> tuple[list[Candidate], bool]:
    """Lock nodes that cover what is wanted. None of them, and true, where somebody else is at nodes that are needed.

    Raises NoCapacity.
    """
    found, reasons = candidates.find(wanted, told, now=now)
    is_contested = False
    while True:
        chosen = candidates.cover(found, wanted.gpu_count)
        if sum(each.gpus for each in chosen) < wanted.gpu_count:
            if is_contested:
                return [], True
            raise _no_capacity(wanted, found, reasons)
        free = _lock([each.node_id for each in chosen])
        taken = [each for each in chosen if each.node_id not in free]
        if not taken:
            return chosen, False
        is_contested = True
        found = [each for each in found if each not in taken]


def _lock(node_ids: Sequence[int]) -> set[int]:
    """Those of the nodes that are ours until the transaction ends; not those that somebody else holds or has leased."""
    nodes = Node.objects.select_for_update(no_key=True, skip_locked=True).filter(pk__in=node_ids)
    ours = set(nodes.values_list("pk", flat=True))
    # Read only now: whoever had a lock before us may have reserved the node.
    leased = Lease.objects.filter(node_id__in=node_ids, ended_at=None).values_list("node_id", flat=True)
    return ours - set(leased)


def _begin(
    client_id: int,
    api_key_id: int | None,
    wanted: Wanted,
    chosen: Sequence[Candidate],
    told: Terms,
    now: datetime,
    expires_at: datetime,
) -> Allocation:
    made = Allocation.objects.create(
        client_id=client_id,
        api_key_id=api_key_id,
        task_type=wanted.task_type,
        gpu_type="; ".join(dict.fromkeys(name for each in chosen for name in each.gpu_names))[:255],
        gpu_count=wanted.gpu_count,
        model=wanted.model,
        dataset_id=wanted.dataset_id,
        created_at=now,
        expires_at=expires_at,
    )
    begun = Lease.objects.bulk_create(
        Lease(
            allocation=made,
            node_id=each.node_id,
            node_name=each.name,
            provider_id=each.owner_id,
            gpus=each.gpus,
            price_id=each.price_id,
            hour_price=each.hour_price,
            fee_bps=told.fee_bps,
            started_at=now,
            paid_until=now,
            expires_at=expires_at,
        )
        for each in chosen
    )
    states.touch([each.node_id for each in chosen], now=now)
    # The account is locked last, and so for the shortest time.
    for lease in begun:
        leases.hold(lease, client_id=client_id, api_key_id=api_key_id, until=expires_at)
    return made


def _no_capacity(wanted: Wanted, found: Sequence[Candidate], reasons: Counter[str]) -> NoCapacity:
    free, total = sum(each.gpus for each in found), len(found) + reasons.total()
    counted = [f"{count} {'is' if count == 1 else 'are'} {reason}" for reason, count in reasons.most_common()]
    nodes = f"{total} node{'' if total == 1 else 's'} {'is' if total == 1 else 'are'} registered"
    sentence = f"{wanted.gpu_count} GPUs are wanted, {free} that fit are free. {nodes}"
    return NoCapacity(
        f"{sentence}: {', '.join(counted)}." if counted else f"{sentence}.",
        details={"nodes": dict(reasons), "free_gpus": free, "wanted_gpus": wanted.gpu_count},
        retry_after=60,
    )


def extend(*, allocation_id: UUID, client_id: int, seconds: int, now: datetime) -> Allocation:
    """Keep the nodes that are left for longer, at the price that they have.

    Raises AllocationNotFound, AllocationEnded, TooLong, and what `ledger.hold` does; nothing is changed then.
    """
    get(allocation_id=allocation_id, client_id=client_id)
    with transaction.atomic():
        locked = leases.lock(allocation_id)
        if locked is None or locked.allocation.expires_at <= now:
            raise AllocationEnded("This allocation is over. Make a new one.")
        allocation = locked.allocation
        allocation.expires_at = _checked(now, allocation.expires_at + timedelta(seconds=seconds))
        allocation.save(update_fields=["expires_at"])
        for lease in locked.leases:
            lease.expires_at = allocation.expires_at
            lease.save(update_fields=["expires_at"])
        states.touch([lease.node_id for lease in locked.leases], now=now)
        for lease in locked.leases:
            leases.hold(
                lease, client_id=client_id, api_key_id=allocation.api_key_id, until=allocation.expires_at
            )
    return get(allocation_id=allocation_id, client_id=client_id)


def release(
    *, allocation_id: UUID, client_id: int, now: datetime, reason: str = "Its client released it."
) -> Allocation:
    """End an allocation now: its time is paid to the second, the rest is given back. One that has ended stays so.

    Raises AllocationNotFound.
    """
    get(allocation_id=allocation_id, client_id=client_id)
    with transaction.atomic():
        locked = leases.lock(allocation_id)
        if locked is not None:
            for lease in locked.leases:
                until = locked.standing(lease, now).served_until
                leases.end(lease, until, code=leases.RELEASED, reason=reason, now=now)
            leases.finish(locked.allocation, now=now)
    return get(allocation_id=allocation_id, client_id=client_id)


@transaction.atomic
def end(allocation: Allocation, *, by: Client, reason: str, now: datetime) -> Allocation:
    """An operator ends an allocation, and says why: paid to the second, the rest is given back.

    Raises AllocationEnded.
    """
    if allocation.ended_at is not None:
        raise AllocationEnded("This allocation has ended already.")
    why = f"An operator released it: {reason}"
    ended = release(allocation_id=allocation.pk, client_id=allocation.client_id, now=now, reason=why)
    audit.note(
        by=by,
        action="release_allocation",
        subject=f"allocation {allocation.pk}",
        reason=reason,
        details={"client": allocation.client_id, "leases": [lease.pk for lease in ended.leases.all()]},
    )
    return ended
