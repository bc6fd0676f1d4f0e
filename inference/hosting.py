"""Which nodes serve the models that the marketplace keeps: chosen, asked, and replaced when they go."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q

from gpus import nodes
from gpus.models import Lease, Node, NodeState
from gpus.talents import HostingTalent
from inference import revisions
from inference.models import Hosting, HostingState, Model, Revision, RevisionKind

# A node that has failed with a model is not asked again so soon.
NOT_AGAIN_FOR = timedelta(minutes=10)


class NoHost(Exception):
    """No node can host a model at the moment. The message says why."""


def want(model: Model, *, now: datetime) -> Hosting | None:
    """Have a node serve a model's present revision; where one does already, it is asked for the new one.

    None where no node can at the moment: a sweep tries again.
    """
    assert model.revision is not None
    with transaction.atomic():
        Model.objects.select_for_update(no_key=True).filter(pk=model.pk).update(is_hosted=True)
        there = list(model.hostings.select_related("node").exclude(state=HostingState.FAILED))
        if there:
            for each in there:
                _ask(each.node_id, model, model.revision, now)
            return there[0]
        try:
            node = choose(model.revision, owner_id=model.owner_id, now=now)
        except NoHost:
            return None
        return _ask(node.pk, model, model.revision, now)


def _ask(node_id: int, model: Model, revision: Revision, now: datetime) -> Hosting:
    hosting, created = Hosting.objects.get_or_create(
        node_id=node_id, model=model, defaults={"revision": revision, "asked_at": now, "changed_at": now}
    )
    if not created and (hosting.revision_id != revision.pk or hosting.state == HostingState.FAILED):
        hosting.revision, hosting.state, hosting.reason = revision, HostingState.WANTED, ""
        hosting.asked_at = hosting.changed_at = now
        hosting.save()
        created = True
    if created:
        nodes.send_for_errands(node_id)
    return hosting


def choose(revision: Revision, *, owner_id: int | None, now: datetime) -> Node:
    """The best node for a revision: its owner's own first, then one that serves the base, then the emptiest.

    Raises NoHost.
    """
    leased = Lease.objects.filter(node_id=OuterRef("pk"), ended_at=None)
    rows = (
        Node.objects.filter(state=NodeState.ONLINE)
        .exclude(hosting=None)
        .exclude(
            hostings__revision=revision,
            hostings__state=HostingState.FAILED,
            hostings__changed_at__gt=now - NOT_AGAIN_FOR,
        )
        .annotate(
            is_leased=Exists(leased), hosts=Count("hostings", filter=~Q(hostings__state=HostingState.FAILED))
        )
    )
    able = [node for node in rows if _can(node, revision)]
    if not able:
        raise NoHost("No node that is online can host this model.")
    base = revisions.chain(revision)[0].model.name
    return min(
        able,
        key=lambda node: (
            node.owner_id != owner_id,
            base not in HostingTalent.read(node.hosting).bases,
            node.hosts,
            node.pk,
        ),
    )


def _can(node: Node, revision: Revision) -> bool:
    talent = HostingTalent.read(node.hosting)
    hosts, is_leased = node.hosts, node.is_leased  # type: ignore[attr-defined]
    if is_leased or hosts >= talent.most or revision.family not in talent.families:
        return False
    return talent.adapters if revision.kind == RevisionKind.ADAPTER else talent.full


def drop(model: Model, *, node_ids: Iterable[int] | None = None) -> int:
    """Have nodes (all of them) serve a model no longer; how many."""
    there = model.hostings.all() if node_ids is None else model.hostings.filter(node_id__in=list(node_ids))
    gone = list(there.values_list("node_id", flat=True))
    there.delete()
    if node_ids is None:
        Model.objects.filter(pk=model.pk).update(is_hosted=False)
    for node_id in gone:
        nodes.send_for_errands(node_id)
    return len(gone)


def heard(node_id: int, said: Iterable[dict[str, Any]], *, now: datetime) -> None:
    """Note what a node says of the models that it was asked to host: [{"model", "revision", "state", "reason"}]."""
    for each in said:
        found = Hosting.objects.filter(
            node_id=node_id, model__name=each["model"], revision__digest=each["revision"]
        )
        found.exclude(state=each["state"], reason=each["reason"]).update(
            state=each["state"], reason=each["reason"], changed_at=now
        )


def serving_nodes(model: Model) -> list[int]:
    """The nodes that serve its present revision and can answer now."""
    return list(
        model.hostings.filter(
            state=HostingState.SERVING, revision=F("model__revision"), node__state=NodeState.ONLINE
        ).values_list("node_id", flat=True)
    )


def sweep(*, now: datetime) -> int:
    """Replace nodes that are gone, and find some for models that have none; how many were asked."""
    away = Hosting.objects.exclude(node__state=NodeState.ONLINE).filter(
        node__state_since__lt=now - timedelta(minutes=1)
    )
    away.delete()
    homeless = Model.objects.filter(is_hosted=True, hidden=False, hostings=None).exclude(revision=None)
    return sum(want(model, now=now) is not None for model in homeless.select_related("revision")[:100])
