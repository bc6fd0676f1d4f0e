"""The states of nodes in rows: what is known of a node, what follows from it, and writing that down."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from clients.models import Client
from gpus import liveness
from gpus.liveness import Liveness, NodeFacts
from gpus.models import Gateway, Node, NodeEvent
from marketplace import bus

# What `facts` needs of a node, for `.values(*FACT_FIELDS)`.
FACT_FIELDS = (
    "delivery", "agent_version", "drain_requested_at", "suspended_at", "suspended_reason", "draining",
    "maintenance", "unreachable_since", "unreachable_why", "gateway__seen_at", "heartbeat__at",
    "owner__provider_status", "owner__provider_reason", "owner__is_active",
)  # fmt: skip
# How many nodes are written with one statement.
BATCH = 1000


def facts(row: Mapping[str, Any], *, now: datetime) -> NodeFacts:
    """What is known of a node, from `.values(*FACT_FIELDS)`."""
    seen_at = row["gateway__seen_at"]
    return NodeFacts(
        provider_status=row["owner__provider_status"],
        provider_reason=row["owner__provider_reason"],
        owner_active=row["owner__is_active"],
        delivery=row["delivery"],
        agent_version=row["agent_version"],
        has_link=seen_at is not None and now - seen_at < Gateway.LOST_AFTER,
        last_heartbeat_at=_epoch(row["heartbeat__at"]),
        unreachable_since=_epoch(row["unreachable_since"]),
        unreachable_why=row["unreachable_why"],
        drain_requested=row["drain_requested_at"] is not None,
        draining=row["draining"],
        maintenance=row["maintenance"],
        suspended_at=_epoch(row["suspended_at"]),
        suspended_reason=row["suspended_reason"],
    )


def _epoch(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def assess(row: Mapping[str, Any], *, now: datetime) -> Liveness:
    """The state of a node under this marketplace's rules, from `.values(*FACT_FIELDS)`."""
    return liveness.assess(
        facts(row, now=now),
        now=now.timestamp(),
        silent_after_s=settings.HEARTBEAT_INTERVAL_S * settings.HEARTBEATS_MISSED,
        minimum_agent_version=settings.MINIMUM_AGENT_VERSION,
    )


def assess_all(node_ids: Iterable[int], *, now: datetime) -> dict[int, Liveness]:
    """The present state of each of these nodes, in one query. Nodes that are gone are left out."""
    rows = Node.objects.filter(pk__in=node_ids).values("id", *FACT_FIELDS)
    return {row["id"]: assess(row, now=now) for row in rows}


@dataclass(frozen=True, slots=True)
class Change:
    """A node of which something else is found now than its row says: another state, or another reason."""

    node_id: int
    was: str
    found: Liveness


def sweep(*, now: datetime) -> int:
    """Write down the state of every node whose row says otherwise; how many."""
    changes = []
    for row in Node.objects.values("id", "state", "state_reason", *FACT_FIELDS).iterator():
        found = assess(row, now=now)
        if found.state != row["state"] or found.reason[:500] != row["state_reason"]:
            changes.append(Change(row["id"], row["state"], found))
    batches = (changes[at : at + BATCH] for at in range(0, len(changes), BATCH))
    written = sum(len(record_all(batch, now=now)) for batch in batches)
    for change in changes:
        # An owner was approved or suspended: that leaves no mark on the node's row by which to notice it.
        if {change.was, change.found.state} & {liveness.PENDING, liveness.SUSPENDED}:
            bus.announce("nodes", str(change.node_id))
    return written


def record(change: Change, *, now: datetime, by: Client | None = None) -> bool:
    """Write down one change. False if the node's state is not `was` any more."""
    return bool(record_all([change], now=now, by=by))


def record_all(changes: Sequence[Change], *, now: datetime, by: Client | None = None) -> list[int]:
    """Write down changes, each only if nobody was quicker; the ids of the nodes that were written.

    A node that enters another state gets an event; a new reason for the same state does not.
    """
    ordered = sorted(changes, key=lambda change: change.node_id)
    columns: tuple[list[Any], ...] = (
        [change.node_id for change in ordered],
        [change.was for change in ordered],
        [change.found.state for change in ordered],
        [change.found.reason[:500] for change in ordered],
    )
    with transaction.atomic():
        with connection.cursor() as cursor:
            # In one order, so that two who write of the same nodes cannot deadlock: an update has none.
            cursor.execute(
                "SELECT id FROM gpus_node WHERE id = ANY (%s) ORDER BY id FOR NO KEY UPDATE", [columns[0]]
            )
            cursor.execute(_RECORD, [now, *columns])
            written = {row[0] for row in cursor.fetchall()}
        entered = [one for one in ordered if one.node_id in written and one.found.state != one.was]
        _add_events(entered, now=now, by=by)
    return sorted(written)


_RECORD = """
    UPDATE gpus_node SET state = found.state, state_reason = found.reason,
        state_since = CASE WHEN found.state = found.was THEN state_since ELSE %s END
    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[]) AS found (id, was, state, reason)
    WHERE gpus_node.id = found.id AND gpus_node.state = found.was
    RETURNING gpus_node.id
"""


def _add_events(changes: Iterable[Change], *, now: datetime, by: Client | None) -> None:
    NodeEvent.objects.bulk_create(
        NodeEvent(node_id=one.node_id, at=now, state=one.found.state, reason=one.found.reason[:500], by=by)
        for one in changes
    )


def refresh(node_id: int, *, now: datetime) -> None:
    """Record at once what has just become of a node, sooner than the sweep would. One that is gone is left alone."""
    try:
        reassess(node_id, now=now, by=None)
    except Node.DoesNotExist:
        return


def reassess(node_id: int, *, now: datetime, by: Client | None, joined: bool = False) -> Liveness:
    """Find and record a node's state at once: whoever has just changed something wants to see the effect.

    A node that has `joined` gets its first event, whatever its state.
    """
    row = Node.objects.filter(pk=node_id).values("state", "state_reason", *FACT_FIELDS).get()
    found = assess(row, now=now)
    change = Change(node_id, row["state"], found)
    if found.state != row["state"] or found.reason[:500] != row["state_reason"]:
        record(change, now=now, by=by)
    if joined and found.state == row["state"]:
        Node.objects.filter(pk=node_id).update(state_since=now)
        _add_events([change], now=now, by=by)
    return found


def touch(node_ids: Sequence[int], *, now: datetime) -> None:
    """Have every process read these nodes again once this transaction is committed, also those that miss the call."""
    Node.objects.filter(pk__in=node_ids).update(changed_at=now)
    for node_id in node_ids:
        transaction.on_commit(partial(bus.announce, "nodes", str(node_id)))
