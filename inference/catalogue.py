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
from inference.models import Model
from marketplace.errors import NotFound
from marketplace.money import MoneyField


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
    hidden: bool = False
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
        return self.owner_id is None or self.owner_id == client_id or is_staff


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models by name."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def visible_to(
        self, client_id: int, *, is_staff: bool = False, allowed: Collection[str] = ()
    ) -> list[Entry]:
        """What this client may use, oldest first."""
        found = (
            entry
            for entry in self.entries.values()
            if entry.is_for(client_id, is_staff=is_staff, allowed=allowed)
        )
        return sorted(found, key=lambda entry: (entry.created_at, entry.name))

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
    """Read the catalogue: rows, and offers of nodes that were admitted, with the terms in four queries."""
    entries = {row.name: _from_row(row) for row in Model.objects.select_related("owner")}
    kinds: dict[str, set[str]] = {}
    for name, some in _offered().values_list("model", "kinds").distinct():
        kinds.setdefault(name, set()).update(some)
    rows: Iterable[Any] = _offered().values("model").annotate(**_AGGREGATES, **_prices(terms.current()))
    for row in rows:
        known = entries.get(row["model"]) or Entry(name=row["model"], created_at=row["first_at"])
        entries[row["model"]] = _with_offers(known, row, kinds.get(row["model"], set()))
    return Catalogue(entries)


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


def _offered() -> QuerySet[Offer]:
    return Offer.objects.filter(
        active=True,
        node__suspended_at=None,
        node__owner__is_active=True,
        node__owner__provider_status=ProviderStatus.APPROVED,
    ).order_by()


def _from_row(row: Model) -> Entry:
    return Entry(
        name=row.name,
        created_at=row.created_at,
        title=row.title,
        description=row.description,
        framework=row.framework,
        version=row.version,
        owner_id=row.owner_id,
        owner_name=row.owner.username if row.owner else settings.MARKETPLACE_NAME,
        hidden=row.hidden,
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
        .exclude(model__in=known)
        .values("model")
        .annotate(about=Max("description"), newest=Max("revision"))
    )
    rows = [Model(name=row["model"], description=row["about"], version=row["newest"]) for row in new]
    Model.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)
