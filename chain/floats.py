"""What lies in our balance in a network's Vault and belongs to no order, so that the next ones need no deposit."""

from __future__ import annotations

from typing import Any

from django.db.models import F, Q, Sum

from chain.models import Network, OrderStatus, TaskOrder, TransactionStatus, VaultFloat


def take(order: TaskOrder) -> int:
    """As much of an order's payment as lies there; from now on it is the order's. Locks the float."""
    found = VaultFloat.objects.select_for_update().filter(**_place(order), free__gt=0).first()
    if found is None:
        return 0
    taken = min(found.free, order.payment)
    VaultFloat.objects.filter(pk=found.pk).update(free=F("free") - taken)
    return taken


def give(order: TaskOrder, amount: int) -> None:
    """What an order has left there (base units) is for the next ones."""
    if amount:
        VaultFloat.objects.get_or_create(**_place(order))
        VaultFloat.objects.filter(**_place(order)).update(free=F("free") + amount)


def forget(order: TaskOrder) -> None:
    """It is not there: somebody has taken it out. It is deposited anew."""
    VaultFloat.objects.filter(**_place(order)).update(free=0)


def in_vault(network: Network, *, address: str) -> int:
    """What lies in an address's balance in the Vault for orders: free for the next ones, or about to be frozen for one.
    What is frozen already is no part of the balance.
    """
    found = VaultFloat.objects.filter(network=network, address=address).first()
    waiting = TaskOrder.objects.filter(
        network=network, publisher=address, status=OrderStatus.PUBLISHING
    ).aggregate(
        reused=Sum("reused"),
        deposited=Sum("deposit__value", filter=Q(deposit__status=TransactionStatus.CONFIRMED)),
    )
    return (found.free if found else 0) + int(waiting["reused"] or 0) + int(waiting["deposited"] or 0)


def _place(order: TaskOrder) -> dict[str, Any]:
    return {"network_id": order.network_id, "address": order.publisher}
