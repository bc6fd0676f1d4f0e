"""Tasks on chains, who has taken them on, and the responses."""

from __future__ import annotations

from datetime import UTC, datetime

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import TabularInline
from unfold.decorators import display

from chain.admin.columns import OnChain, Term, block, cut, full, of_any_network, short, whole, wide
from chain.admin.fulfilments import STATUS_COLOURS as FULFILMENT_COLOURS
from chain.models import (
    ENDED,
    Attempt,
    DeliveryMethod,
    Fulfilment,
    Response,
    ResponseStatus,
    Service,
    Serving,
    Source,
    Task,
    TaskOrder,
    TaskStatus,
)
from clients.admin import rows
from clients.admin.rows import ReadOnly, amount, moment

STATUS_COLOURS = {
    TaskStatus.NEW.label: "info",
    TaskStatus.ATTEMPTED.label: "info",
    TaskStatus.RESPONDED.label: "warning",
    TaskStatus.CANCELED.label: "danger",
    TaskStatus.EXPIRED.label: "danger",
    TaskStatus.FINALIZED.label: "success",
}
RESPONSE_COLOURS = {ResponseStatus.SUBMITTED.label: "info", ResponseStatus.CONFIRMED.label: "success"}
# Beyond this year a uint256 is no date.
_LAST_SECOND = 253_402_300_799


class _ResponseColumns:
    """What the list and the pages of tasks have in common."""

    @display(description="status", label=RESPONSE_COLOURS)
    def shown_status(self, response: Response) -> str:
        return str(ResponseStatus(response.status).label)

    @display(description="address")
    def page(self, response: Response) -> str:
        return rows.link("chain_response", response.pk, whole(response.address))


class AttemptInline(ReadOnly, TabularInline):
    model = Attempt
    hide_title = True
    fields = readonly_fields = (
        *(full("provider"), amount("suggested_payment"), "attempted_at", "block_number"),
        full("transaction_hash", "transaction"),
    )
    extra = 0
    per_page = 20
    tab = True


class ResponseInline(_ResponseColumns, ReadOnly, TabularInline):
    model = Response
    hide_title = True
    fields = readonly_fields = (
        *("page", full("provider"), "shown_status", amount("payment"), full("data"), "submitted_at"),
        *("confirmed_at", full("transaction_hash", "transaction")),
    )
    extra = 0
    per_page = 20
    tab = True


@admin.register(Task)
class TaskAdmin(OnChain):
    list_display = (
        *(short("address"), "network", "shown_source", "shown_status", "ours", "our_reason"),
        *(amount("payment"), "expiry", moment("published_at"), "block_number"),
    )
    list_filter = ("network", "status", "delivery_method", "published_at")
    list_select_related = ("network", "source")
    search_fields = ("address",)
    search_help_text = "An address (the task's or its source's), or the hash of a transaction: all of it."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *(full("address"), "shown_source", "shown_status", "status_at", amount("payment")),
                    *("method", "expiry", full("config_url", "config")),
                )
            },
        ),
        (
            "On the chain",
            {
                "fields": (
                    *("network", block, "log_index", full("transaction_hash", "transaction")),
                    "published_at",
                )
            },
        ),
        ("What we do about it", {"fields": ("ours", "our_reason", "our_work", "order")}),
    )
    readonly_fields = (
        *("shown_source", "shown_status", "method", "expiry", "ours", "our_reason", "our_work", "order"),
    )
    inlines = (ResponseInline, AttemptInline)

    @staticmethod
    def finds(term: Term) -> Q:
        return (
            of_any_network(term.address_in("address"))
            | term.at_in(Source, "source")
            | term.hash_in("transaction_hash")
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task]:
        found: QuerySet[Task] = super().get_queryset(request)
        return found.select_related("network", "source")

    def find(self, found: list[Task]) -> None:
        networks, addresses = {task.network_id for task in found}, [task.address for task in found]
        ours = {
            (each.network_id, each.task_address, each.published_transaction): each
            for each in Fulfilment.objects.filter(network__in=networks, task_address__in=addresses)
        }
        sources = {task.source.address for task in found}
        services = {
            (each.network_id, each.source_address): each
            for each in Service.objects.filter(network__in=networks, source_address__in=sources)
        }
        for task in found:
            task.fulfilment = ours.get((task.network_id, task.address, task.transaction_hash))  # type: ignore[attr-defined]
            task.service = services.get((task.network_id, task.source.address))  # type: ignore[attr-defined]

    @display(description="source", ordering="source")
    def shown_source(self, task: Task) -> str:
        return rows.link("chain_source", task.source_id, task.source)

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, task: Task) -> str:
        return str(TaskStatus(task.status).label)

    @display(description="our work", label=FULFILMENT_COLOURS)
    def ours(self, task: Task) -> str | None:
        found = _fulfilment(task)
        return found.status if found else None

    @display(description="why")
    def our_reason(self, task: Task) -> str:
        found = _fulfilment(task)
        return wide((found.reason or "-") if found else _why_not(task))

    @display(description="fulfilment")
    def our_work(self, task: Task) -> str:
        found = _fulfilment(task)
        return rows.link("chain_fulfilment", found.pk, f"fulfilment {found.pk}") if found else "-"

    @display(description="ordered through us by")
    @rows.once
    def order(self, task: Task) -> str:
        found = TaskOrder.objects.filter(network=task.network, task_address=task.address)
        order = found.select_related("owner").first()
        return rows.link("chain_taskorder", order.pk, f"{order.owner}: {order}") if order else "-"

    @display(description="delivery", ordering="delivery_method")
    def method(self, task: Task) -> str:
        return str(DeliveryMethod(task.delivery_method).label)

    @display(description="expires", ordering="expiry_time")
    def expiry(self, task: Task) -> str:
        seconds = int(task.expiry_time)
        if seconds > _LAST_SECOND:
            return "never"
        at = datetime.fromtimestamp(seconds, tz=UTC)
        over = " (over)" if task.status not in ENDED and at < timezone.now() else ""
        return format_html('<span class="whitespace-nowrap">{}{}</span>', f"{at:%Y-%m-%d %H:%M:%S}", over)


