"""What a node says of itself with a heartbeat, and what our processes notice when they call it."""

from collections.abc import Sequence
from datetime import datetime

from django.db import close_old_connections, transaction

from gpus import nodes
from gpus.models import Node
from gpus.offers import Named
from marketplace import bus


def hear(
    *,
    node_id: int,
    models: Sequence[Named] | None,
    draining: bool,
    maintenance: bool,
    agent_version: str | None,
    engine: str | None,
    now: datetime,
) -> None:
    """Write what is new about a node; None says nothing. A node that is gone is left alone."""
    texts = {"agent_version": agent_version, "engine": engine}
    said = {key: value for key, value in texts.items() if value is not None}
    with transaction.atomic():
        Node.objects.filter(pk=node_id).update(
            draining=draining, maintenance=maintenance, changed_at=now, **said
        )
        if models is not None:
            nodes.set_models(node_id=node_id, models=models, now=now)
        transaction.on_commit(lambda: bus.announce("nodes", str(node_id)))


def note_unreachable(*, node_id: int, why: str, now: datetime) -> None:
    """We could not call a node. The first time counts; later ones change nothing."""
    _note(node_id, Node.objects.filter(pk=node_id, unreachable_since=None).update(
        unreachable_since=now, unreachable_why=why[:500], changed_at=now
    ))  # fmt: skip


def note_reachable(*, node_id: int, now: datetime) -> None:
    """We could call it again."""
    _note(node_id, Node.objects.filter(pk=node_id, unreachable_since__isnull=False).update(
        unreachable_since=None, unreachable_why="", changed_at=now
    ))  # fmt: skip


def _note(node_id: int, changed: int) -> None:
    if changed:
        bus.announce("nodes", str(node_id))
    close_old_connections()
