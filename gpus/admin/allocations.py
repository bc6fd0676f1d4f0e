"""What providers ask, and the times for which nodes are somebody's alone."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly, amount
from gpus import allocations
from gpus.models import Allocation, Lease, Price


@admin.register(Price)
class PriceAdmin(ReadOnly, ModelAdmin):
    """All prices there have been, so that what was charged can be explained."""

    list_display = (
        *("id", "at", "owner", "node_name", "model", amount("input_price"), amount("output_price")),
        *(amount("request_price"), amount("hour_price"), amount("training_price")),
    )
    list_display_links = ("id", "at")
    list_filter = (("owner", AutocompleteSelectFilter), "at")
    list_filter_submit = True
    search_fields = ("model", "owner__username")
    list_select_related = ("owner",)
    paginator = InfinitePaginator
    show_full_result_count = False
    fields = (
        *("at", "owner", "node_name", "model", amount("input_price"), amount("output_price")),
        *(amount("request_price"), amount("hour_price"), amount("training_price")),
    )
    readonly_fields = ("node_name",)

    @display(description="node")
    def node_name(self, price: Price) -> str:
        # The node may be gone.
        return rows.link("gpus_node", price.node_id, f"node {price.node_id}")


LEASE_COLUMNS = (
    *("node_name", "provider", "gpus", amount("hour_price"), "started_at", "paid_until", "expires_at"),
    *(amount("charged"), amount("fee"), "ended_at", "end_reason"),
)


class LeaseInline(ReadOnly, TabularInline):
    model = Lease
    fields = readonly_fields = LEASE_COLUMNS
    extra = 0
    show_change_link = True


@admin.register(Allocation)
class AllocationAdmin(ReadOnly, ModelAdmin):
    """Nodes that are somebody's alone for a time."""

    list_display = (
        *("id", "client", "state", "task_type", "gpu_type", "gpu_count", "model", "created_at", "expires_at"),
        *("charged", "end_reason"),
    )
    list_filter = (
        *("task_type", ("ended_at", admin.EmptyFieldListFilter), ("client", AutocompleteSelectFilter)),
        "created_at",
    )
    list_filter_submit = True
    list_select_related = ("client",)
    search_fields = ("=id", "client__username", "model", "gpu_type", "leases__node_name")
    paginator = InfinitePaginator
    show_full_result_count = False
    fields = (
        *("id", "client", "state", "task_type", "gpu_type", "gpu_count", "model", "dataset_id", "charged"),
        *("created_at", "expires_at", "ended_at", "end_reason"),
    )
    readonly_fields = ("state", "charged")
    inlines = (LeaseInline,)
    actions = ("release",)
    actions_detail = ("release_one",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Allocation]:
        found: QuerySet[Allocation] = super().get_queryset(request)
        return found.select_related("client").prefetch_related("leases")

    def has_release_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("gpus.change_allocation")

    @display(description="state", ordering="ended_at", label={"running": "success", "ended": "info"})
    def state(self, allocation: Allocation) -> str:
        return "ended" if allocation.ended_at else "running"

    @display(description="charged so far")
    def charged(self, allocation: Allocation) -> str:
        return rows.shown(sum(lease.charged for lease in allocation.leases.all()))

    @action(description="Release, with a reason", permissions=["release"])
    def release(self, request: HttpRequest, queryset: QuerySet[Allocation]) -> HttpResponse | None:
        def verb(allocation: Allocation, reason: str) -> str:
            allocations.end(allocation, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{allocation} is released."

        return reasons.do_to_each(
            self,
            request,
            queryset,
            verb,
            title="Release",
            note="Paid to the second; the rest is given back, and the nodes serve everybody again.",
            seen_by="The client and the provider read it.",
        )

    @action(description="Release", permissions=["release"], url_path="release", icon="lock_open")
    def release_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.release(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:gpus_allocation_change", object_id)


@admin.register(Lease)
class LeaseAdmin(ReadOnly, ModelAdmin):
    list_display = ("id", *LEASE_COLUMNS)
    list_filter = (
        ("ended_at", admin.EmptyFieldListFilter),
        ("provider", AutocompleteSelectFilter),
        "started_at",
    )
    list_filter_submit = True
    list_select_related = ("provider",)
    search_fields = ("node_name", "provider__username")
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    fields = ("allocation", *LEASE_COLUMNS, "end_code", "fee_bps")
    readonly_fields = LEASE_COLUMNS
