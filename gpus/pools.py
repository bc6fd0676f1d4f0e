"""The pools of a process: one per model for everybody, and for each allocation its own.

A reserved node's offers stand in the pools of its allocation only, so that neither choice has to look at the other's
nodes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gpus.placement import LiveOffer, Pool
from marketplace.errors import NotFound

if TYPE_CHECKING:
    from gpus.directory import LiveNode


class AllocationNotFound(NotFound):
    code, message = "allocation_not_found", "You have no running allocation with this id."


# The nodes that may answer for a model, by its name; a model that is not among them is for whoever offers it.
Guards = Mapping[str, frozenset[int]]


class Reserved(NamedTuple):
    """Whose alone a node is, and until when (seconds since the epoch)."""

    allocation_id: str
    client_id: int
    expires_at: float


@dataclass(slots=True, eq=False)
class Reservation:
    """An allocation as this process knows it. `nodes`: each with until when it is reserved."""

    client_id: int
    pools: dict[str, Pool] = field(default_factory=dict)
    nodes: dict[int, float] = field(default_factory=dict)

    def is_over(self, now: float) -> bool:
        return all(expires_at <= now for expires_at in self.nodes.values())


class Pools:
    """Where the offers of the live nodes stand."""

    def __init__(self) -> None:
        self.general: dict[str, Pool] = {}
        self._reserved: dict[str, Reservation] = {}
        self._guards: Guards = {}

    def of(self, allocation: str, client_id: int) -> Mapping[str, Pool]:
        """The pools by model that a request may use; `allocation` "" is none. Raises AllocationNotFound."""
        if not allocation:
            return self.general
        found = self._reserved.get(allocation.lower())
        # Between its end and the moment at which that is written, it serves nobody.
        if found is None or found.client_id != client_id or found.is_over(time.time()):
            raise AllocationNotFound
        return found.pools

    def all(self) -> Iterator[Pool]:
        yield from self.general.values()
        for reservation in self._reserved.values():
            yield from reservation.pools.values()

    def assign(self, node: LiveNode, reserved: Reserved | None) -> None:
        """A node is reserved, set free, or reserved for longer. Its offers must be refreshed afterwards."""
        before, node.reserved = node.reserved, reserved
        if reserved is not None:
            found = self._reserved.setdefault(reserved.allocation_id, Reservation(reserved.client_id))
            found.nodes[node.id] = reserved.expires_at
        if before is not None and (reserved is None or reserved.allocation_id != before.allocation_id):
            del self._reserved[before.allocation_id].nodes[node.id]
        for offer in node.offers.values():
            self.put(offer)
        if before is not None and not self._reserved[before.allocation_id].nodes:
            for pool in self._reserved.pop(before.allocation_id).pools.values():
                pool.dismiss(AllocationNotFound())

    def put(self, offer: LiveOffer) -> None:
        """Let an offer, new or known, stand where its node's belong. It must be refreshed afterwards."""
        node, model = offer.node, offer.model
        if node.id not in self._guards.get(model, (node.id,)):
            self._bar(offer)
            return
        home = everybodys = self.general.setdefault(model, Pool(model))
        if node.reserved is None:
            everybodys.reserved.pop(node.id, None)
        else:
            everybodys.reserved[node.id] = offer
            home = self._reserved[node.reserved.allocation_id].pools.setdefault(model, Pool(model))
        if offer.pool is not home:
            if offer.pool is not None:
                offer.pool.remove(offer)
            home.add(offer)

    def guard(self, guards: Guards) -> set[str]:
        """Heed new guards; the models whose offers must be put anew."""
        before, self._guards = self._guards, guards
        return {model for model in before.keys() | guards.keys() if before.get(model) != guards.get(model)}

    def _bar(self, offer: LiveOffer) -> None:
        """It stands in no pool: its node only says that it serves the model."""
        self.withdraw(offer)
        offer.pool = None

    def withdraw(self, offer: LiveOffer) -> None:
        """A node offers this no longer."""
        if offer.pool is not None:
            offer.pool.remove(offer)
        pool = self.general.get(offer.model)
        if pool is None:
            return
        pool.reserved.pop(offer.node.id, None)
        if not pool.is_needed:
            del self.general[offer.model]
