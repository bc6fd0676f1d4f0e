"""What the pages about chains have in common: addresses and hashes, blocks, warnings on top, searching."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from eth_utils import is_address, is_hex, to_checksum_address
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from chain.models import Network, Response, Signed, Source, Task, Transaction
from clients.admin import rows
from clients.admin.rows import ReadOnly
from clients.models import Client, Hold, Transfer

GWEI = 10**9
# Strangers may have put long texts on a chain; so much of them is shown.
_IN_LISTS, _ON_PAGES = 200, 4000
# All of it is there to be selected and copied, though the eye sees its beginning only.
_CUT = (
    "display:inline-block;max-width:{};overflow:hidden;text-overflow:ellipsis;white-space:nowrap;"
    "vertical-align:bottom;user-select:all"
)
_ON_CHAIN: dict[type[Model], str] = {Source: "source", Task: "task", Response: "response"}
Row = TypeVar("Row", bound=Model)


class OnChain(ReadOnly, ModelAdmin):
    """A list of rows that the marketplace alone writes, made for many of them: nothing here counts or scans them all.

    `finds` says what a search term (see `Term`) may be; without it nothing can be searched.
    """

    ordering: tuple[str, ...] = ("-pk",)
    paginator = InfinitePaginator
    show_full_result_count = False
    list_filter_submit = True
    finds: Callable[[Term], Q] | None = None

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        finds = type(self).finds
        return (queryset.filter(finds(Term(term))) if term and finds else queryset), False

    def find(self, found: list[Any]) -> None:
        """Look up, for all rows of a page of the list at once, what their columns show."""

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        page = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        self.find(page.result_list)
        return page


class Term:
    """What somebody is looking for, in the forms in which it may be stored."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\0", "")
        is_number = text.isascii() and text.isdecimal() and len(text) <= 18
        self.number = int(text) if is_number else None
        self.address = to_checksum_address(text) if is_address(text) else ""
        is_hash = len(text) == 66 and text[:2] in ("0x", "0X") and is_hex(text)
        self.hash = text.lower() if is_hash else ""

    def address_in(self, *names: str) -> Q:
        """Rows with this address in one of these columns; none where the term is no address."""
        return self._in(names, self.address)

    def hash_in(self, *names: str) -> Q:
        return self._in(names, self.hash)

    def number_in(self, *names: str) -> Q:
        return self._in(names, self.number)

    def person_in(self, name: str) -> Q:
        """Rows of the person with this user name or e-mail address."""
        people = Client.objects.filter(Q(username__iexact=self.text) | Q(email__iexact=self.text))
        return Q(**{f"{name}__in": list(people[:10])})

    def sent_in(self, *names: str) -> Q:
        """Rows whose transaction of ours in one of these columns has this hash, or had it before it was bumped."""
        if not self.hash:
            return Q(pk__in=[])
        known = Q(hash=self.hash) | Q(pk__in=Signed.objects.filter(hash=self.hash).values("transaction"))
        found = list(Transaction.objects.filter(known).values_list("pk", flat=True))
        return self._in([f"{name}__in" for name in names], found)

    def at_in(self, model: type[Source] | type[Task], name: str) -> Q:
        """Rows of the source, or the task, at this address."""
        if not self.address:
            return Q(pk__in=[])
        found = model.objects.filter(of_any_network(Q(address=self.address)))
        return Q(**{f"{name}__in": list(found.values_list("pk", flat=True))})

    @staticmethod
    def _in(names: Iterable[str], value: Any) -> Q:
        found = Q(pk__in=[])
        if value not in ("", None):
            for name in names:
                found |= Q(**{name: value})
        return found


def of_any_network(found: Q) -> Q:
    """The same where an index begins with the network."""
    return Q(network__in=list(Network.objects.values_list("pk", flat=True))) & found


def cut(text: str, width: str = "9rem") -> str:
    """A long word on little space, for lists."""
    style, text = _CUT.format(width), _at_most(text, _IN_LISTS)
    return format_html('<span style="{}" title="{}">{}</span>', style, text, text) if text else "-"


