"""Which nodes serve the models that the marketplace keeps: chosen, asked, and replaced when they go.

    wanted ──the node fetches and loads──▶ loading ──it has answered a probe──▶ serving
       └──────────────cannot──────────────────┴──────────────▶ failed (not asked again for a while)

Nodes have room for a few: one that nobody asks makes room for another, rests, and is brought back by the next request.

A row says what its node has said. It names the revision that the node serves, or else the one that it is to serve:
the model's present one. A node that serves an older one does so until it has the new one. Locks: the model first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce, Greatest

from clients import files
from clients.models import Blob, ProviderStatus
from gpus import nodes
from gpus.models import Lease, Node, NodeState, Offer
from gpus.talents import HostingTalent
from inference import revisions
from inference.models import Hosting, HostingState, Model, Revision, RevisionKind
from marketplace import bus

# A node that has failed with a model is not asked again so soon.
NOT_AGAIN_FOR = timedelta(minutes=10)
# A node that is away for so long is replaced.
AWAY_FOR = timedelta(seconds=20)
# One that was asked and does not begin, or says nothing of its loading for so long, has failed.
BEGINS_WITHIN, LOADS_WITHIN = timedelta(minutes=3), timedelta(minutes=30)
LINKS_LAST = timedelta(hours=6)
# Nobody has asked it for so long: it may have to make room for another one. What is brought back quickly goes sooner.
IDLE_AFTER, ADAPTER_IDLE_AFTER = timedelta(minutes=10), timedelta(seconds=30)
# Nobody has ever asked it since it is served.
UNASKED_AFTER = timedelta(seconds=10)
TOPIC = "catalogue"
MOST_AT_ONCE = 100


class NoHost(Exception):
    """No node can host a model at the moment. The message says why."""


# --- Asking nodes -------------------------------------------------------------------------------------------


def want(model: Model, *, now: datetime) -> Hosting | None:
    """Have a node serve a model's present revision; where one does already, it is asked for the new one.

    None where no node can at the moment: a sweep tries again.
    """
    with transaction.atomic():
        _locked(model)
        if model.revision is None:
            return None
        _announce()
        there = list(model.hostings.exclude(state=HostingState.FAILED))
        for each in there:
            _ask_again(each, model.revision, now)
        if there:
            return there[0]
        node: Node | None
        try:
            node = choose(model, now=now)
        except NoHost:
            node = _make_room(model, now)
        return None if node is None else _ask(node.pk, model, model.revision, now)


def _locked(model: Model) -> None:
    """Lock a model that is to be hosted from now on, and read what decides where."""
    Model.objects.select_for_update(no_key=True).filter(pk=model.pk).update(is_hosted=True, rests_since=None)
    model.refresh_from_db(fields=["revision", "owner"])


def _make_room(model: Model, now: datetime) -> Node | None:
    """Of all that is on the nodes that could host a model, have the one rest that was idle for longest.

    The node that now has room; None where there is none yet.
    """
    assert model.revision is not None
    base = revisions.chain(model.revision)[0].model.name
    able = {node.pk: node for node in _candidates(model, now) if _suits(node, model.revision, base)}
    last_used = Greatest("asked_at", Coalesce("model__used_at", "asked_at"))
    # What a name leads to stays: somebody counts on it.
    others = Hosting.objects.filter(node_id__in=able, model__aliases=None).exclude(model=model)
    idle = others.annotate(last_used=last_used).filter(
        Q(last_used__lt=now - IDLE_AFTER)
        | Q(last_used__lt=now - ADAPTER_IDLE_AFTER, revision__kind=RevisionKind.ADAPTER)
        | Q(model__used_at=None, state=HostingState.SERVING, changed_at__lt=now - UNASKED_AFTER)
    )
    longest = idle.order_by("last_used").first()
    if longest is None:
        return None
    Model.objects.filter(pk=longest.model_id).update(rests_since=now)
    _forget(Hosting.objects.filter(model_id=longest.model_id))
    node = able[longest.node_id]
    return node if node.hosts <= HostingTalent.read(node.hosting).most else None  # type: ignore[attr-defined]


def used(names: Iterable[str], *, now: datetime) -> None:
    """Note that models were asked; those that rest are brought back."""
    asked = Model.objects.filter(name__in=list(names))
    asked.update(used_at=now)
    for model in asked.exclude(rests_since=None):
        want(model, now=now)


def want_on(model: Model, node: Node, *, now: datetime) -> Hosting:
    """Have this very node serve it, besides those that do. Raises NoHost."""
    with transaction.atomic():
        _locked(model)
        if model.revision is None:
            raise NoHost("The marketplace keeps no files of this model.")
        if not _candidates(model, now).filter(pk=node.pk).exists():
            raise NoHost(f"{node.name} is not online, is reserved, or has just failed with it.")
        _announce()
        return _ask(node.pk, model, model.revision, now)


def _ask(node_id: int, model: Model, revision: Revision, now: datetime) -> Hosting:
    hosting, created = Hosting.objects.get_or_create(
        node_id=node_id, model=model, defaults={"revision": revision, "asked_at": now, "changed_at": now}
    )
    if created:
        nodes.send_for_errands(node_id)
    else:
        _ask_again(hosting, revision, now)
    return hosting


def _ask_again(hosting: Hosting, revision: Revision, now: datetime) -> None:
    if hosting.revision_id == revision.pk and hosting.state != HostingState.FAILED:
        return
    hosting.asked_at = now
    if hosting.state != HostingState.SERVING:
        hosting.revision, hosting.state, hosting.reason, hosting.changed_at = (
            revision,
            HostingState.WANTED,
            "",
            now,
        )
    hosting.save()
    nodes.send_for_errands(hosting.node_id)


def choose(model: Model, *, now: datetime) -> Node:
    """The best node for a model: its owner's own first, then one that serves the base, then the emptiest.

    Raises NoHost.
    """
    assert model.revision is not None
    revision = model.revision
    base = revisions.chain(revision)[0].model.name
    able = [node for node in _candidates(model, now) if _can(node, revision, base)]
    if not able:
        raise NoHost("No node that is online can host this model.")
    return min(
        able,
        key=lambda node: (
            node.owner_id != model.owner_id,
            base not in HostingTalent.read(node.hosting).bases,
            node.hosts,  # type: ignore[attr-defined]
            node.pk,
        ),
    )


def _candidates(model: Model, now: datetime) -> QuerySet[Node]:
    """Nodes that could be asked, each with how many models it `hosts`."""
    mine = Hosting.objects.filter(node_id=OuterRef("pk"), model=model)
    has_failed = mine.filter(
        revision=model.revision_id, state=HostingState.FAILED, changed_at__gt=now - NOT_AGAIN_FOR
    )
    # What a node serves by itself under this name is something else.
    has_namesake = Offer.objects.filter(node_id=OuterRef("pk"), model=model.name, active=True)
    return (
        Node.objects.filter(state=NodeState.ONLINE)
        .exclude(hosting=None)
        .exclude(Exists(Lease.objects.filter(node_id=OuterRef("pk"), ended_at=None)))
        .exclude(Exists(has_failed))
        .exclude(Exists(has_namesake) & ~Exists(mine))
        .annotate(hosts=Count("hostings", filter=~Q(hostings__state=HostingState.FAILED)))
    )


def _can(node: Node, revision: Revision, base: str) -> bool:
    has_room = node.hosts < HostingTalent.read(node.hosting).most  # type: ignore[attr-defined]
    return has_room and _suits(node, revision, base)


def _suits(node: Node, revision: Revision, base: str) -> bool:
    """Whether a node could host a revision, if it had room."""
    talent = HostingTalent.read(node.hosting)
    if not talent.most or revision.family not in talent.families:
        return False
    if revision.kind != RevisionKind.ADAPTER:
        return talent.full
    # A server's adapters lie over what it has been started with.
    return talent.adapters and (talent.full or base in talent.bases)


def drop(model: Model, *, node_ids: Iterable[int] | None = None) -> int:
    """Have nodes (all of them) serve a model no longer; how many."""
    with transaction.atomic():
        there = (
            model.hostings.all() if node_ids is None else model.hostings.filter(node_id__in=list(node_ids))
        )
        gone = _forget(there)
        if node_ids is None:
            Model.objects.filter(pk=model.pk).update(is_hosted=False)
        _announce()
    return gone


def move(row: Hosting, *, now: datetime) -> Hosting | None:
    """Take a model from a node, which is not asked again for a while, and ask another. None where no other can."""
    with transaction.atomic():
        Model.objects.select_for_update(no_key=True).filter(pk=row.model_id).first()
        Hosting.objects.filter(pk=row.pk).update(
            revision=row.model.revision_id,
            state=HostingState.FAILED,
            reason="An operator took it away.",
            changed_at=now,
        )
        nodes.send_for_errands(row.node_id)
        _announce()
        return want(row.model, now=now)


def _forget(rows: QuerySet[Hosting]) -> int:
    gone = list(rows.values_list("pk", "node_id"))
    Hosting.objects.filter(pk__in=[pk for pk, _ in gone]).delete()
    for node_id in {node_id for _, node_id in gone}:
        nodes.send_for_errands(node_id)
    if gone:
        _announce()
    return len(gone)


def _announce() -> None:
    """Have every web process read the catalogue again, once this is committed."""
    transaction.on_commit(lambda: bus.announce(TOPIC, "hosting"))


# --- What nodes are told, and say ---------------------------------------------------------------------------


def errands(node: Node, *, now: datetime) -> list[dict[str, Any]]:
    """What a node is to serve: models with links to their files. What it hosts besides is not wanted.

    [{"model", "name", "revision", "digest", "kind", "family", "state", "asked_at", "files": [{"path", "sha256", "size",
    "url"}], "base": {"model", "digest", "files"} | null}]
    """
    if node.suspended_at is not None or not _is_trusted(node):
        return []
    rows = (
        Hosting.objects.filter(node=node)
        .exclude(state=HostingState.FAILED, revision=F("model__revision"))
        .exclude(model__revision=None)
        .select_related("model__revision__base__model")
    )
    return [_errand(row, now + LINKS_LAST) for row in rows]


def _is_trusted(node: Node) -> bool:
    owner = node.owner
    return owner.is_active and owner.provider_status == ProviderStatus.APPROVED


def _errand(row: Hosting, until: datetime) -> dict[str, Any]:
    model, revision = row.model, row.model.revision
    assert revision is not None
    full = revisions.chain(revision)[0]
    is_current = row.revision_id == revision.pk
    return {
        "model": model.name,
        "name": model.title or model.name,
        "revision": revision.label,
        "digest": revision.digest,
        "kind": revision.kind,
        "family": revision.family,
        "state": row.state if is_current else HostingState.WANTED.value,
        "asked_at": row.asked_at.isoformat(),
        "files": _linked(revision, until),
        "base": None
        if full == revision
        else {"model": full.model.name, "digest": full.digest, "files": _linked(full, until)},
    }


def _linked(revision: Revision, until: datetime) -> list[dict[str, Any]]:
    return [_file(path, blob, until) for path, blob in revisions.files_of(revision).items()]


def _file(path: str, blob: Blob, until: datetime) -> dict[str, Any]:
    return {
        "path": path,
        "sha256": blob.sha256,
        "size": blob.size,
        "url": files.link(blob, expires_at=until),
    }


def heard(node_id: int, said: Iterable[Mapping[str, Any]], *, now: datetime) -> None:
    """Note what a node says of the models that it was asked to host: [{"model", "revision", "state", "reason"}].

    `revision` is a digest. What it was not asked for is left alone.
    """
    by_name = {(each["model"], each["revision"]): each for each in said}
    with transaction.atomic():
        rows = (
            Hosting.objects.select_for_update(of=("self",))
            .filter(node_id=node_id, model__name__in={name for name, _ in by_name})
            .select_related("model__revision", "revision")
            .order_by("pk")
        )
        changed = [row for row in rows if _hear(row, by_name, now)]
        if changed:
            _announce()


def _hear(row: Hosting, said: Mapping[tuple[str, str], Mapping[str, Any]], now: datetime) -> bool:
    wanted = row.model.revision
    of_new = None if wanted is None else said.get((row.model.name, wanted.digest))
    of_old = said.get((row.model.name, row.revision.digest))
    is_update = wanted is not None and wanted.pk != row.revision_id
    # While a new one is loaded, the old one serves: that is what the row says until the new one does.
    if is_update and of_new is not None and of_new["state"] in (HostingState.SERVING, HostingState.FAILED):
        assert wanted is not None
        row.revision, found = wanted, of_new
    elif of_old is not None:
        found, is_update = of_old, False
    else:
        return False
    if not is_update and (row.state, row.reason) == (found["state"], found["reason"]):
        return False
    row.state, row.reason, row.changed_at = found["state"], found["reason"], now
    row.save(update_fields=["revision", "state", "reason", "changed_at"])
    return True


def serving_nodes(model: Model) -> list[int]:
    """The nodes that serve its present revision and can answer now."""
    return list(
        model.hostings.filter(
            state=HostingState.SERVING, revision=F("model__revision"), node__state=NodeState.ONLINE
        ).values_list("node_id", flat=True)
    )


# --- Sweeping -----------------------------------------------------------------------------------------------


def sweep(*, now: datetime) -> int:
    """Replace nodes that are gone or get nowhere, and find some for models that have none; how many were asked."""
    with transaction.atomic():
        _forget(_lost(now))
    _give_up(now)
    alive = Hosting.objects.filter(model_id=OuterRef("pk")).exclude(state=HostingState.FAILED)
    homeless = (
        Model.objects.filter(is_hosted=True, hidden=False, rests_since=None)
        .exclude(revision=None)
        .exclude(Exists(alive))
    )
    return sum(want(model, now=now) is not None for model in homeless.order_by("pk")[:MOST_AT_ONCE])


def _lost(now: datetime) -> QuerySet[Hosting]:
    """Of nodes that are away, host no longer, or serve only whoever has leased them; of failures that are forgiven."""
    leased = Lease.objects.filter(node_id=OuterRef("node_id"), ended_at=None)
    return Hosting.objects.filter(
        Q(
            ~Q(node__state=NodeState.ONLINE),
            Q(node__state_since=None) | Q(node__state_since__lt=now - AWAY_FOR),
        )
        | Q(node__hosting=None)
        | Q(Exists(leased))
        | Q(state=HostingState.FAILED, changed_at__lt=now - NOT_AGAIN_FOR)
    )


def _give_up(now: datetime) -> None:
    slow = Hosting.objects.filter(
        Q(state=HostingState.WANTED, changed_at__lt=now - BEGINS_WITHIN)
        | Q(state=HostingState.LOADING, changed_at__lt=now - LOADS_WITHIN)
    )
    slow.update(state=HostingState.FAILED, reason="The node did not get on with it.", changed_at=now)
