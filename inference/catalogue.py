"""The models that there are: what the catalogue's rows say, and what admitted nodes offer.

`load` reads, everything else is pure, so that a process may keep a Catalogue for a few seconds.
"""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Aggregate, Case, Count, Exists, F, Max, Min, OuterRef, Q, QuerySet, Value, When
from django.db.models.functions import Greatest, Least

from clients import terms
from clients.models import ProviderStatus, Terms
from gpus.models import Lease, NodeState, Offer
from gpus.prices import PARTS
from inference.models import Hosting, HostingState, Model
from marketplace.errors import NotFound
from marketplace.money import MoneyField

# Names of what was trained here, and of what is deployed: the marketplace gives them, a node cannot claim them.
GIVEN = "ft:"


class NoTarget(NotFound):
    code = "alias_without_target"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The name {name!r} stands for no model at the moment. Its owner has to deploy one under it.",
            param="model",
            details={"model": name},
        )


class ModelNotFound(NotFound):
    code = "model_not_found"

    def __init__(self, name: str, suggestions: list[str]) -> None:
        hint = (
            f" Did you mean {_either(suggestions)}?"
            if suggestions
            else " GET /v1/models lists those that do."
        )
        shown = name if len(name) <= 100 else name[:100] + "…"
        super().__init__(
            f"The model {shown!r} does not exist, or you may not use it.{hint}",
            param="model",
            details={"model": shown, "suggestions": suggestions},
        )


@dataclass(frozen=True, slots=True)
class Pricing:
    """What the nodes that can answer now ask for a model, in base units by part: at least, and at most."""

    lowest: dict[str, int]
    highest: dict[str, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. `nodes` offer it, `live_nodes` of them can answer now. `owner_id` None: everybody's."""

    name: str
    created_at: datetime
    title: str = ""
    description: str = ""
    framework: str = ""
    version: str = ""
    owner_id: int | None = None
    owner_name: str = ""
    published: bool = False
    hidden: bool = False
    # Kept here: only these nodes may answer for it, whoever else offers the name. None: whoever offers it.
    hosts: frozenset[int] | None = None
    is_hosted: bool = False
    is_alias: bool = False
    target: str = ""  # what an alias stands for
    kinds: tuple[str, ...] = ()
    context_length: int | None = None
    min_vram_mib: int | None = None
    nodes: int = 0
    live_nodes: int = 0
    pricing: Pricing | None = None

    @property
    def available(self) -> bool:
        return self.live_nodes > 0

    def is_for(self, client_id: int, *, is_staff: bool = False, allowed: Collection[str] = ()) -> bool:
        """Whether this client may see and use it. `allowed`: the names a key is limited to, empty for all."""
        if self.hidden or (allowed and self.name not in allowed):
            return False
        return self.owner_id is None or self.owner_id == client_id or self.published or is_staff


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models by name."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def visible_to(
        self, client_id: int, *, is_staff: bool = False, allowed: Collection[str] = ()
    ) -> list[Entry]:
        """What this client may use, oldest first; without names that stand for nothing at the moment."""
        found = (
            entry
            for entry in self.entries.values()
            if entry.is_for(client_id, is_staff=is_staff, allowed=allowed)
            and (entry.target or not entry.is_alias)
        )
        return sorted(found, key=lambda entry: (entry.created_at, entry.name))

    def guards(self) -> dict[str, frozenset[int]]:
        """The nodes that may answer for models that are kept here."""
        return {name: entry.hosts for name, entry in self.entries.items() if entry.hosts is not None}

    def serving(self, name: str) -> str:
        """What answers to a name: itself, or what it stands for. Raises NoTarget."""
        entry = self.entries.get(name)
        if entry is None or not entry.is_alias:
            return name
        if not entry.target:
            raise NoTarget(name)
        return entry.target

    def resolve(
        self, name: str, *, client_id: int, is_staff: bool = False, allowed: Collection[str] = ()
    ) -> Entry:
        """The model of this name. Raises ModelNotFound with names like it, for somebody else's too."""
        entry = self.entries.get(name)
        if entry is not None and entry.is_for(client_id, is_staff=is_staff, allowed=allowed):
            return entry
        names = [each.name for each in self.visible_to(client_id, is_staff=is_staff, allowed=allowed)]
        raise ModelNotFound(name, similar(name, names))


def similar(name: str, names: Iterable[str], *, limit: int = 3) -> list[str]:
    """Names that somebody who wrote `name` may have meant, the likeliest first; case does not count."""
    wanted = name.lower()[:255]
    known = {each.lower(): each for each in names}
    close = difflib.get_close_matches(wanted, list(known)[:2000], n=limit, cutoff=0.5)
    inside = [each for each in known if len(wanted) >= 3 and (wanted in each or each in wanted)]
    return [known[each] for each in dict.fromkeys([*close, *inside])][:limit]


def _either(names: list[str]) -> str:
    return " or ".join(repr(name) for name in names)


def load() -> Catalogue:
    """Read the catalogue: rows, and offers of nodes that were admitted, with the terms in five queries."""
    found = list(Model.objects.select_related("owner", "target"))
    hosts = _hosts()
    entries = {row.name: _from_row(row, hosts) for row in found}
    offered = _offered(list(Catalogue(entries).guards()))
    kinds: dict[str, set[str]] = {}
    for name, some in offered.values_list("model", "kinds").distinct():
        kinds.setdefault(name, set()).update(some)
    rows: Iterable[Any] = offered.values("model").annotate(**_AGGREGATES, **_prices(terms.current()))
    for row in rows:
        if row["model"].startswith(GIVEN) and row["model"] not in entries:
            continue
        known = entries.get(row["model"]) or Entry(name=row["model"], created_at=row["first_at"])
        entries[row["model"]] = _with_offers(known, row, kinds.get(row["model"], set()))
    for alias in found:
        if alias.is_alias:
            entries[alias.name] = _with_target(entries[alias.name], alias, entries)
    return Catalogue(entries)


