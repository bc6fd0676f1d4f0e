"""Earnings that providers want to have: paid by hand, or refused."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Case, QuerySet, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import format_html
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display

from clients import payouts, terms
from clients.admin import reasons, rows
from clients.admin.rows import FreezeShown, ReadOnly, amount, moment
from clients.models import Payout, PayoutStatus, Transfer

STATUS_COLOURS = {
    PayoutStatus.REQUESTED.label: "warning",
    PayoutStatus.PAID.label: "success",
    PayoutStatus.REFUSED.label: "danger",
    PayoutStatus.CANCELLED.label: "info",
}
MAY_DECIDE = "clients.change_payout"


@admin.register(Payout)
class PayoutAdmin(ReadOnly, FreezeShown):
    """Those that wait come first, the oldest on top."""

    list_display = (
        *(moment("requested_at"), "client", amount("amount"), "where_to", "shown_status", "reason"),
        "decided",
    )
    list_filter = ("status", ("client", AutocompleteSelectFilter), "requested_at")
    list_filter_submit = True
    list_select_related = ("client", "decided_by")
    list_before_template = change_form_outer_before_template = "admin/clients/payouts_frozen.html"
    search_fields = ("client__username", "client__email", "destination", "reason")
    fields = (
        *("id", "client", amount("amount"), "destination", "shown_status", "requested_at"),
        *("reason", "decided", "movement"),
    )
    readonly_fields = ("shown_status", "decided", "movement")
    actions = ("pay", "refuse")
    actions_detail = ("pay_one", "refuse_one")

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        waits = When(status=PayoutStatus.REQUESTED, then="pk")
        return (Case(waits).asc(nulls_last=True), "-pk")

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_DECIDE)

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, payout: Payout) -> str:
        return str(PayoutStatus(payout.status).label)

    @display(description="destination", ordering="destination")
    def where_to(self, payout: Payout) -> str:
        # Addresses are long words.
        style = "display: inline-block; min-width: 12rem; overflow-wrap: anywhere"
        return format_html('<span style="{}">{}</span>', style, payout.destination)

    @display(description="decided", ordering="decided_at")
    def decided(self, payout: Payout) -> str:
        if payout.decided_at is None:
            return "-"
        by = payout.decided_by or "its owner"
        return f"{payout.decided_at:%Y-%m-%d %H:%M} by {by}"

    @display(description="in the ledger")
    @rows.once
    def movement(self, payout: Payout) -> str:
        if payout.status == PayoutStatus.REQUESTED:
            return rows.link("clients_hold", payout.reference, f"held as {payout.reference}")
        found = Transfer.objects.filter(reference=payout.reference).first()
        return rows.link("clients_transfer", found.pk, found) if found else "-"

    @action(description="Mark as paid, with a note", permissions=["decide"])
    def pay(self, request: HttpRequest, queryset: QuerySet[Payout]) -> HttpResponse | None:
        if terms.current().payouts_frozen:
            self.message_user(request, payouts.PayoutsFrozen.message, messages.ERROR)
            return None
        return self._decide(
            request,
            queryset,
            payouts.pay,
            told_as="note",
            title="Mark as paid",
            note="Only after it was paid: its money leaves the books. Say how, such as by the bank's reference.",
        )

    @action(description="Refuse, with a reason", permissions=["decide"])
    def refuse(self, request: HttpRequest, queryset: QuerySet[Payout]) -> HttpResponse | None:
        return self._decide(
            request,
            queryset,
            payouts.refuse,
            told_as="reason",
            title="Refuse",
            note="The money is the provider's to use again.",
        )

    @action(description="Mark as paid", permissions=["decide"], url_path="pay", icon="payments")
    def pay_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.pay(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:clients_payout_change", object_id)

    @action(description="Refuse", permissions=["decide"], url_path="refuse", icon="block")
    def refuse_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.refuse(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:clients_payout_change", object_id)

    def _decide(
        self,
        request: HttpRequest,
        queryset: QuerySet[Payout],
        decide: Callable[..., Payout],
        *,
        told_as: str,
        title: str,
        note: str,
    ) -> HttpResponse | None:
        def verb(payout: Payout, reason: str) -> str:
            by = rows.operator(request)
            decided = decide(payout, by=by, now=timezone.now(), **{told_as: reason})
            return (
                f"{payout}: {rows.shown(payout.amount)} for {payout.client}: {decided.get_status_display()}."
            )

        return reasons.do_to_each(
            self,
            request,
            queryset,
            verb,
            title=title,
            note=note,
            seen_by="The provider reads it.",
            describe=lambda each: (
                f"{each}: {rows.shown(each.amount)} for {each.client}, to {each.destination}"
            ),
        )
