"""Which sources on chains our nodes work for, and with which model.

    asked ──serve──▶ served ──refuse──▶ refused        automatically, where CHAIN_SERVE_OPEN is on and the source says
      └────refuse──▶ refused ──serve──▶ served         which of this marketplace's models it means

A source says so by its metadata: one of its URLs is the model's service document (`document`), or its name is the
model's public id. How our provider comes to be registered with a served source: `chain.registrations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from chain import documents, functions, gas_costs, networks
from chain.documents import NotFetched
from chain.models import Network, Service, Serving, Source, SourceStatus
from clients import audit, house, terms
from clients.models import Client
from finetune import bases
from gpus.prices import PARTS, Rates
from inference import catalogue, pricing
from inference.catalogue import Catalogue, Entry
from marketplace import money
from marketplace.errors import Conflict, InvalidRequest

# How often a source's metadata are asked for, and how long after the first, second, … failure.
MOST_TRIES = 8
_PAUSES = (timedelta(seconds=10), timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1))
# Whoever asks has so long before another one does.
_ASKING = timedelta(minutes=1)
# How soon a source that waits for an operator is looked at again, for whether it still has to.
_AGAIN = timedelta(minutes=1)
_LOOKED_AT = 100
# How many sources of a network are served without an operator's word, and how many more each hour.
MOST_OPEN, MOST_OPEN_AN_HOUR = 200, 20
_URLS = ("cpu", "nvidia", "amd")
_MOST_TEXT = 10_000
# A usual request, for hints at prices.
_PROMPT_TOKENS = 1000


class CannotServe(InvalidRequest):
    code = "cannot_serve"


class AlreadySo(Conflict):
    code = "already_so"


# --- Finding them -----------------------------------------------------------------------------------------


def unread(network: Network, *, now: datetime) -> list[int]:
    """Ids of the sources whose metadata have not been read (as they are now), and whose turn it is."""
    waiting = Source.objects.filter(network=network, status=SourceStatus.ACTIVE, fetch_at__lte=now).filter(
        ~Q(fetched_url=F("metadata_url")) | ~Exists(_services())
    )
    return list(waiting.order_by("fetch_at", "pk").values_list("pk", flat=True)[:100])


def _services() -> QuerySet[Service]:
    return Service.objects.filter(network=OuterRef("network"), source_address=OuterRef("address"))


def read(source_id: int, *, now: datetime) -> None:
    """Fetch a source's metadata, and decide whether it is served, or let an operator decide. Calls somebody's URL."""
    mine = Source.objects.filter(pk=source_id, fetch_at__lte=now).update(fetch_at=now + _ASKING)
    source = Source.objects.select_related("network").filter(pk=source_id).first() if mine else None
    if source is None:
        return
    # An operator need not wait for the metadata.
    service, _ = Service.objects.get_or_create(
        network=source.network, source_address=source.address, defaults={"next_try_at": now}
    )
    try:
        said = _metadata(source)
    except NotFetched as failure:
        if failure.may_pass and source.fetch_tries + 1 < MOST_TRIES:
            _fetch_later(source, now)
            return
        said = {}
    with transaction.atomic():
        # Whoever has published it may have changed it meanwhile.
        same = Source.objects.filter(pk=source.pk, metadata_url=source.metadata_url)
        if same.update(
            fetched_url=source.metadata_url, fetch_tries=0, metadata=said or None,
            name=_text(said, "name")[:200], description=_text(said, "description")[:_MOST_TEXT],
        ):  # fmt: skip
            model = model_named_by(said, catalogue.load()) if settings.CHAIN_SERVE_OPEN else ""
            _decide(service, model, now)


def reconsider(network: Network, *, now: datetime) -> None:
    """Look once more at sources that wait for an operator: the model that they name may be there by now."""
    if not settings.CHAIN_SERVE_OPEN:
        return
    waiting = Service.objects.filter(
        network=network, status=Serving.ASKED, decided_by=None, next_try_at__lte=now
    )
    rows = waiting.select_related("network").order_by("next_try_at")[:_LOOKED_AT]
    found = {row.source_address: row for row in rows}
    if not found:
        return
    mine = Service.objects.filter(pk__in=[row.pk for row in found.values()], status=Serving.ASKED)
    mine.update(next_try_at=now + _AGAIN)
    said = Source.objects.filter(network=network, address__in=list(found)).values_list("address", "metadata")
    known = catalogue.load()
    named = {
        address: model
        for address, metadata in said
        if isinstance(metadata, dict) and (model := model_named_by(metadata, known))
    }
    if named and (why := _no_room(network, now)):
        _wait([found[address].pk for address in named], why)
        return
    for address, model in named.items():
        _decide(found[address], model, now)


def _metadata(source: Source) -> dict[str, Any]:
    said = documents.fetch_json(source.metadata_url) if source.metadata_url else {}
    return said if isinstance(said, dict) else {}


def _fetch_later(source: Source, now: datetime) -> None:
    pause = _PAUSES[min(source.fetch_tries, len(_PAUSES) - 1)]
    Source.objects.filter(pk=source.pk).update(fetch_tries=F("fetch_tries") + 1, fetch_at=now + pause)


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


@transaction.atomic
def _decide(service: Service, model: str, now: datetime) -> None:
    """Serve what may be served without an operator's word. What an operator has decided stays so."""
    undecided = Service.objects.filter(pk=service.pk, decided_by=None).exclude(status=Serving.REFUSED)
    row = undecided.select_for_update().first() if model else None
    if row is None or (row.status, row.model) == (Serving.SERVED, model):
        return
    said = {"model": model, "reason": "Its metadata name this model.", "next_try_at": now}
    if row.status == Serving.SERVED:
        # It names another one now. When it was begun stays, or one source could use up the hour's.
        undecided.update(**said)
        return
    with connection.cursor() as cursor:
        # Several are read at once, and are counted one after the other.
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('services:' || %s, 0))", [str(service.network_id)]
        )
    if why := _no_room(service.network, now):
        _wait([service.pk], why)
    else:
        undecided.update(status=Serving.SERVED, decided_at=now, **said)


