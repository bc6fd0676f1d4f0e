"""Nodes and what runs on them."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display

from clients import providers, terms
from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly
from gpus import nodes, prices, states
from gpus.api.fields import HARDWARE
from gpus.liveness import Liveness
from gpus.models import Gateway, Gpu, Node, NodeEvent, NodeState, Offer
from gpus.talents import HostingTalent, Training
from marketplace import money
from marketplace.errors import MarketplaceError

STATE_COLOURS = {
    NodeState.ONLINE.label: "success",
    NodeState.DRAINING.label: "info",
    NodeState.MAINTENANCE.label: "info",
    NodeState.PENDING.label: "warning",
    NodeState.OUTDATED.label: "warning",
    NodeState.UNREACHABLE.label: "danger",
    NodeState.SILENT.label: "danger",
    NodeState.SUSPENDED.label: "danger",
}


class OfferInline(ReadOnly, TabularInline):
    model = Offer
    fields = ("model", "kinds", "context_length", "concurrency", "revision", "asked", "active")
    readonly_fields = ("asked",)
    extra = 0
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Offer]:
        found: QuerySet[Offer] = super().get_queryset(request)
        return found.select_related("price")

    @display(description="price in / out per million tokens, per request")
    def asked(self, offer: Offer) -> str:
        return _asked(offer)


class EventInline(ReadOnly, TabularInline):
    model = NodeEvent
    fields = ("at", "state", "reason", "by")
    extra = 0
    per_page = 20
    tab = True


@admin.register(Node)
class NodeAdmin(ModelAdmin):
    """Nodes as they stand at this moment, with the reason."""

    list_display = (
        *("name", "owner", "live_state", "why", "last_heartbeat", "models", "load"),
        *("delivery", "region", "agent_version"),
    )
    list_filter = ("state", "delivery", "trusted", ("owner", AutocompleteSelectFilter))
    list_filter_submit = True
    search_fields = ("name", "owner__username", "machine_id", "=token_prefix", "offers__model")
    ordering = ("-id",)
    show_full_result_count = False
    autocomplete_fields = ("owner",)
    actions = ("approve_owner", "suspend", "resume", "drain", "cancel_drain")
    inlines = (EventInline, OfferInline)
    readonly_fields = (
        *("owner", "machine_id", "token_prefix", "live_state", "why", "what_to_do", "state_since"),
        *("last_heartbeat", "load", "models", "requests", "delivery", "push_url", "agent_version", "engine"),
        *("gateway", "draining", "maintenance", "drain_requested_at", "suspended_at", "suspended_reason"),
        *("unreachable_since", "unreachable_why", "created_at", "per_hour", "per_million", "trains", "hosts"),
        *HARDWARE,
    )
    fieldsets = (
        (None, {"fields": ("name", "owner", "live_state", "why", "what_to_do", "state_since")}),
        ("Work", {"fields": ("last_heartbeat", "load", "models", "requests", "message")}),
        ("Talents", {"fields": ("trains", "hosts")}),
        ("Placement", {"fields": ("region", "trusted")}),
        ("Money", {"fields": ("per_hour", "per_million")}),
        (
            "Connection",
            {
                "fields": (
                    *("delivery", "push_url", "gateway", "unreachable_since", "unreachable_why"),
                    *("agent_version", "engine", "machine_id", "token_prefix", "created_at"),
                )
            },
        ),
        (
            "What stops it",
            {
                "fields": (
                    *("drain_requested_at", "draining", "maintenance"),
                    *("suspended_at", "suspended_reason"),
                )
            },
        ),
        ("Hardware", {"classes": ("collapse",), "fields": HARDWARE}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        offers = Prefetch("offers", Offer.objects.filter(active=True), to_attr="active_offers")
        found: QuerySet[Node] = super().get_queryset(request)
        return found.select_related("owner", "heartbeat", "gateway").prefetch_related(offers)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        page = super().get_changelist_instance(request)
        found = states.assess_all([node.pk for node in page.result_list], now=timezone.now())
        for node in page.result_list:
            node.found = found.get(node.pk)
        return page

    def has_add_permission(self, request: HttpRequest) -> bool:
        # A node joins by itself; only then is there a token.
        return False

    def save_model(self, request: HttpRequest, obj: Node, form: Any, change: bool) -> None:
        # Only what was typed: the rest of the row may have changed while the page was open.
        obj.save(update_fields=[*form.changed_data, "changed_at"])
        nodes.announce(obj.pk)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        # Its offers and events go with it, though nobody may delete these alone.
        return [str(node) for node in objs], {"nodes": len(objs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Node) -> None:
        nodes.deregister(node_id=obj.pk, now=timezone.now())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        for node in queryset:
            nodes.deregister(node_id=node.pk, now=timezone.now())

    @display(description="state", ordering="state", label=STATE_COLOURS)
    def live_state(self, node: Node) -> str:
        return str(NodeState(_found(node).state).label)

    @display(description="why")
    def why(self, node: Node) -> str:
        return _found(node).reason

    @display(description="what its owner can do")
    def what_to_do(self, node: Node) -> str:
        return _found(node).fix or "-"

    @display(description="last heartbeat", ordering="heartbeat__at")
    def last_heartbeat(self, node: Node) -> Any:
        return node.heartbeat.at if hasattr(node, "heartbeat") else None

    @display(description="models")
    def models(self, node: Node) -> str:
        names = [offer.model for offer in _offers(node)]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    @display(description="load", ordering="heartbeat__active_requests")
    def load(self, node: Node) -> str:
        """Requests that it said it works on, of those it can work on at the same time."""
        active = node.heartbeat.active_requests if hasattr(node, "heartbeat") else 0
        return f"{active} / {sum(offer.concurrency for offer in _offers(node))}"

    @display(description="price per GPU-hour")
    def per_hour(self, node: Node) -> str:
        asked = node.hour_price.hour_price if node.hour_price else None
        said = rows.shown(prices.hour_rate(asked, terms.current()))
        return said if node.hour_price else f"{said} (default)"

    @display(description="price per million tokens trained on")
    def per_million(self, node: Node) -> str:
        asked = node.training_price.training_price if node.training_price else None
        said = rows.shown(prices.training_rate(asked, terms.current()))
        return said if node.training_price else f"{said} (default)"

    @display(description="trains")
    @rows.once
    def trains(self, node: Node) -> str:
        if node.training is None:
            return "no models"
        can = Training.read(node.training)
        memory = f" with {can.memory_mib} MiB" if can.memory_mib else ""
        busy = node.attempts.filter(ended_at=None).count()
        return f"{' and '.join(can.methods)} models on {can.gpus} × {can.device}{memory}; {busy} of {can.slots} now"

    @display(description="hosts")
    @rows.once
    def hosts(self, node: Node) -> str:
        if node.hosting is None:
            return "no models of others"
        can = HostingTalent.read(node.hosting)
        kinds = " and ".join(
            word for word, is_so in (("adapters", can.adapters), ("all weights", can.full)) if is_so
        )
        there = list(node.hostings.select_related("model").order_by("model__name")[:20])
        names = ", ".join(f"{each.model.name} ({each.state})" for each in there) or "none now"
        return f"{' and '.join(can.families)} models by {can.engine} ({kinds}), at most {can.most}: {names}"

    @display(description="requests")
    def requests(self, node: Node) -> str:
        address = reverse("admin:inference_inference_changelist")
        return format_html('<a href="{}?node__id__exact={}">What it answered</a>', address, node.pk)

    @action(description="Approve the owner as a provider", permissions=["change"])
    def approve_owner(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        owners = {node.owner for node in queryset}
        for owner in sorted(owners, key=lambda owner: owner.username):
            try:
                providers.approve(owner, by=rows.operator(request), now=timezone.now())
            except MarketplaceError as error:
                self.message_user(request, f"{owner}: {error.message}", messages.ERROR)
            else:
                self.message_user(request, f"{owner} is an approved provider.", messages.SUCCESS)
        states.sweep(now=timezone.now())

    @action(description="Suspend, with a reason", permissions=["change"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[Node]) -> HttpResponse | None:
        reason = reasons.ask(request, self, queryset, title="Suspend these nodes")
        if isinstance(reason, HttpResponse):
            return reason
        self._do(request, queryset, nodes.suspend, "suspended", reason=reason)
        return None

    @action(description="End the suspension", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._do(request, queryset, nodes.resume, "no longer suspended")

    @action(description="Drain: finish what runs, take nothing new", permissions=["change"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._do(request, queryset, nodes.request_drain, "asked to drain")

    @action(description="Cancel the drain", permissions=["change"])
    def cancel_drain(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        self._do(request, queryset, nodes.cancel_drain, "taking work again")

    def _do(
        self,
        request: HttpRequest,
        queryset: QuerySet[Node],
        verb: Callable[..., bool],
        outcome: str,
        **more: str,
    ) -> None:
        """Do it to each, and tell the operator how many it made a difference to."""
        now, by, ids = timezone.now(), rows.operator(request), list(queryset.values_list("pk", flat=True))
        changed = sum(verb(node_id=node_id, by=by, now=now, **more) for node_id in ids)
        same = len(ids) - changed
        rest = f"; {same} were so already" if same else ""
        self.message_user(request, f"{changed} nodes are {outcome}{rest}.", messages.SUCCESS)


def _asked(offer: Offer) -> str:
    """What its owner asks; what is charged stays within the limits of the terms."""
    asked = offer.price
    if asked is None:
        return "the default"
    return f"{money.render(asked.input_price)} / {money.render(asked.output_price)}, {money.named(asked.request_price)}"


def _found(node: Node) -> Liveness:
    found: Liveness | None = getattr(node, "found", None)
    if found is None:
        found = states.assess_all([node.pk], now=timezone.now()).get(node.pk)
        node.found = found  # type: ignore[attr-defined]
    return found or Liveness(node.state, node.state_reason)


def _offers(node: Node) -> list[Offer]:
    return node.active_offers  # type: ignore[attr-defined]


@admin.register(Offer)
class OfferAdmin(ReadOnly, ModelAdmin):
    list_display = (
        *("model", "node", "asked", "kinds", "concurrency", "context_length", "revision", "active"),
    )
    list_filter = ("active", ("node", AutocompleteSelectFilter))
    list_filter_submit = True
    search_fields = ("model", "node__name")
    list_select_related = ("node", "price")
    show_full_result_count = False

    @display(description="price in / out per million tokens, per request")
    def asked(self, offer: Offer) -> str:
        return _asked(offer)


@admin.register(Gateway)
class GatewayAdmin(ReadOnly, ModelAdmin):
    """The processes that relay requests."""

    list_display = ("host", "pid", "started_at", "seen_at", "alive")

    @display(description="alive", boolean=True)
    def alive(self, gateway: Gateway) -> bool:
        return timezone.now() - gateway.seen_at < Gateway.LOST_AFTER


@admin.register(Gpu)
class GpuAdmin(ModelAdmin):
    list_display = ("gpu_info", "user", "cpu_name", "ram", "os_name", "created_at")
    search_fields = ("gpu_info", "user__username")
    autocomplete_fields = ("user",)
    list_select_related = ("user",)
    show_full_result_count = False
