"""What providers ask for their nodes' models and hours, within the operator's limits.

A price that was set stays as it is when the operator's limits change; what is charged is moved to the nearest limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.db.models import QuerySet

from clients import terms
from clients.models import Terms
from gpus import states
from gpus.models import Node, Offer, Price
from marketplace import money
from marketplace.errors import InvalidRequest

# The parts of a model's price, as `Price`, `Terms` (with min_, max_, default_) and the APIs call them.
PARTS = ("input_price", "output_price", "request_price")
HOUR = "hour_price"
TRAINING = "training_price"
_PER = {
    "input_price": "per million prompt tokens",
    "output_price": "per million completion tokens",
    "request_price": "per request",
    HOUR: "per GPU and hour",
    TRAINING: "per million tokens trained on",
}
# A request of the usual size, to compare prices by: a thousand prompt tokens, three hundred completion tokens.
_USUAL_PROMPT, _USUAL_COMPLETION = 1000, 300


class PriceOutOfRange(InvalidRequest):
    """A price is not within the limits that the operator has set. The fields name the limit."""

    code = "price_out_of_range"


class Rates(NamedTuple):
    """A price as requests are charged by it: base units per million tokens, and per request."""

    input: int = 0
    output: int = 0
    request: int = 0
    price_id: int | None = None  # None: the default of the terms

    @property
    def usual(self) -> float:
        """What a request of the usual size costs, in no unit but comparable."""
        tokens = self.input * _USUAL_PROMPT + self.output * _USUAL_COMPLETION
        return float(tokens + self.request * money.MILLION)


class Ceiling(NamedTuple):
    """The most that a consumer is willing to pay. None is any price."""

    input: int | None = None
    output: int | None = None
    request: int | None = None

    def admits(self, rates: Rates) -> bool:
        return all(most is None or asked <= most for most, asked in zip(self, rates[:3], strict=True))

    def lower(self, other: Ceiling) -> Ceiling:
        """Of two ceilings the lower in each part."""
        pairs = zip(self, other, strict=True)
        return Ceiling(*(one if two is None else two if one is None else min(one, two) for one, two in pairs))


FREE, ANY_PRICE = Rates(), Ceiling()


class Wish(NamedTuple):
    """What a provider wants for a model from now on. None leaves a part as it is."""

    input_price: int | None = None
    output_price: int | None = None
    request_price: int | None = None

    def said(self) -> dict[str, int]:
        return {name: asked for name, asked in self._asdict().items() if asked is not None}


NOTHING = Wish()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a provider wants for a node: for each of its models, for single ones (these win), and for an hour."""

    every: Wish = NOTHING
    models: Mapping[str, Wish] = field(default_factory=dict)
    hour: int | None = None
    training: int | None = None


# --- What is charged --------------------------------------------------------------------------------------


def default_rates(now: Terms) -> Rates:
    """What a model costs on a node whose owner has set no price."""
    return Rates(now.default_input_price, now.default_output_price, now.default_request_price)


def within(asked: Rates, now: Terms) -> Rates:
    """What requests are charged where this is asked: each part moved to the nearest limit."""
    if asked.price_id is None:
        return default_rates(now)
    charged = [_within(part, value, now) for part, value in zip(PARTS, asked[:3], strict=True)]
    return Rates(charged[0], charged[1], charged[2], asked.price_id)


def of(price: Price | None, now: Terms) -> Rates:
    """What requests are charged by a price under these terms; None is the default of the terms."""
    if price is None:
        return default_rates(now)
    asked = Rates(price.input_price, price.output_price, price.request_price, price.pk)
    return within(asked, now)


def training_rate(asked: int | None, now: Terms) -> int:
    """What a million tokens trained on cost where this is asked; None is the default of the terms."""
    return now.default_training_price if asked is None else _within(TRAINING, asked, now)


def hour_rate(asked: int | None, now: Terms) -> int:
    """What a GPU-hour costs where this is asked; None is the default of the terms."""
    return now.default_hour_price if asked is None else _within(HOUR, asked, now)


def _within(part: str, asked: int, now: Terms) -> int:
    least, most = _limits(part, now)
    if most is not None and asked > most:
        return most
    return asked if least is None or asked >= least else least


def _limits(part: str, now: Terms) -> tuple[int | None, int | None]:
    return getattr(now, f"min_{part}"), getattr(now, f"max_{part}")


# --- Setting prices ---------------------------------------------------------------------------------------


class ModelNotOffered(InvalidRequest):
    code = "model_not_offered"


