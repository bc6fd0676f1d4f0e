"""What can happen to a node: it joins, offers models, is stopped and let go again, leaves.

Each verb tells the web processes, and leaves an event where the node's state changes.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from clients import credentials, providers, terms
from clients.models import Client, ProviderStatus
from gpus import leases, prices, push_urls, states
from gpus.liveness import Liveness
from gpus.models import Delivery, Heartbeat, Node, Offer
from gpus.offers import ModelSpec, Named
from gpus.talents import HostingTalent, Training
from marketplace import bus
from marketplace.errors import InvalidRequest, NotFound


class NodeNotFound(NotFound):
    code, message = (
        "node_not_found",
        "No node has this token. It may have been registered again since, or removed.",
    )


@dataclass(frozen=True, slots=True)
class Joining:
    """What a machine says of itself when it registers. `hardware`: the fields of gpus.models.Hardware."""

    hardware: Mapping[str, str]
    models: Sequence[ModelSpec]
    machine_id: str = ""
    name: str = ""
    delivery: str = ""
    push_url: str = ""
    region: str = ""
    agent_version: str = ""
    engine: str = ""
    hour_price: int | None = None
    training: Training | None = None
    hosting: HostingTalent | None = None
    training_price: int | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A node that has just joined, with its token, which nobody can read again."""

    node: Node
    token: str
    found: Liveness

    @property
    def messages(self) -> list[str]:
        """What operators want the owner to read."""
        return [self.node.message] if self.node.message else []


def register(*, owner: Client, joining: Joining, now: datetime) -> Registered:
    """Let a machine join, or join again: same owner and machine, same node, new token; the old one is void.

    An owner who is no provider yet asks to be one by this. Resolves the host of a push URL, before the
    transaction. Raises PushUrlRefused, PriceOutOfRange, InvalidRequest.
    """
    delivery = _delivery(joining)
    token = credentials.new_secret("")
    with transaction.atomic():
        if owner.provider_status in (ProviderStatus.NONE, ProviderStatus.PENDING):
            providers.ask(owner, now=now)
        node, created = Node.objects.update_or_create(
            owner=owner,
            machine_id=joining.machine_id or machine_id(owner, joining),
            defaults=_described(joining) | delivery | _fresh(token),
            create_defaults=_described(joining) | delivery | _fresh(token) | {"name": _name(owner, joining)},
        )
        Heartbeat.objects.update_or_create(node=node, defaults={"at": now})
        set_models(node_id=node.pk, models=joining.models, now=now)
        if joining.hour_price is not None:
            prices.ask_for_hours(node, joining.hour_price, terms.current())
        if joining.training_price is not None:
            prices.ask_for_training(node, joining.training_price, terms.current())
        found = states.reassess(node.pk, now=now, by=owner, joined=created)
        announce(node.pk, credential=True)
    node.refresh_from_db()
    return Registered(node, token, found)


def _delivery(joining: Joining) -> dict[str, str]:
    delivery = joining.delivery or (Delivery.PUSH if joining.push_url else Delivery.PULL)
    if delivery == Delivery.PULL:
        return {"delivery": Delivery.PULL, "push_url": ""}
    if not joining.push_url:
        raise InvalidRequest(fields={"push_url": ["Push needs the URL at which the node answers."]})
    push_urls.check(joining.push_url)
    return {"delivery": Delivery.PUSH, "push_url": joining.push_url.rstrip("/")}


def machine_id(owner: Client, joining: Joining) -> str:
    """The id of a machine that names none: the same owner, hardware and models make the same machine."""
    parts = [str(owner.pk), *(joining.hardware[key] for key in sorted(joining.hardware))]
    parts += sorted(model.name for model in joining.models)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _described(joining: Joining) -> dict[str, Any]:
    described = {"region": joining.region, "agent_version": joining.agent_version, "engine": joining.engine}
    talents = {
        "training": joining.training and joining.training.to_json(),
        "hosting": joining.hosting and joining.hosting.to_json(),
    }
    return {**joining.hardware, **described, **talents, **({"name": joining.name} if joining.name else {})}


def _fresh(token: str) -> dict[str, Any]:
    """A new token, and nothing left of what the machine's former life said about itself."""
    return {
        "token_prefix": token[:12],
        "token_digest": credentials.digest(token),
        "draining": False,
        "maintenance": False,
        "unreachable_since": None,
        "unreachable_why": "",
    }


def _name(owner: Client, joining: Joining) -> str:
    return joining.name or f"{owner.username[:80]}-{(joining.machine_id or machine_id(owner, joining))[:8]}"


def push_secret(node: Node) -> str:
    """What the marketplace shows when it calls a node's push URL. It changes with the node's token."""
    text = f"push:{node.pk}:{node.token_digest}".encode()
    return "mp-" + hmac.new(settings.SECRET_KEY.encode(), text, hashlib.sha256).hexdigest()


def by_token(token: str) -> Node:
    """The node that has this token. Raises NodeNotFound."""
    node = Node.objects.filter(token_digest=credentials.digest(token)).first()
    if node is None:
        raise NodeNotFound
    return node


