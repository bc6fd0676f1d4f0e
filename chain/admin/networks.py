"""The chains that are followed: how far each has been read, whether its node answers, and what is sent with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.timesince import timesince
from unfold.admin import TabularInline
from unfold.decorators import action, display

from chain import interventions
from chain.admin import warned
from chain.admin.columns import OnChain, full, link_to_list, whole
from chain.models import IN_FLIGHT, Network, Reorganisation, Sender, Transaction, TransactionStatus
from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly, amount, moment

MAY_CHANGE = "chain.change_network"
GOES, BEHIND, FAILS, PAUSED, NEW = "followed", "behind", "its node fails", "paused", "not read yet"
STATE_COLOURS = {GOES: "success", BEHIND: "warning", FAILS: "danger", PAUSED: "info", NEW: "info"}


class SenderInline(ReadOnly, TabularInline):
    """The addresses that we send from. Their keys are in the settings, and never here."""

    model = Sender
    verbose_name_plural = "senders"
    hide_title = True
    fields = readonly_fields = (full("address"), amount("balance"), "balance_at", "next_nonce")
    extra = 0
    tab = True


class ReorganisationInline(ReadOnly, TabularInline):
    model = Reorganisation
    hide_title = True
    fields = readonly_fields = (moment("at"), "depth", "common_block", "logs")
    extra = 0
    per_page = 20
    ordering = ("-id",)
    tab = True


@admin.register(Network)
class NetworkAdmin(OnChain):
    """A few rows; how to reach them stands in the settings."""

    list_display = (
        *("name", "state", "head", "cursor", "shown_lag", "why", "senders_shown", "open_transactions"),
    )
    list_display_links = ("name",)
    list_filter_submit = False
    list_before_template = "admin/chain/warnings.html"
    ordering = ("id",)
    fieldsets = (
        (
            None,
            {"fields": ("name", "chain_id", "state", "why", "confirmations", "start_block", "created_at")},
        ),
        (
            "How far it is read",
            {
                "fields": (
                    *("head", "head_at", "cursor", full("cursor_hash"), "shown_lag", "final", "polled_at"),
                    *("failing_since", "failures", "failure", "next_poll_at", "leased_until"),
                )
            },
        ),
        ("Contracts", {"fields": ("addresses",)}),
        ("What is sent", {"fields": ("open_transactions",)}),
    )
    readonly_fields = (
        *("state", "why", "head", "cursor", "shown_lag", "final", "addresses", "open_transactions"),
    )
    inlines = (SenderInline, ReorganisationInline)
    actions = ("pause", "resume")
    actions_detail = ("pause_one", "resume_one")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Network]:
        found: QuerySet[Network] = super().get_queryset(request)
        waiting = _number_of(TransactionStatus.QUEUED)
        return found.annotate(waiting=waiting, in_flight=_number_of(*IN_FLIGHT)).prefetch_related("senders")

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        told = {"chain_warnings": warned.shown(request)}
        return super().changelist_view(request, told | (extra_context or {}))

    def has_change_state_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_CHANGE)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        is_paused = Network.objects.filter(pk=object_id, is_paused=True).exists()
        hidden = "pause_one" if is_paused else "resume_one"
        return [
            each
            for each in super().get_actions_detail(request, object_id)
            if not each.action_name.endswith(hidden)
        ]

    @display(description="state", label=STATE_COLOURS)
    def state(self, network: Network) -> str:
        if network.is_paused:
            return PAUSED
        if network.failing_since is not None:
            return FAILS
        if network.polled_at is None:
            return NEW
        return BEHIND if _lags(network) else GOES

    @display(description="why")
    def why(self, network: Network) -> str:
        if network.is_paused:
            return "An operator has paused it: nothing is read from it and nothing is sent to it."
        if network.failing_since is not None:
            since = timesince(network.failing_since)
            return f"Failing for {since}, {network.failures} times in a row: {network.failure or 'no answer'}"
        if _lags(network):
            return f"{network.lag} blocks are there and not read yet."
        return "-"

    @display(description="head", ordering="head_block")
    def head(self, network: Network) -> str:
        return "-" if network.head_block < 0 else str(network.head_block)

    @display(description="read up to", ordering="cursor_block")
    def cursor(self, network: Network) -> str:
        return "-" if network.cursor_block < network.start_block else str(network.cursor_block)

    @display(description="lag")
    def shown_lag(self, network: Network) -> str:
        return f"{network.lag} block{'' if network.lag == 1 else 's'}"

    @display(description="final up to")
    def final(self, network: Network) -> str:
        return "-" if network.final_block < network.start_block else str(network.final_block)

    @display(description="senders")
    def senders_shown(self, network: Network) -> str:
        found = ((whole(each.address), rows.shown(each.balance)) for each in network.senders.all())
        return format_html_join("", '<div style="min-width:13rem">{}<br>{}</div>', found) or "-"

    @display(description="addresses")
    def addresses(self, network: Network) -> str:
        found = ((name, whole(str(address))) for name, address in sorted(network.contracts.items()))
        return (
            format_html_join(
                "", '<div><strong style="display:inline-block;width:8rem">{}</strong>{}</div>', found
            )
            or "-"
        )

    @display(description="not done")
    def open_transactions(self, network: Network) -> str:
        waiting, in_flight = network.waiting or 0, network.in_flight or 0  # type: ignore[attr-defined]
        said = f"{waiting} to be sent, {in_flight} on their way"
        return link_to_list("chain_transaction", said, network__id__exact=network.pk)

    @action(description="Pause, with a reason", permissions=["change_state"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Network]) -> HttpResponse | None:
        note = (
            "Nothing is read from it and nothing is sent to it until it goes on: deposits are not credited, "
            "withdrawals wait, and tasks may expire. What was sent already may still be carried out."
        )
        return self._do(request, queryset, interventions.pause, "paused", title="Pause", note=note)

    @action(description="Go on, with a reason", permissions=["change_state"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Network]) -> HttpResponse | None:
        note = "It is read from where it was left, and what waits is sent."
        return self._do(request, queryset, interventions.resume, "followed again", title="Go on", note=note)

    @action(description="Pause", permissions=["change_state"], url_path="pause", icon="pause")
    def pause_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.pause(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_network_change", object_id)

    @action(description="Go on", permissions=["change_state"], url_path="resume", icon="play_arrow")
    def resume_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.resume(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_network_change", object_id)

    def _do(
        self,
        request: HttpRequest,
        queryset: QuerySet[Network],
        verb: Callable[..., Any],
        outcome: str,
        **asking: Any,
    ) -> HttpResponse | None:
        def one(network: Network, reason: str) -> str:
            verb(network, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{network} is {outcome}."

        return reasons.do_to_each(self, request, queryset, one, seen_by="It is kept in the audit.", **asking)


def _lags(network: Network) -> bool:
    return network.lag > settings.CHAIN_LAG_BLOCKS


def _number_of(*status: TransactionStatus) -> Subquery:
    """How many transactions of a network are so; by the index of those that are not done."""
    found = Transaction.objects.filter(network=OuterRef("pk"), status__in=status).order_by()
    return Subquery(found.values("network").annotate(number=Count("pk")).values("number"))