def change(*, node_id: int, wishes: Wishes, now: datetime) -> int:
    """Ask these prices on a node from now on; how many of its prices are new. Running requests keep theirs.

    Raises PriceOutOfRange, ModelNotOffered; nothing is changed then.
    """
    with transaction.atomic():
        node = Node.objects.select_for_update(no_key=True).filter(pk=node_id).first()
        if node is None:
            return 0
        offers = list(Offer.objects.filter(node_id=node_id, active=True).select_related("price"))
        _check_offered(wishes.models, {offer.model for offer in offers})
        told = terms.current()
        before = {offer.model: offer.price_id for offer in offers}
        wanted = [(offer, wishes.models.get(offer.model, wishes.every)) for offer in offers]
        ask_for_models(node.owner_id, wanted, told)
        changed = [offer for offer in offers if offer.price_id != before[offer.model]]
        Offer.objects.bulk_update(changed, ["price"])
        count = len(changed) + (wishes.hour is not None and ask_for_hours(node, wishes.hour, told))
        count += wishes.training is not None and ask_for_training(node, wishes.training, told)
        if count:
            states.touch([node_id], now=now)
    return count


def _check_offered(asked: Iterable[str], offered: set[str]) -> None:
    unknown = {name: [f"This node does not offer {name!r}."] for name in asked if name not in offered}
    if unknown:
        raise ModelNotOffered(fields={"models": unknown})


def ask_for_models(owner_id: int, wishes: Iterable[tuple[Offer, Wish]], told: Terms) -> None:
    """Give offers (not saved here) a new price where what is wanted differs from what they have.

    A part that is not wanted stays as it is; at the first price, as the default is now. Raises PriceOutOfRange.
    """
    new: list[tuple[Offer, Price]] = []
    wrong: dict[str, dict[str, list[str]]] = {}
    for offer, wish in wishes:
        said = wish.said()
        before = _present(offer, told)
        if not said or (offer.price_id is not None and before | said == before):
            continue
        if objections := _objections(said, before if offer.price_id is not None else {}, told):
            wrong[offer.model] = objections
        price = Price(node_id=offer.node_id, owner_id=owner_id, model=offer.model, **(before | said))
        new.append((offer, price))
    if wrong:
        raise PriceOutOfRange(_sentence(wrong), fields={"models": wrong})
    made = Price.objects.bulk_create([price for _, price in new])
    for (offer, _), price in zip(new, made, strict=True):
        offer.price = price


def _present(offer: Offer, told: Terms) -> dict[str, int]:
    if offer.price is None:
        return {part: getattr(told, f"default_{part}") for part in PARTS}
    return {part: getattr(offer.price, part) for part in PARTS}


def ask_for_hours(node: Node, asked: int, told: Terms) -> bool:
    """Ask this per GPU and hour on a node, whose row must be locked. False if it is so. Raises PriceOutOfRange."""
    return _ask_for(HOUR, node, asked, told)


def ask_for_training(node: Node, asked: int, told: Terms) -> bool:
    """Ask this per million tokens trained on; else like `ask_for_hours`."""
    return _ask_for(TRAINING, node, asked, told)


def _ask_for(part: str, node: Node, asked: int, told: Terms) -> bool:
    before: Price | None = getattr(node, part)
    if before is not None and getattr(before, part) == asked:
        return False
    if objections := _objections({part: asked}, {}, told):
        raise PriceOutOfRange(objections[part][0], fields=objections)
    price = Price.objects.create(node_id=node.pk, owner_id=node.owner_id, **{part: asked})
    Node.objects.filter(pk=node.pk).update(**{part: price})
    return True


def _objections(said: Mapping[str, int], before: Mapping[str, int], told: Terms) -> dict[str, list[str]]:
    """What is wrong with the parts that are new."""
    found = {}
    for part, asked in said.items():
        least, most = _limits(part, told)
        if before.get(part) == asked or _within(part, asked, told) == asked:
            continue
        limit, bound = ("at most", most) if most is not None and asked > most else ("at least", least)
        assert bound is not None
        found[part] = [f"This marketplace allows {limit} {money.named(bound)} {_PER[part]}."]
    return found


def _sentence(wrong: Mapping[str, Mapping[str, list[str]]]) -> str:
    model, objections = next(iter(wrong.items()))
    return f"{model}: {next(iter(objections.values()))[0]}"


def history(*, node_id: int) -> QuerySet[Price]:
    """All prices that were ever asked on a node, the newest first."""
    return Price.objects.filter(node_id=node_id).order_by("-id")