def _hosts() -> dict[str, frozenset[int]]:
    """The nodes that serve models which are kept here, as they say and we have asked them to."""
    found: dict[str, set[int]] = {}
    for name, node_id in Hosting.objects.filter(state=HostingState.SERVING).values_list(
        "model__name", "node_id"
    ):
        found.setdefault(name, set()).add(node_id)
    return {name: frozenset(ids) for name, ids in found.items()}


def _with_target(entry: Entry, alias: Model, entries: dict[str, Entry]) -> Entry:
    """An alias with what its target offers; its name, and who may use it, are its own."""
    target = None if alias.target is None else entries[alias.target.name]
    if target is None or target.hidden or target.is_alias or not _may_lead(alias, target):
        return entry
    return replace(
        entry,
        target=target.name,
        framework=entry.framework or target.framework,
        version=target.version,
        **{name: getattr(target, name) for name in _OFFERED},
    )


def _may_lead(alias: Model, target: Entry) -> bool:
    """Nobody gives away what is another's; operators may."""
    return alias.owner_id is None or target.is_for(alias.owner_id)


_OFFERED = ("kinds", "context_length", "min_vram_mib", "nodes", "live_nodes", "pricing", "is_hosted")


# What everybody may ask now: a reserved node answers only who reserved it.
_LIVE = Q(
    ~Exists(Lease.objects.filter(node_id=OuterRef("node_id"), ended_at=None)), node__state=NodeState.ONLINE
)
_AGGREGATES: dict[str, Any] = {
    "first_at": Min("created_at"),
    "nodes": Count("node"),
    "live_nodes": Count("node", filter=_LIVE),
    "context_length": Max("context_length"),
    "least_vram_mib": Min("min_vram_mib"),
    "about": Max("description"),
    "newest": Max("revision"),
}


def _prices(now: Terms) -> dict[str, Aggregate]:
    """The lowest and the highest price of each part as live nodes charge it, by `gpus.prices.of` in SQL."""
    found: dict[str, Aggregate] = {}
    for part in PARTS:
        charged: Any = F(f"price__{part}")
        least, most = (getattr(now, f"{end}_{part}") for end in ("min", "max"))
        if least is not None:
            charged = Greatest(charged, _amount(least))
        if most is not None:
            charged = Least(charged, _amount(most))
        # Without a price of its own it is none of these.
        default = _amount(getattr(now, f"default_{part}"))
        charged = Case(When(price=None, then=default), default=charged, output_field=MoneyField())
        found[f"lowest_{part}"] = Min(charged, filter=_LIVE)
        found[f"highest_{part}"] = Max(charged, filter=_LIVE)
    return found


def _amount(amount: int) -> Value:
    return Value(amount, output_field=MoneyField())


def _pricing(row: dict[str, Any]) -> Pricing | None:
    if not row["live_nodes"]:
        return None
    ends = ({part: row[f"{end}_{part}"] for part in PARTS} for end in ("lowest", "highest"))
    return Pricing(*ends)


def _offered(guarded: Collection[str] = ()) -> QuerySet[Offer]:
    """What admitted nodes offer; of `guarded` models only what they have been asked to host."""
    rows = Offer.objects.filter(
        active=True,
        node__suspended_at=None,
        node__owner__is_active=True,
        node__owner__provider_status=ProviderStatus.APPROVED,
    ).order_by()
    if not guarded:
        return rows
    hosted = Hosting.objects.filter(
        node_id=OuterRef("node_id"), model__name=OuterRef("model"), state=HostingState.SERVING
    )
    return rows.filter(~Q(model__in=guarded) | Exists(hosted))


def _from_row(row: Model, hosts: dict[str, frozenset[int]]) -> Entry:
    is_kept = row.is_hosted or (row.owner_id is not None and row.revision_id is not None)
    return Entry(
        name=row.name,
        created_at=row.created_at,
        title=row.title,
        description=row.description,
        framework=row.framework,
        version=row.version,
        owner_id=row.owner_id,
        owner_name=row.owner.username if row.owner else settings.MARKETPLACE_NAME,
        published=row.published_at is not None,
        hidden=row.hidden,
        hosts=frozenset() if row.is_alias else hosts.get(row.name, frozenset()) if is_kept else None,
        is_hosted=row.is_hosted,
        is_alias=row.is_alias,
    )


def _with_offers(entry: Entry, row: dict[str, Any], kinds: set[str]) -> Entry:
    return replace(
        entry,
        owner_name=entry.owner_name or settings.MARKETPLACE_NAME,
        description=entry.description or row["about"],
        version=entry.version or row["newest"],
        kinds=tuple(sorted(kinds)),
        context_length=row["context_length"],
        min_vram_mib=row["least_vram_mib"],
        nodes=row["nodes"],
        live_nodes=row["live_nodes"],
        pricing=_pricing(row),
    )


def sweep() -> int:
    """Make a row for every name that admitted nodes offer and nobody has catalogued; how many."""
    known = Model.objects.values("name")
    new = (
        _offered()
        .exclude(model__startswith=GIVEN)
        .exclude(model__in=known)
        .values("model")
        .annotate(about=Max("description"), newest=Max("revision"))
    )
    rows = [Model(name=row["model"], description=row["about"], version=row["newest"]) for row in new]
    Model.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)