def _no_room(network: Network, now: datetime) -> str:
    """Why no further source is served without an operator's word at present; empty where it is.

    Each costs us a registration and its stake, and anybody may publish as many as they like.
    """
    open_ones = Service.objects.filter(network=network, status=Serving.SERVED, decided_by=None)
    active = Source.objects.filter(
        network=network, address=OuterRef("source_address"), status=SourceStatus.ACTIVE
    )
    if open_ones.filter(Exists(active)).count() >= MOST_OPEN:
        return (
            f"{MOST_OPEN} sources are served already without an operator's word: an operator has to decide."
        )
    if open_ones.filter(decided_at__gt=now - timedelta(hours=1)).count() >= MOST_OPEN_AN_HOUR:
        return (
            f"{MOST_OPEN_AN_HOUR} sources were served without an operator's word within the last hour: "
            "it waits for its turn, or for an operator."
        )
    return ""


def _wait(service_ids: list[int], why: str) -> None:
    waiting = Service.objects.filter(pk__in=service_ids, status=Serving.ASKED, decided_by=None)
    waiting.exclude(reason=why).update(reason=why)


def model_named_by(metadata: Mapping[str, Any], known: Catalogue) -> str:
    """The model of this marketplace that a source's metadata name, if everybody may use it; else empty."""
    prefix = f"{settings.PUBLIC_URL}/chain/services/"
    urls = [_text(metadata, name).strip() for name in _URLS]
    named = [unquote(url.removeprefix(prefix)).strip("/") for url in urls if url.startswith(prefix)]
    return next((name for name in [*named, _text(metadata, "name")] if _everybodys(known, name)), "")


def _everybodys(known: Catalogue, name: str) -> Entry | None:
    """What anybody may use, and what was trained for chains."""
    entry = known.entries.get(name)
    return entry if entry is not None and entry.is_for(house.account().pk) else None


# --- Deciding ---------------------------------------------------------------------------------------------


@transaction.atomic
def serve(
    service: Service,
    *,
    model: str,
    by: Client,
    reason: str,
    now: datetime,
    functions: Mapping[str, Any] | None = None,
) -> Service:
    """Have our nodes work for a source, with this model ("": any that a task names) and these further functions.

    None leaves the functions as they are. Raises CannotServe, functions.BadDefinition.
    """
    locked = _locked(service)
    defined = dict(locked.functions if functions is None else functions)
    _check(model, defined)
    before = {"status": locked.status, "model": locked.model, "functions": locked.functions}
    locked.status, locked.model, locked.functions = Serving.SERVED, model, defined
    locked.next_try_at, locked.tries, locked.obstacle = now, 0, ""
    return _decided(locked, "serve_source", by, reason, now, before)