def _fulfilment(task: Task) -> Fulfilment | None:
    if not hasattr(task, "fulfilment"):
        task.fulfilment = Fulfilment.objects.filter(  # type: ignore[attr-defined]
            network=task.network_id,
            task_address=task.address,
            published_transaction=task.transaction_hash,
        ).first()
    found: Fulfilment | None = task.fulfilment  # type: ignore[attr-defined]
    return found


@admin.register(Response)
class ResponseAdmin(_ResponseColumns, OnChain):
    list_display = (
        *(short("address"), "network", "shown_task", short("provider"), "shown_status", amount("payment")),
        *(short("data", width="16rem"), moment("submitted_at"), moment("confirmed_at"), "block_number"),
    )
    list_filter = ("network", "status", "submitted_at")
    list_select_related = ("network", "task")
    search_fields = ("address",)
    search_help_text = (
        "An address (the response's, its task's or its provider's), or the hash of a transaction."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *(full("address"), "shown_task", full("provider"), "shown_status", amount("payment")),
                    full("data"),
                )
            },
        ),
        (
            "On the chain",
            {
                "fields": (
                    *("network", block, "log_index", full("transaction_hash", "transaction"), "submitted_at"),
                    *("confirmed_at", "confirmed_block", full("confirmed_transaction"), "final"),
                )
            },
        ),
    )
    readonly_fields = ("shown_task", "shown_status", "final")

    @staticmethod
    def finds(term: Term) -> Q:
        if term.hash:
            return term.hash_in("transaction_hash", "confirmed_transaction")
        at = of_any_network(term.address_in("address")) | term.at_in(Task, "task")
        # Nothing else has a provider's address, and no index knows of it.
        return at if Response.objects.filter(at).exists() else term.address_in("provider")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Response]:
        found: QuerySet[Response] = super().get_queryset(request)
        return found.select_related("network", "task")

    @display(description="task")
    def shown_task(self, response: Response) -> str:
        return rows.link("chain_task", response.task_id, cut(response.task.address))

    @display(description="finally confirmed", boolean=True)
    def final(self, response: Response) -> bool:
        return response.is_finally_confirmed


def _service(task: Task) -> Service | None:
    if not hasattr(task, "service"):
        task.service = Service.objects.filter(  # type: ignore[attr-defined]
            network=task.network_id, source_address=task.source.address
        ).first()
    found: Service | None = task.service  # type: ignore[attr-defined]
    return found


def _why_not(task: Task) -> str:
    """Why there is no work of ours on a task."""
    service = _service(task)
    if service is None or service.status == Serving.ASKED:
        return "We do not serve its source: nobody has decided about it."
    if service.status == Serving.REFUSED:
        return f"We do not serve its source: {service.reason}"
    if task.status in ENDED:
        return "It had ended before we could take it on."
    if service.registered_at is None:
        return f"Our provider is not registered with its source (yet). {service.obstacle}"
    if task.block_number > task.network.final_block:
        return "Its block is not final yet."
    return "It has not been looked at yet."
