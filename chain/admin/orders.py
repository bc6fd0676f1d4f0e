"""What the marketplace publishes for people who have no wallet, and the files that tasks point to."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from chain import interventions, outcomes, pins
from chain.admin.columns import (
    OnChain,
    Term,
    full,
    link_on_chain,
    link_to_hold,
    link_to_movement,
    link_to_transaction,
    links_to_transactions,
    short,
    whole,
    wide,
)
from chain.models import DeliveryMethod, OrderStatus, Pin, Source, SourceOrder, Task, TaskOrder
from clients.admin import reasons, rows
from clients.admin.rows import amount, moment

STATUS_COLOURS = {
    OrderStatus.PUBLISHING.label: "info",
    OrderStatus.PUBLISHED.label: "info",
    OrderStatus.CONFIRMING.label: "info",
    OrderStatus.FINISHED.label: "success",
    OrderStatus.CANCELLED.label: "warning",
    OrderStatus.EXPIRED.label: "danger",
    OrderStatus.FAILED.label: "danger",
}
MAY_CHANGE = "chain.change_taskorder"
MAY_DELETE_PINS = "chain.delete_pin"
_SENT = ("deposit", "publication", "confirmation", "cancellation")


@admin.register(TaskOrder)
class TaskOrderAdmin(OnChain):
    list_display = (
        *("id", moment("created_at"), "owner", "network", "function", amount("payment"), "shown_status"),
        *("why", short("task_address", "task"), moment("expires_at")),
    )
    list_display_links = ("id",)
    list_filter = ("network", "status", ("owner", AutocompleteSelectFilter), "created_at")
    list_select_related = ("network", "owner")
    search_fields = ("task_address",)
    search_help_text = "Its number, an address (the task's or its source's), or a user name: all of it."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("id", "owner", "network", "source", "function", full("config_url"), amount("payment")),
                    *("expires_at", "shown_status", "reason", "created_at", "ended_at"),
                )
            },
        ),
        ("On the chain", {"fields": ("task", "sent")}),
        ("In the ledger", {"fields": ("held", "movement")}),
    )
    readonly_fields = ("source", "task", "shown_status", "sent", "held", "movement")
    actions_detail = ("release",)

    @staticmethod
    def finds(term: Term) -> Q:
        return (
            term.number_in("pk") | term.address_in("task_address", "source_address") | term.person_in("owner")
        )

    def has_change_order_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_CHANGE)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        """Nothing but where it is possible; the verb checks it once more."""
        order = TaskOrder.objects.filter(pk=object_id).select_related("network", "publication").first()
        is_lost = order is not None and outcomes.may_be_released(order)
        return super().get_actions_detail(request, object_id) if is_lost else []

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, order: TaskOrder) -> str:
        return str(OrderStatus(order.status).label)

    @display(description="why")
    def why(self, order: TaskOrder) -> str:
        return wide(order.reason)

    @display(description="source")
    @rows.once
    def source(self, order: TaskOrder) -> str:
        return link_on_chain(Source, order.network_id, order.source_address)

    @display(description="task")
    @rows.once
    def task(self, order: TaskOrder) -> str:
        return link_on_chain(Task, order.network_id, order.task_address)

    @display(description="transactions")
    @rows.once
    def sent(self, order: TaskOrder) -> str:
        return links_to_transactions(getattr(order, name) for name in _SENT)

    @display(description="held")
    @rows.once
    def held(self, order: TaskOrder) -> str:
        return link_to_hold(order.reference)

    @display(description="moved")
    @rows.once
    def movement(self, order: TaskOrder) -> str:
        return link_to_movement(order.reference)

    @action(
        description="Release", permissions=["change_order"], url_path="release", icon="lock_open",
        variant=ActionVariant.DANGER,
    )  # fmt: skip
    def release(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def one(order: TaskOrder, reason: str) -> str:
            after = interventions.release(order, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{after}: {rows.shown(after.payment)} is {after.owner}'s to use again."

        asked = reasons.do_to_each(
            self, request, self.get_queryset(request).filter(pk=object_id), one, title="Release",
            seen_by="Its owner reads it.",
            note="Its publication has ended, and no task of it is known. It ends as failed, and nothing is charged. "
            "Look at the transaction first: should there be a task after all, the marketplace pays for it.",
        )  # fmt: skip
        return asked or redirect("admin:chain_taskorder_change", object_id)


@admin.register(SourceOrder)
class SourceOrderAdmin(OnChain):
    list_display = (
        *("id", moment("created_at"), "owner", "network", "name", "method", "standing"),
        short("source_address", "source"),
    )
    list_display_links = ("id",)
    list_filter = ("network", ("owner", AutocompleteSelectFilter), "created_at")
    list_select_related = ("network", "owner", "publication")
    search_fields = ("source_address",)
    search_help_text = "Its number, the address of the source, or a user name: all of it."
    fields = (
        *("id", "owner", "network", "name", "method", full("metadata_url"), "standing", "source"),
        "created_at",
    )
    readonly_fields = ("method", "standing", "source")

    @staticmethod
    def finds(term: Term) -> Q:
        return term.number_in("pk") | term.address_in("source_address") | term.person_in("owner")

    @display(description="delivery", ordering="delivery_method")
    def method(self, order: SourceOrder) -> str:
        return str(DeliveryMethod(order.delivery_method).label)

    @display(description="publication")
    def standing(self, order: SourceOrder) -> str:
        return link_to_transaction(order.publication)

    @display(description="source")
    @rows.once
    def source(self, order: SourceOrder) -> str:
        return link_on_chain(Source, order.network_id, order.source_address)


@admin.register(Pin)
class PinAdmin(OnChain):
    list_display = (
        *(short("cid", "CID", "16rem"), "filename", "content_type", "shown_size", moment("created_at")),
        "kept",
    )
    list_filter = ("created_at", ("keep_until", admin.EmptyFieldListFilter))
    ordering = ("-created_at",)
    search_fields = ("cid",)
    search_help_text = "A CID, or a link with one in it."
    fields = (full("cid", "CID"), "filename", "content_type", "shown_size", "created_at", "kept", "address")
    readonly_fields = ("shown_size", "kept", "address")
    actions = ("drop",)
    actions_detail = ("drop_one",)

    @staticmethod
    def finds(term: Term) -> Q:
        return Q(pk=pins.cid_in(term.text) or term.text)

    def has_drop_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_DELETE_PINS)

    @display(description="size", ordering="size")
    def shown_size(self, pin: Pin) -> str:
        return filesizeformat(pin.size)

    @display(description="kept until", ordering="keep_until")
    def kept(self, pin: Pin) -> str:
        return f"{pin.keep_until:%Y-%m-%d %H:%M}" if pin.keep_until else "for ever"

    @display(description="address")
    def address(self, pin: Pin) -> str:
        # No link: what strangers leave is not to be opened by accident.
        return whole(pins.url(pin))

    @action(description="Delete, with a reason", permissions=["drop"])
    def drop(self, request: HttpRequest, queryset: QuerySet[Pin]) -> HttpResponse | None:
        def verb(pin: Pin, reason: str) -> str:
            interventions.drop(pin, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{pin} is deleted."

        return reasons.do_to_each(
            self, request, queryset, verb, title="Delete", seen_by="It is kept in the audit.",
            note="Only what nothing on a chain or of ours points to. Whoever has the link finds nothing then.",
        )  # fmt: skip

    @action(
        description="Delete",
        permissions=["drop"],
        url_path="drop",
        icon="delete",
        variant=ActionVariant.DANGER,
    )
    def drop_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.drop(request, self.get_queryset(request).filter(pk=object_id))
        if asked is not None:
            return asked
        is_there = Pin.objects.filter(pk=object_id).exists()
        return (
            redirect("admin:chain_pin_change", object_id)
            if is_there
            else redirect("admin:chain_pin_changelist")
        )