@transaction.atomic
def refuse(service: Service, *, by: Client, reason: str, now: datetime) -> Service:
    """Work for a source no longer, or not at all. What has been taken on is carried through. Raises AlreadySo."""
    locked = _locked(service)
    if locked.status == Serving.REFUSED:
        raise AlreadySo("It is refused already.")
    before = {"status": locked.status, "model": locked.model}
    locked.status, locked.next_try_at, locked.tries = Serving.REFUSED, now, 0
    return _decided(locked, "refuse_source", by, reason, now, before)


def _check(model: str, defined: Mapping[str, Any]) -> None:
    own = functions.of(defined)
    prompted = next((name for name in defined if own[name].prompt), "")
    if prompted and not model:
        raise CannotServe(
            f"{prompted} has a prompt of the operator's, so that no task can name a model for it: name one here.",
            param="model",
        )
    if model and _everybodys(catalogue.load(), model) is None:
        raise CannotServe(
            f"There is no model {model[:100]!r} here that everybody may use.", param="model", fields={"model": [
                "This is no model that everybody may use."
            ]}
        )  # fmt: skip


def _locked(service: Service) -> Service:
    return Service.objects.select_for_update().get(pk=service.pk)


def _decided(
    service: Service, action: str, by: Client, reason: str, now: datetime, before: dict[str, Any]
) -> Service:
    service.reason, service.decided_by, service.decided_at = reason[:500], by, now
    service.save()
    audit.note(by=by, action=action, subject=service, reason=reason, details={"before": before})
    return service


def of_source(network: Network, address: str) -> Service | None:
    """What was decided about a source; None where nobody has asked for it."""
    return Service.objects.filter(network=network, source_address=address).first()


# --- Telling what there is ------------------------------------------------------------------------------------


def document(model: str) -> dict[str, Any]:
    """What a source's metadata point to that wants this model: the model, what it can be asked, and for how much.

    Raises ModelNotFound.
    """
    who = house.account()
    known = catalogue.load()
    entry = known.resolve(model, client_id=who.pk)
    fee_bps = terms.current().fee_bps
    return {
        "object": "service",
        "marketplace": settings.MARKETPLACE_NAME,
        "model": entry.name,
        "title": entry.title,
        "description": entry.description,
        "kinds": list(entry.kinds),
        "context_length": entry.context_length,
        "available": entry.available,
        "url": url_of(entry.name),
        "networks": [manifest.name for manifest in networks.manifests()],
        "functions": functions.described({}, kinds_of(entry)),
        "config": {"function_name": "the function", "data": "its input"},
        "prices": _prices(entry, fee_bps),
        "fee_bps": fee_bps,
    }


def url_of(model: str) -> str:
    return f"{settings.PUBLIC_URL}/chain/services/{quote(model)}/"


def kinds_of(entry: Entry) -> set[str]:
    """What a model can be asked, `training` included."""
    is_trainable = bases.trainable(house.account()).filter(name=entry.name).exists()
    return {*entry.kinds, *([functions.TRAINING] if is_trainable else [])}


def payment_for(cost: int, fee_bps: int) -> int:
    """What has to be paid so that `cost` (base units) is left for a node."""
    kept = money.BASIS_POINTS - fee_bps
    return -(-cost * money.BASIS_POINTS // kept) if kept else cost


def _prices(entry: Entry, fee_bps: int) -> dict[str, Any] | None:
    """Decimal strings of coins; None while no node is there to ask."""
    if entry.pricing is None:
        return None
    ends = {"lowest": entry.pricing.lowest, "highest": entry.pricing.highest}
    dearest = Rates(*(int(entry.pricing.highest[part]) for part in PARTS))
    ours = gas_costs.for_usual_task()
    usual = pricing.cost(dearest, prompt_tokens=_PROMPT_TOKENS, completion_tokens=functions.USUAL_TOKENS)
    return {
        "currency": settings.CURRENCY,
        **{
            end: {part: money.render(int(amount)) for part, amount in found.items()}
            for end, found in ends.items()
        },
        # What our own transactions cost at present is part of it.
        "usual_payment": money.render(payment_for(usual + ours, fee_bps)),
        "usual_gas": money.render(ours),
        "usual_request": {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": functions.USUAL_TOKENS},
    }
