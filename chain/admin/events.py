"""The events of the marketplace's contracts, as they were read."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from chain.admin.columns import OnChain, Term, block, cut, full, json_text, short, whole
from chain.models import Log
from clients.admin.rows import moment

# What the contracts emit; looking through the rows for it would take too long.
NAMES = (
    *("SourcePublished", "SourceUpdated", "SourceStatusChanged", "Registered", "TaskPublished"),
    *("Attempted", "ResponseSubmitted", "ResponseStatusChanged", "TaskStatusChanged"),
    *("Deposited", "Funded", "Withdrawn", "Claimed", "Recovered", "RootPublished"),
)


class NameFilter(admin.SimpleListFilter):
    title = "event"
    parameter_name = "name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in NAMES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Log]) -> QuerySet[Log]:
        return queryset.filter(name=self.value()) if self.value() else queryset


@admin.register(Log)
class LogAdmin(OnChain):
    list_display = (
        *("name", "network", "block_number", "log_index", moment("at"), short("address", "contract")),
        *(short("transaction_hash", "transaction"), "short_arguments"),
    )
    list_filter = ("network", NameFilter, "at")
    list_select_related = ("network",)
    search_fields = ("name",)
    search_help_text = "The number of a block, the hash of a transaction, or the name of an event: all of it."
    fields = (
        *("name", "contract", full("address"), "network", block, full("block_hash"), "log_index"),
        *(full("transaction_hash", "transaction"), "at", "shown_arguments"),
    )
    readonly_fields = ("contract", "shown_arguments")

    @staticmethod
    def finds(term: Term) -> Q:
        return term.number_in("block_number") | term.hash_in("transaction_hash") | Q(name=term.text)

    @display(description="contract")
    def contract(self, log: Log) -> str:
        known = {address: name for name, address in log.network.contracts.items()}
        return str(known.get(log.address, "-"))

    @display(description="arguments")
    def short_arguments(self, log: Log) -> str:
        return cut(json_text(log.arguments), "26rem")

    @display(description="arguments")
    def shown_arguments(self, log: Log) -> str:
        return whole(json_text(log.arguments))
