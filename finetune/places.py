"""Where a job could be trained: on the marketplace's own workers, and on providers' nodes that offer it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Count, Exists, OuterRef, Q

from clients import terms
from clients.models import Terms
from finetune.models import Attempt, AttemptOutcome, Job, Method, Where
from gpus import prices, states
from gpus.models import Lease, Node
from gpus.talents import Training
from inference.models import Revision
from marketplace import money

# Why an attempt ended whose place closed in good order.
HANDED_BACK = "handed_back"
# A node where a run has come to nothing so often gets it only where no other place would do.
_OFTEN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be trained, as far as it decides where. `owner_id`: whose allocation it may be."""

    owner_id: int
    method: Method
    base: Revision
    where: Where
    allocation_id: UUID | None = None

    @classmethod
    def of(cls, job: Job) -> Wish:
        return cls(
            owner_id=job.owner_id,
            method=Method(job.method),
            base=job.base,
            where=Where(job.where),
            allocation_id=job.allocation_id,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to train. `node_id` None is here.

    It asks either `per_million` tokens or `per_hour` (base units; the latter for all of the node's GPUs).
    """

    node_id: int | None
    name: str
    per_million: int = 0
    per_hour: int = 0
    device: str = ""
    is_free: bool = True

    def price(self, tokens: int, seconds: float) -> int:
        """What it asks for a training, in base units."""
        return money.per_million(self.per_million, tokens) + money.for_seconds(self.per_hour, seconds)


@dataclass(frozen=True, slots=True)
class Found:
    """The places that would do, and how many others there are by what is against them."""

    places: list[Place]
    objections: Counter[str]

    def why_none(self) -> str:
        """Why nothing can be trained, as a sentence."""
        if not self.objections:
            return "No node offers training, and the marketplace's own workers take none of this."
        counts = ", ".join(f"{count} {what}" for what, count in self.objections.most_common())
        return f"No place can train this: {counts}."


def find(wish: Wish, *, now: datetime) -> Found:
    """All places that would do, busy ones too."""
    told = terms.current()
    places = [_here(told)] if wish.where in (Where.ANY, Where.HERE) and settings.TRAINING_SLOTS else []
    objections: Counter[str] = Counter()
    if wish.where != Where.HERE:
        for place, objection in _nodes(wish, told, now):
            if objection:
                objections[objection] += 1
            else:
                places.append(place)
    return Found(places, objections)


def _here(told: Terms) -> Place:
    return Place(None, "the marketplace's worker", per_million=told.default_training_price)


def _nodes(wish: Wish, told: Terms, now: datetime) -> Iterator[tuple[Place, str]]:
    leases = Lease.objects.filter(node_id=OuterRef("pk"), ended_at=None)
    own = leases.filter(allocation__client_id=wish.owner_id)
    own = own.none() if wish.allocation_id is None else own.filter(allocation_id=wish.allocation_id)
    rows = (
        Node.objects.exclude(training=None)
        .annotate(is_leased=Exists(leases), is_own=Exists(own))
        .annotate(at_work=Count("attempts", filter=Q(attempts__ended_at=None)))
        .select_related("hour_price", "training_price", "owner")
    )
    facts = {row["id"]: row for row in Node.objects.exclude(training=None).values("id", *states.FACT_FIELDS)}
    for node in rows:
        training = Training.read(node.training)
        objection = "" if node.pk in facts else "gone"
        objection = objection or _objection(wish, node, training)
        state = states.assess(facts[node.pk], now=now) if not objection else None
        if state is not None and not state.takes_work:
            objection = state.state
        yield _place(wish, node, training, told), objection


def _objection(wish: Wish, node: Node, training: Training) -> str:
    """What is against a node, as the end of a sentence; empty if nothing is."""
    if wish.where == Where.ALLOCATION:
        if not node.is_own:  # type: ignore[attr-defined]
            return "not of your allocation"
    elif node.is_leased:  # type: ignore[attr-defined]
        return "reserved"
    if wish.method not in training.methods:
        return f"not training {wish.method} models"
    if wish.where == Where.TRUSTED and not node.trusted:
        return "not trusted by the operator"
    return ""


def _place(wish: Wish, node: Node, training: Training, told: Terms) -> Place:
    is_free = node.at_work < training.slots  # type: ignore[attr-defined]
    per_million, per_hour = (0, 0) if wish.where == Where.ALLOCATION else _asked(node, training, told)
    return Place(node.pk, node.name, per_million, per_hour, training.device, is_free)


def _asked(node: Node, training: Training, told: Terms) -> tuple[int, int]:
    """Per million tokens, and per hour: one of them, as the provider has it."""
    if node.training_price is not None:
        return prices.training_rate(node.training_price.training_price, told), 0
    if node.hour_price is not None:
        return 0, prices.hour_rate(node.hour_price.hour_price, told) * training.gpus
    return told.default_training_price, 0


def _agreed(job: Job, place: Place) -> int:
    """The most that a place may ask. What an hour comes to follows from measured speeds, which drift a little."""
    return job.price * 5 // 4 if place.per_hour else job.price


_TOO_DEAR = (
    "All places ask more than was agreed at the start. It waits for one that does not; "
    "cancelled and begun anew, it costs what they ask now."
)


def choose(
    job: Job, seconds: Callable[[Place], float], *, here_is_free: bool, now: datetime
) -> tuple[Place | None, str]:
    """A free place for a job that asks no more than was agreed, and else why there is none.

    `seconds` says how long it may take at a place. Nodes come first, the cheapest of them; those where this run has
    failed before come last, and not at all where that was often and another place would do.
    """
    found = find(Wish.of(job), now=now)
    tokens = int(job.tokens * job.epochs)
    asked = {each: each.price(tokens, seconds(each)) for each in found.places}
    within = [each for each in found.places if each.node_id is None or asked[each] <= _agreed(job, each)]
    if not within:
        return None, _TOO_DEAR if found.places else found.why_none()
    failed = _failed(job)
    within = [each for each in within if each.node_id is None or failed[each.node_id] < _OFTEN] or within
    free = [each for each in within if (here_is_free if each.node_id is None else each.is_free)]
    if not free:
        return None, "All places that would do are busy." if within[1:] else f"{within[0].name} is busy."
    return min(free, key=lambda each: (each.node_id in failed, each.node_id is None, asked[each])), ""


def _failed(job: Job) -> Counter[int | None]:
    """How often a job's present run came to nothing, by node. What its owner paused tells nothing against a node."""
    before = Attempt.objects.filter(job=job, run=job.run).exclude(ended_at=None)
    by_itself = Q(code=HANDED_BACK) & ~Q(node=None)
    counted = before.filter(~Q(outcome=AttemptOutcome.STOPPED) | by_itself)
    return Counter(counted.values_list("node_id", flat=True))
