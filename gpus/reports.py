"""What a node says of itself with a heartbeat, and what our processes notice when they call it."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from django.db import Error as DatabaseError
from django.db import close_old_connections, transaction
from django.db.models import QuerySet

from clients import terms
from gpus import nodes, prices, states
from gpus.models import Node
from gpus.offers import Named
from marketplace import bus

logger = logging.getLogger(__name__)


def hear(
    *,
    node_id: int,
    models: Sequence[Named] | None,
    draining: bool,
    maintenance: bool,
    agent_version: str | None,
    engine: str | None,
    now: datetime,
    talents: Mapping[str, Any] = MappingProxyType({}),
    training_price: int | None = None,
) -> None:
    """Write what is new about a node; None says nothing. A node that is gone is left alone.

    `talents`: "training" and "hosting", as far as it speaks of them. Raises PriceOutOfRange.
    """
    texts = {"agent_version": agent_version, "engine": engine}
    said: dict[str, Any] = {key: value for key, value in texts.items() if value is not None} | dict(talents)
    with transaction.atomic():
        Node.objects.filter(pk=node_id).update(
            draining=draining, maintenance=maintenance, changed_at=now, **said
        )
        if models is not None:
            nodes.set_models(node_id=node_id, models=models, now=now)
        if training_price is not None:
            node = Node.objects.select_for_update(no_key=True, of=("self",)).select_related("training_price")
            for each in node.filter(pk=node_id):
                prices.ask_for_training(each, training_price, terms.current())
        states.refresh(node_id, now=now)
        transaction.on_commit(lambda: bus.announce("nodes", str(node_id)))


def note_unreachable(*, node_id: int, why: str, now: datetime) -> None:
    """We could not call a node. The first time counts; later ones change nothing."""
    reachable = Node.objects.filter(pk=node_id, unreachable_since=None)
    _note(node_id, reachable, now=now, unreachable_since=now, unreachable_why=why[:500])


def note_reachable(*, node_id: int, now: datetime) -> None:
    """We could call it again."""
    unreachable = Node.objects.filter(pk=node_id, unreachable_since__isnull=False)
    _note(node_id, unreachable, now=now, unreachable_since=None, unreachable_why="")


def _note(node_id: int, rows: QuerySet[Node], *, now: datetime, **values: Any) -> None:
    close_old_connections()
    try:
        if rows.update(**values, changed_at=now):
            states.refresh(node_id, now=now)
            bus.announce("nodes", str(node_id))
    except DatabaseError as error:
        # This process knows it all the same; the others find out by themselves.
        logger.warning("Could not note what we saw of node %s: %s", node_id, error)
    finally:
        close_old_connections()