def whole(text: str) -> str:
    """A long word that may be broken anywhere, and is selected with one click."""
    style, text = "overflow-wrap:anywhere;user-select:all", _at_most(text, _ON_PAGES)
    return format_html('<span style="{}">{}</span>', style, text) if text else "-"


def json_text(value: Any) -> str:
    return "" if value in (None, {}) else json.dumps(value, ensure_ascii=False)


def _at_most(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def short(name: str, description: str = "", width: str = "9rem") -> Callable[[Any], str]:
    """A column with an address, a hash or a URL."""

    @display(description=description or name.replace("_", " "))
    def column(row: Any) -> str:
        return cut(getattr(row, name), width)

    column.__name__ = f"short_{name}"
    return column


def full(name: str, description: str = "") -> Callable[[Any], str]:
    """A field that is read, with an address, a hash or a URL."""

    @display(description=description or name.replace("_", " "))
    def field(row: Any) -> str:
        return whole(getattr(row, name))

    field.__name__ = f"full_{name}"
    return field


@display(description="block", ordering="block_number")
def block(row: Any) -> str:
    """Where it stands on the chain, and how final that is. The row's network has to be there already."""
    if row.block_number is None:
        return "-"
    return f"{row.block_number} ({finality(row.network, row.block_number)})"


def finality(network: Network, number: int) -> str:
    if number <= network.final_block:
        return "final"
    deep = max(network.head_block - number + 1, 0)
    return f"{min(deep, network.confirmations)} of {network.confirmations} confirmations"


def gwei(base_units: int | None) -> str:
    """What a unit of gas costs."""
    return "-" if base_units is None else f"{base_units / GWEI:,.9g} gwei"


def link_to_transaction(found: Transaction | None, text: str = "") -> str:
    """A link to its row in the outbox, with what became of it."""
    if found is None:
        return "-"
    said = format_html("{}: {}", text or found.reference, found.get_status_display())
    return rows.link("chain_transaction", found.pk, said)


def links_to_transactions(found: Iterable[Transaction | None]) -> str:
    shown = [(link_to_transaction(each),) for each in found if each is not None]
    return format_html_join("", "<div>{}</div>", shown) or "-"


def link_to_movement(reference: str) -> str:
    """The transfer with this reference."""
    found = Transfer.objects.filter(reference=reference).first()
    return rows.link("clients_transfer", found.pk, f"{found}: {rows.shown(found.amount)}") if found else "-"


def link_to_hold(reference: str) -> str:
    """What is held under this reference now."""
    found = Hold.objects.filter(pk=reference).first()
    if found is None:
        return "-"
    what = "ended" if found.ended_at else rows.shown(found.amount - found.captured)
    return rows.link("clients_hold", found.pk, f"{found.pk}: {what}")


def links_on_chain(
    model: type[Source] | type[Task] | type[Response], network_id: int, addresses: Iterable[str]
) -> dict[str, str]:
    """Links to what the indexer has read at these addresses, for a list; one query.

    What it has not read stays a plain address.
    """
    wanted = {address for address in addresses if address}
    known = model.objects.filter(network=network_id, address__in=wanted).values_list("address", "pk")
    page = f"chain_{_ON_CHAIN[model]}"
    return {address: cut(address) for address in wanted} | {
        address: rows.link(page, pk, cut(address)) for address, pk in known
    }


def link_on_chain(model: type[Source] | type[Task] | type[Response], network_id: int, address: str) -> str:
    """The same for the page of one row, with all of the address."""
    found = model.objects.filter(network=network_id, address=address).values_list("pk", flat=True).first()
    text = whole(address)
    return rows.link(f"chain_{_ON_CHAIN[model]}", found, text) if found else text


def link_to_list(page: str, text: str, **filters: Any) -> str:
    """A link to a list of the admin, with what it is narrowed to."""
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    return format_html(
        '<a href="{}?{}" class="text-link">{}</a>', reverse(f"admin:{page}_changelist"), query, text
    )


def wide(text: str) -> str:
    """A sentence in a column, not broken after each word."""
    return format_html('<div style="min-width:14rem">{}</div>', text) if text else "-"
