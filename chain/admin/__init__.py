"""What operators see and do about chains."""

from chain.admin import (
    deposits,
    events,
    fulfilments,
    networks,
    orders,
    outbox,
    reconciliations,
    roots,
    services,
    sources,
    tasks,
    withdrawals,
)

__all__ = [
    "deposits",
    "events",
    "fulfilments",
    "networks",
    "orders",
    "outbox",
    "reconciliations",
    "roots",
    "services",
    "sources",
    "tasks",
    "withdrawals",
]
