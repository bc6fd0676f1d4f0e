"""Sources: what people have published on chains for others to order from."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from unfold.decorators import display

from chain.admin.columns import (
    OnChain,
    Term,
    block,
    full,
    json_text,
    link_to_list,
    of_any_network,
    short,
    whole,
    wide,
)
from chain.models import DeliveryMethod, Service, Serving, Source, SourceStatus
from clients.admin import rows
from clients.admin.rows import amount, moment

SERVING_COLOURS = {
    Serving.ASKED.label: "warning",
    Serving.SERVED.label: "success",
    Serving.REFUSED.label: "info",
}
STATUS_COLOURS = {SourceStatus.ACTIVE.label: "success", SourceStatus.INACTIVE.label: "info"}
ENVIRONMENTS = ((1, "CPU"), (2, "NVIDIA"), (4, "AMD"))
_MOST_SECONDS = 10**10


@admin.register(Source)
class SourceAdmin(OnChain):
    list_display = (
        *("shown_name", short("address"), "network", "shown_status", "serving", "served_with"),
        *(short("client", "published by"), amount("min_payment"), "method", moment("published_at")),
    )
    list_filter = ("network", "status", "delivery_method", "published_at")
    search_fields = ("address",)
    search_help_text = (
        "An address (its own or its client's), the hash of a transaction, or a name: all of it."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("shown_name", "description", full("address"), full("client", "published by")),
                    *("shown_status", "serving", "decision", "its_tasks"),
                )
            },
        ),
        (
            "On the chain",
            {
                "fields": (
                    *("network", block, "log_index", full("transaction_hash", "transaction")),
                    *("published_at", "updated_at"),
                )
            },
        ),
        (
            "What it wants",
            {
                "fields": (
                    *(amount("min_payment"), amount("min_available_lockup"), "longest", "environment"),
                    "method",
                    *("privacy_enabled", full("metadata_url"), full("optional_params_url")),
                    *("shown_metadata", full("fetched_url"), "fetch_tries", "fetch_at"),
                )
            },
        ),
    )
    readonly_fields = (
        *("shown_name", "shown_status", "serving", "decision", "its_tasks", "longest", "environment"),
        *("method", "shown_metadata"),
    )

    @staticmethod
    def finds(term: Term) -> Q:
        return (
            of_any_network(term.address_in("address"))
            | term.address_in("client")
            | term.hash_in("transaction_hash")
            | Q(name=term.text)
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Source]:
        found: QuerySet[Source] = super().get_queryset(request)
        service = Service.objects.filter(network=OuterRef("network"), source_address=OuterRef("address"))
        return found.select_related("network").annotate(
            service_id=Subquery(service.values("pk")[:1]),
            service_status=Subquery(service.values("status")[:1]),
            service_model=Subquery(service.values("model")[:1]),
        )

    @display(description="name", ordering="name")
    def shown_name(self, source: Source) -> str:
        return wide(source.name or "(without a name)")

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, source: Source) -> str:
        return str(SourceStatus(source.status).label)

    @display(description="do we serve it", label=SERVING_COLOURS)
    def serving(self, source: Source) -> str | None:
        status: str | None = source.service_status  # type: ignore[attr-defined]
        return str(Serving(status).label) if status else None

    @display(description="with")
    def served_with(self, source: Source) -> str:
        return source.service_model or "-"  # type: ignore[attr-defined]

    @display(description="decision")
    def decision(self, source: Source) -> str:
        found: int | None = source.service_id  # type: ignore[attr-defined]
        return rows.link("chain_service", found, f"service {found}") if found else "Nobody has asked for it."

    @display(description="tasks")
    def its_tasks(self, source: Source) -> str:
        return link_to_list("chain_task", "All of its tasks", q=source.address)

    @display(description="longest time for a task")
    def longest(self, source: Source) -> str:
        seconds = int(source.max_expiry_duration)
        return f"{seconds} s" if seconds < _MOST_SECONDS else "as long as anybody likes"

    @display(description="environments")
    def environment(self, source: Source) -> str:
        names = [name for bit, name in ENVIRONMENTS if source.environments & bit]
        return ", ".join(names) or str(source.environments)

    @display(description="delivery", ordering="delivery_method")
    def method(self, source: Source) -> str:
        return str(DeliveryMethod(source.delivery_method).label)

    @display(description="metadata")
    def shown_metadata(self, source: Source) -> str:
        return whole(json_text(source.metadata))
