"""Which nodes could be reserved, and the cheapest of them that cover what is wanted."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef

from clients.models import Terms
from gpus import prices, states
from gpus.models import Lease, Node, Offer
from gpus.placement import TOO_DEAR

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants to have alone. Empty means anything. `max_hour_price`: per GPU, in base units."""

    task_type: str
    gpu_count: int
    seconds: int
    gpu_type: str = ""
    model: str = ""
    dataset_id: str = ""
    region: str = ""
    trusted_only: bool = False
    max_hour_price: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could be reserved. `hour_price` is for all of its GPUs."""

    node_id: int
    name: str
    owner_id: int
    gpu_names: tuple[str, ...]
    hour_price: int
    price_id: int | None

    @property
    def gpus(self) -> int:
        return len(self.gpu_names)

    def price_for(self, wanted: int) -> tuple[float, int, int]:
        """What it costs per GPU that is of use where so many are wanted; then the smaller, then the older one."""
        return self.hour_price / min(self.gpus, wanted), self.gpus, self.node_id


def gpu_names(gpu_info: str) -> tuple[str, ...]:
    """The GPUs of a node; at least one, since what computes without has its processor."""
    return tuple(gpu_info.split("; "))


def find(wanted: Wanted, told: Terms, *, now: datetime) -> tuple[list[Candidate], Counter[str]]:
    """The nodes that are free and fit, and how many others there are by what is against them."""
    found: list[Candidate] = []
    reasons: Counter[str] = Counter()
    for row in _rows(wanted.model):
        per_gpu = prices.hour_rate(row["hour_price__hour_price"], told)
        objection = _objection(wanted, row, per_gpu, now)
        if objection is not None:
            reasons[objection] += 1
            continue
        names = gpu_names(row["gpu_info"])
        price = per_gpu * len(names)
        found.append(Candidate(row["id"], row["name"], row["owner_id"], names, price, row["hour_price_id"]))
    return found, reasons


def _rows(model: str) -> Iterable[dict[str, Any]]:
    offered = Offer.objects.filter(node_id=OuterRef("pk"), active=True, model=model)
    leased = Lease.objects.filter(node_id=OuterRef("pk"), ended_at=None)
    rows = Node.objects.annotate(is_leased=Exists(leased), holds_model=Exists(offered))
    return rows.values(
        *("id", "name", "owner_id", "gpu_info", "region", "trusted", "hour_price_id"),
        *("hour_price__hour_price", "is_leased", "holds_model", *states.FACT_FIELDS),
    ).iterator()


def _objection(wanted: Wanted, row: dict[str, Any], per_gpu: int, now: datetime) -> str | None:
    """Why a node does not do, as the end of a sentence."""
    if wanted.model and not row["holds_model"]:
        return f"not offering {wanted.model}"
    if wanted.gpu_type and not all(is_of_type(name, wanted.gpu_type) for name in gpu_names(row["gpu_info"])):
        return f"not of type {wanted.gpu_type}"
    if wanted.region and row["region"] != wanted.region:
        return f"not in region {wanted.region}"
    if wanted.trusted_only and not row["trusted"]:
        return "not trusted by the operator"
    if wanted.max_hour_price is not None and per_gpu > wanted.max_hour_price:
        return TOO_DEAR
    if row["is_leased"]:
        return "reserved already"
    state = states.assess(row, now=now)
    return None if state.takes_work else state.state


def is_of_type(name: str, wanted: str) -> bool:
    """Whether a GPU's name has all the words of a type: "NVIDIA GeForce RTX 3080 (10 GB)" is an "nvidia rtx 3080"."""
    return set(_WORD.findall(wanted.lower())) <= set(_WORD.findall(name.lower()))


def cover(found: Sequence[Candidate], wanted: int) -> list[Candidate]:
    """Nodes with so many GPUs between them, for little money; all of them where these are not enough.

    Each time the one that is cheapest for what is still missing; in the end without those that turned out needless.
    """
    left, chosen, missing = list(found), [], wanted
    while left and missing > 0:
        best = min(left, key=lambda each: each.price_for(missing))
        left.remove(best)
        chosen.append(best)
        missing -= best.gpus
    for each in sorted(chosen, key=lambda each: -each.hour_price):
        if each.gpus <= -missing:
            chosen.remove(each)
            missing += each.gpus
    return chosen
