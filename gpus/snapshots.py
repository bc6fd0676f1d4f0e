"""What a process reads of the nodes: rows with their offers and their reservation, as `gpus.directory` keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import close_old_connections
from django.db.models import Q, QuerySet

from clients import terms
from clients.models import Terms
from gpus import states
from gpus.models import Gateway, Heartbeat, Lease, Node, Offer
from gpus.pools import Reserved

Row = dict[str, Any]
# What is read of a node as it stands; the rest becomes its facts.
PLAIN = (
    "name", "token_digest", "delivery", "push_url", "region", "trusted", "gateway_id", "link_id", "message", "engine",
    "training", "hosting",
)  # fmt: skip
TRAINING_PRICE = "training_price__training_price"


OF_PRICE = ("price__input_price", "price__output_price", "price__request_price", "price_id")  # as Rates
_OF_OFFER = ("node_id", "model", "kinds", "concurrency", "context_length", "revision", *OF_PRICE)


@dataclass(slots=True)
class Found:
    nodes: list[Row]
    heartbeats: list[tuple[int, float]]
    gateways: set[UUID]
    terms: Terms

    def gone(self, announced: set[int], known: Iterable[int]) -> set[int]:
        """Nodes that were looked for and are no longer there."""
        return (announced | set(known)) - {row["id"] for row in self.nodes}


def read(since: datetime, announced: frozenset[int], everything: bool) -> Found:
    close_old_connections()
    rows = Node.objects.all()
    if not everything:
        rows = rows.filter(Q(changed_at__gt=since) | Q(pk__in=announced))
    beats = Heartbeat.objects.filter(at__gt=since).values_list("node_id", "at")
    alive = Gateway.objects.filter(seen_at__gt=datetime.now(UTC) - Gateway.LOST_AFTER)
    return Found(
        nodes=_with_offers(rows),
        heartbeats=[(node_id, at.timestamp()) for node_id, at in beats],
        gateways=set(alive.values_list("id", flat=True)),
        terms=terms.current(),
    )


def read_one(token_digest: str) -> Row | None:
    close_old_connections()
    return next(iter(_with_offers(Node.objects.filter(token_digest=token_digest))), None)


def _with_offers(found: QuerySet[Node]) -> list[Row]:
    rows: list[Row] = list(
        found.values("id", "owner_id", "errands", TRAINING_PRICE, *PLAIN, *states.FACT_FIELDS)
    )
    offers: dict[int, list[Row]] = {row["id"]: [] for row in rows}
    wanted = Offer.objects.filter(active=True)
    if len(rows) < 1000:
        wanted = wanted.filter(node_id__in=offers)
    for offer in wanted.values(*_OF_OFFER):
        offers.get(offer["node_id"], []).append(dict(offer))
    leases = _leases() if rows else {}
    return [{**row, "offers": offers[row["id"]], "reserved": leases.get(row["id"])} for row in rows]


def _leases() -> dict[int, Reserved]:
    """By node. There are few."""
    rows = Lease.objects.filter(ended_at=None).values_list(
        "node_id", "allocation_id", "allocation__client_id", "expires_at"
    )
    return {
        node_id: Reserved(str(allocation_id), client_id, expires_at.timestamp())
        for node_id, allocation_id, client_id, expires_at in rows
    }
