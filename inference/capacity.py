"""What nodes could have done in a time: their GPUs, the requests they answer at once, and when they were online."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpus.candidates import gpu_names
from gpus.models import Node, NodeEvent, NodeState, Offer

Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one node. `slots`: how many requests of each model it takes at once, as it is set up now."""

    name: str
    owner_id: int
    gpus: int
    slots: Mapping[str, int] = field(default_factory=dict)
    online: tuple[Span, ...] = ()

    @property
    def all_slots(self) -> int:
        return sum(self.slots.values())

    def online_ms(self, since: datetime, until: datetime) -> int:
        return sum(overlap_ms(span, since, until) for span in self.online)


def of(node_ids: Iterable[int], *, since: datetime, until: datetime) -> dict[int, Capacity]:
    """The capacity of these nodes by id, with when they were online in a time. Nodes that are gone are left out."""
    ids = list(node_ids)
    slots: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for node_id, model, concurrency in Offer.objects.filter(node_id__in=ids, active=True).values_list(
        "node_id", "model", "concurrency"
    ):
        slots[node_id][model] = concurrency
    online = _online(ids, since, until)
    return {
        pk: Capacity(name, owner_id, len(gpu_names(gpu_info)), slots[pk], tuple(online.get(pk, ())))
        for pk, name, owner_id, gpu_info in Node.objects.filter(pk__in=ids).values_list(
            "pk", "name", "owner_id", "gpu_info"
        )
    }


def overlap_ms(span: Span, since: datetime, until: datetime) -> int:
    """How much of a span lies in a time."""
    return max(0, (min(span[1], until) - max(span[0], since)) // timedelta(milliseconds=1))


def _online(ids: list[int], since: datetime, until: datetime) -> dict[int, list[Span]]:
    """When each node was online, from the changes of its state."""
    events = NodeEvent.objects.filter(node_id__in=ids)
    before = events.filter(at__lt=since).order_by("node_id", "-at", "-id").distinct("node_id")
    within = events.filter(at__gte=since, at__lt=until).order_by("at", "id")
    spans: defaultdict[int, list[Span]] = defaultdict(list)
    began: dict[int, datetime] = {}
    for query in (before, within):
        for node_id, at, state in query.values_list("node_id", "at", "state"):
            if node_id in began:
                spans[node_id].append((began.pop(node_id), at))
            if state == NodeState.ONLINE:
                began[node_id] = max(at, since)
    for node_id, at in began.items():
        spans[node_id].append((at, until))
    return spans