def deregister(*, node_id: int, now: datetime) -> None:
    """Remove a node with its offers and events, and end its lease. What it has answered stays on record."""
    with transaction.atomic():
        # Locked first: a sweep that writes an event at this moment comes before, and its event goes too, or not at all.
        Node.objects.select_for_update().filter(pk=node_id).first()
        leases.end_of_node(node_id=node_id, now=now)
        Node.objects.filter(pk=node_id).delete()
        announce(node_id, credential=True)


def set_models(*, node_id: int, models: Sequence[Named], now: datetime) -> bool:
    """Make the active offers of a node exactly these; true if anything changed.

    A bare name keeps what is already known of that offer. Offers are never deleted: their past stays visible.
    Raises PriceOutOfRange.
    """
    with transaction.atomic():
        # One writer per node; the row may have gone meanwhile.
        node = Node.objects.select_for_update(no_key=True).filter(pk=node_id).first()
        if node is None:
            return False
        known = {
            offer.model: offer for offer in Offer.objects.filter(node_id=node_id).select_related("price")
        }
        wanted = {offer.model: offer for offer in (_wanted(node_id, model, known) for model in models)}
        asked = {model.name: model.price for model in models if isinstance(model, ModelSpec)}
        if any(price != prices.NOTHING for price in asked.values()):
            wishes = [(offer, asked.get(name, prices.NOTHING)) for name, offer in wanted.items()]
            prices.ask_for_models(node.owner_id, wishes, terms.current())
        changed = [offer for name, offer in wanted.items() if not _same(offer, known.get(name))]
        gone = [offer.pk for name, offer in known.items() if offer.active and name not in wanted]
        if not changed and not gone:
            return False
        Offer.objects.filter(pk__in=gone).update(active=False)
        Offer.objects.bulk_create(
            changed,
            update_conflicts=True,
            unique_fields=["node", "model"],
            update_fields=_OFFER_FIELDS,
        )
        Node.objects.filter(pk=node_id).update(changed_at=now)
        announce(node_id)
    return True


_OFFER_FIELDS = [
    "revision",
    "description",
    "kinds",
    "context_length",
    "concurrency",
    "min_vram_mib",
    "active",
    "price",
]


def _wanted(node_id: int, model: Named, known: Mapping[str, Offer]) -> Offer:
    name = model if isinstance(model, str) else model.name
    before = known.get(name)
    if isinstance(model, ModelSpec) and not (model.only_price and before):
        offer = model.offer(node_id)
        offer.price = before.price if before else None
        return offer
    if before is None:
        return ModelSpec(name).offer(node_id)
    kept = {field: getattr(before, field) for field in _OFFER_FIELDS if field != "active"}
    return Offer(node_id=node_id, model=name, **kept)


def _same(offer: Offer, before: Offer | None) -> bool:
    return before is not None and all(getattr(offer, name) == getattr(before, name) for name in _OFFER_FIELDS)


def suspend(*, node_id: int, reason: str, by: Client, now: datetime) -> bool:
    """Give a node no more work until an operator resumes it. False if it was suspended already or is gone."""
    change = {"suspended_at": now, "suspended_reason": reason[:500]}
    return _change(node_id, {"suspended_at": None}, change, by=by, now=now)


def resume(*, node_id: int, by: Client, now: datetime) -> bool:
    """End a suspension. False if there was none."""
    change = {"suspended_at": None, "suspended_reason": ""}
    return _change(node_id, {"suspended_at__isnull": False}, change, by=by, now=now)


def request_drain(*, node_id: int, by: Client, now: datetime) -> bool:
    """Ask a node to finish what runs and to take nothing new. False if it was asked already or is gone."""
    return _change(node_id, {"drain_requested_at": None}, {"drain_requested_at": now}, by=by, now=now)


def cancel_drain(*, node_id: int, by: Client, now: datetime) -> bool:
    """Let a node that was asked to drain take work again. False if it was not asked."""
    return _change(
        node_id, {"drain_requested_at__isnull": False}, {"drain_requested_at": None}, by=by, now=now
    )


def _change(
    node_id: int, guard: dict[str, Any], change: dict[str, Any], *, by: Client, now: datetime
) -> bool:
    with transaction.atomic():
        if not Node.objects.filter(pk=node_id, **guard).update(**change, changed_at=now):
            return False
        states.reassess(node_id, now=now, by=by)
        announce(node_id)
    return True


def send_for_errands(node_id: int) -> None:
    """Let a node's agent know that there is something for it to ask for."""
    Node.objects.filter(pk=node_id).update(errands=F("errands") + 1, changed_at=Now())
    announce(node_id)


def announce(node_id: int, *, credential: bool = False) -> None:
    """Have every process read a node again once this transaction is committed; its token too, if new."""
    if credential:
        transaction.on_commit(lambda: bus.announce("credentials", f"node:{node_id}"))
    transaction.on_commit(lambda: bus.announce("nodes", str(node_id)))
