"""What can be used: hardware records, nodes and what they cost, and the times for which they are somebody's alone."""

from gpus.models.allocations import Allocation, Lease
from gpus.models.nodes import (
    Delivery,
    Gateway,
    Gpu,
    Hardware,
    Heartbeat,
    Node,
    NodeEvent,
    NodeState,
    Offer,
    overdue_before,
)
from gpus.models.prices import Price

__all__ = [
    "Allocation",
    "Delivery",
    "Gateway",
    "Gpu",
    "Hardware",
    "Heartbeat",
    "Lease",
    "Node",
    "NodeEvent",
    "NodeState",
    "Offer",
    "Price",
    "overdue_before",
]
