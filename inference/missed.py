"""The requests that a provider's nodes did not get, each for the first reason that would have to be removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from django.db.models import Q, Sum
from django.db.models.functions import Coalesce

from clients import terms
from gpus import prices
from gpus.models import Node, Offer
from gpus.prices import ANY_PRICE, Ceiling, Rates
from inference.catalogue import GIVEN
from inference.demand import SERVED
from inference.earnings import NoSuchNode
from inference.models import Demand, Model
from marketplace.money import MOST

# What a node that fits could have answered, had it been there and free.
REFUSED = frozenset(("no_capacity", "queue_timeout", "queue_full"))
SHOWN_MODELS = 10


class Reason(IntEnum):
    """Why a node did not get a request, in the order in which these would have to be removed."""

    MODEL_MISSING = 1
    KIND = 2
    REGION = 3
    NOT_TRUSTED = 4
    PRICE = 5
    FULL_OR_OFFLINE = 6


TITLES = {
    Reason.MODEL_MISSING: "model missing",
    Reason.KIND: "kind of request",
    Reason.REGION: "region",
    Reason.NOT_TRUSTED: "not trusted",
    Reason.PRICE: "price",
    Reason.FULL_OR_OFFLINE: "full or offline",
}
FIXES = {
    Reason.MODEL_MISSING: "Serve one of these models: load it in the engine behind the agent, and it is offered.",
    Reason.KIND: "Let the engine answer this kind of request (chat, completion, embedding) with this model.",
    Reason.REGION: "These consumers want another region; a node there would get their requests.",
    Reason.NOT_TRUSTED: "These consumers want nodes that an operator vouches for; ask the operators.",
    Reason.PRICE: "Your price is over what these consumers pay at most; ask less for this model.",
    Reason.FULL_OR_OFFLINE: "Keep the node online and allow more requests at the same time, or add a node.",
}


@dataclass(slots=True)
class Missed:
    """What one node, or all of a provider's together, did not get."""

    name: str = ""
    node_id: int | None = None
    reasons: Counter[Reason] = field(default_factory=Counter)
    # Asked for and not held: how often, and how often somebody else has served it.
    models: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return self.reasons.total()

    @property
    def sentence(self) -> str:
        """ "312 requests missed: price 61 %, model missing 30 %, region 9 %." """
        if not self.requests:
            return "No requests missed."
        parts = (f"{TITLES[reason]} {_percent(self.share(reason))}" for reason, _ in self.most_first())
        plural = "" if self.requests == 1 else "s"
        return f"{self.requests} request{plural} missed: {', '.join(parts)}."

    def share(self, reason: Reason) -> float:
        return self.reasons[reason] / self.requests

    def most_first(self) -> list[tuple[Reason, int]]:
        return sorted(self.reasons.items(), key=lambda each: (-each[1], each[0]))


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


@dataclass(frozen=True, slots=True)
class _Own:
    """A node as it is set up now. `offers`: kinds and rates by model."""

    id: int
    name: str
    region: str
    trusted: bool
    offers: dict[str, tuple[frozenset[str], Rates]] = field(default_factory=dict)

    def misses(self, asked: _Asked) -> Reason | None:
        """Why it did not get such requests; None where another node may have been chosen as well."""
        offer = self.offers.get(asked.model)
        if offer is None:
            return Reason.MODEL_MISSING
        kinds, rates = offer
        if asked.kind not in kinds:
            return Reason.KIND
        if asked.region and asked.region != self.region:
            return Reason.REGION
        if asked.trusted_only and not self.trusted:
            return Reason.NOT_TRUSTED
        if not asked.ceiling.admits(rates):
            return Reason.PRICE
        return Reason.FULL_OR_OFFLINE if asked.outcome in REFUSED else None


class _Asked(NamedTuple):
    """Requests that were alike, or (only `model`, `requests`, `served`) for a model that no own node holds."""

    model: str
    requests: int
    served: int
    kind: str = ""
    region: str = ""
    trusted_only: bool = False
    ceiling: Ceiling = ANY_PRICE
    outcome: str = ""


def by(provider_id: int, *, since: datetime, node_id: int | None = None) -> tuple[Missed, list[Missed]]:
    """What a provider's nodes did not get since an hour: all together, where any of them would have done, and each.

    Requests for models that are hidden or somebody else's are left out. Raises NoSuchNode.
    """
    nodes = _nodes(provider_id, node_id)
    if node_id is not None and not nodes:
        raise NoSuchNode
    asked = _asked(provider_id, {model for node in nodes for model in node.offers}, since)
    return _missed([*nodes], asked, Missed()), [
        _missed([node], asked, Missed(node.name, node.id)) for node in nodes
    ]


def _missed(nodes: list[_Own], asked: Iterable[_Asked], found: Missed) -> Missed:
    absent: Counter[str] = Counter()
    served: Counter[str] = Counter()
    for each in asked:
        reasons = [node.misses(each) for node in nodes] or [Reason.MODEL_MISSING]
        if None in reasons:
            continue
        # The node that came closest tells what it takes.
        reason = max(reason for reason in reasons if reason is not None)
        found.reasons[reason] += each.requests
        if reason is Reason.MODEL_MISSING and each.model:
            absent[each.model] += each.requests
            served[each.model] += each.served
    found.models = {model: (count, served[model]) for model, count in absent.most_common(SHOWN_MODELS)}
    return found


def _nodes(provider_id: int, node_id: int | None) -> list[_Own]:
    told = terms.current()
    own = Node.objects.filter(owner_id=provider_id).order_by("pk")
    own = own if node_id is None else own.filter(pk=node_id)
    found = {node.pk: _Own(node.pk, node.name, node.region, node.trusted) for node in own}
    offers = Offer.objects.filter(node_id__in=found, active=True).select_related("price")
    for offer in offers:
        found[offer.node_id].offers[offer.model] = frozenset(offer.kinds), prices.of(offer.price, told)
    return list(found.values())


_SERVED = Coalesce(Sum("requests", filter=Q(outcome=SERVED)), 0)
_WISH = ("kind", "region", "trusted_only", "max_input_price", "max_output_price", "max_request_price")


def _asked(provider_id: int, held: set[str], since: datetime) -> list[_Asked]:
    others = Model.objects.filter(Q(hidden=True) | (Q(owner__isnull=False) & ~Q(owner_id=provider_id)))
    rows = Demand.objects.filter(hour__gte=since).exclude(model__in=others.values("name")).order_by()
    # No node may serve what the marketplace has named unless it is asked to.
    absent = rows.exclude(model__in=held).exclude(model__startswith=GIVEN).values("model")
    alike = rows.filter(model__in=held).values("model", *_WISH, "outcome")
    return [
        _Asked(row["model"], row["total"], row["served"])
        for row in absent.annotate(total=Sum("requests"), served=_SERVED)
    ] + [
        _Asked(
            row["model"],
            row["total"],
            row["served"],
            row["kind"],
            row["region"],
            row["trusted_only"],
            _ceiling(*(row[f"max_{part}_price"] for part in ("input", "output", "request"))),
            row["outcome"],
        )
        for row in alike.annotate(total=Sum("requests"), served=_SERVED)
    ]


def _ceiling(*most: int) -> Ceiling:
    return Ceiling(*(None if each == MOST else each for each in most))
