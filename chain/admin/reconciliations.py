"""The page that says whether the ledger and the chains agree, and why not."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils import timezone
from unfold.decorators import action, display

from chain import acknowledgements, networks, reconciliation
from chain.admin.columns import OnChain
from chain.models import Log, Network, Reconciliation
from clients.admin import reasons, rows
from clients.admin.rows import amount, moment
from clients.models import Client

MAY_RUN = "chain.add_reconciliation"
MAY_ACKNOWLEDGE = "chain.change_reconciliation"
AMOUNTS = {
    "ledger": "In the ledger",
    "chain": "On the chain",
    "difference": "Difference",
    "unexplained": "Unexplained",
}


@admin.register(Reconciliation)
class ReconciliationAdmin(OnChain):
    """The latest of each network line by line, and below it those before."""

    list_display = ("id", moment("at"), "network", "block_number", "balanced", amount("unexplained"), "by")
    list_display_links = ("id",)
    list_filter = ("network", "is_balanced", "at")
    list_select_related = ("network", "by")
    list_before_template = "admin/chain/reconciliation.html"
    list_per_page = 25
    fields = ("at", "network", "block_number", "balanced", amount("unexplained"), "by", "compared")
    readonly_fields = ("balanced", "compared")
    actions_list = ("run_now", "acknowledge_payments")
    actions_detail = ("acknowledge_difference",)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        shown = {"latest": [_shown(each) for each in _latest()]}
        return super().changelist_view(request, shown | (extra_context or {}))

    def has_run_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_RUN)

    def has_acknowledge_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_ACKNOWLEDGE)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        row = Reconciliation.objects.filter(pk=object_id).first()
        is_off = row is not None and bool(acknowledgements.unexplained(row))
        return super().get_actions_detail(request, object_id) if is_off else []

    @display(description="result", label={"adds up": "success", "does not add up": "danger"})
    def balanced(self, row: Reconciliation) -> str:
        return "adds up" if row.is_balanced else "does not add up"

    @display(description="compared")
    def compared(self, row: Reconciliation) -> str:
        return render_to_string("admin/chain/comparison.html", {"lines": _lines(row)})

    @action(description="Run now", permissions=["run"], url_path="run", icon="sync")
    def run_now(self, request: HttpRequest) -> HttpResponse:
        followed = networks.followed()
        if request.method != "POST":
            note = "Compares the ledger with these chains, as both are now."
            return reasons.fill(request, self, forms.Form(), title="Run now", note=note, objects=followed)
        rows.do_to_each(self, request, followed, lambda network: _run(network, rows.operator(request)))
        return redirect("admin:chain_reconciliation_changelist")

    @action(
        description="Acknowledge payments",
        permissions=["acknowledge"],
        url_path="acknowledge-payments",
        icon="fact_check",
    )
    def acknowledge_payments(self, request: HttpRequest) -> HttpResponse:
        def one(payment: Log, reason: str) -> str:
            reference = payment.arguments["reference"]
            acknowledgements.acknowledge_payment(
                payment.network, reference, by=rows.operator(request), reason=reason
            )
            return f"The payment with {acknowledgements.described(payment)} is acknowledged."

        found = reasons.do_to_each(
            self, request, _unknown(request), one, title="Acknowledge", seen_by="It is kept in the audit.",
            describe=lambda payment: f"{payment.network}: {acknowledgements.described(payment)}",
            note="Payments of the Treasury that no withdrawal here has asked for. Until all are acknowledged, "
            "nothing is withdrawn. Put the ledger right first: whoever was paid may have the money here as well.",
        )  # fmt: skip
        return found or redirect("admin:chain_reconciliation_changelist")

    @action(
        description="Acknowledge the difference",
        permissions=["acknowledge"],
        url_path="acknowledge",
        icon="fact_check",
    )
    def acknowledge_difference(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def one(row: Reconciliation, reason: str) -> str:
            acknowledgements.acknowledge_difference(row, by=rows.operator(request), reason=reason)
            return (
                f"{row}: what nothing explains is acknowledged. The next comparison counts it as explained."
            )

        found = reasons.do_to_each(
            self, request, self.get_queryset(request).filter(pk=object_id), one, title="Acknowledge",
            seen_by="It is kept in the audit, and stands beside the amount in later comparisons.",
            describe=_difference,
            note="Later comparisons count this as explained, so that a new difference stands out. Nothing moves.",
        )  # fmt: skip
        return found or redirect("admin:chain_reconciliation_changelist")


def _unknown(request: HttpRequest) -> QuerySet[Log]:
    """Payments that the books do not know; of these the ones that an operator was shown."""
    unknown = [row.pk for each in Network.objects.all() for row in acknowledgements.unknown_payments(each)]
    found = Log.objects.filter(pk__in=unknown).select_related("network")
    if request.method != "POST":
        return found
    shown = [each for each in request.POST.getlist(ACTION_CHECKBOX_NAME) if each.isdecimal()]
    return found.filter(pk__in=shown)


def _difference(row: Reconciliation) -> str:
    lines = acknowledgements.unexplained(row).items()
    return f"{row}: " + "; ".join(f"{name}: {rows.shown(amount)}" for name, amount in lines)


def _run(network: Network, by: Client) -> str:
    found = reconciliation.run(network, now=timezone.now(), by=by)
    said = "adds up" if found.is_balanced else f"does not add up: {_said(found)}"
    return f"{network} at block {found.block_number} {said}."


def _latest() -> QuerySet[Reconciliation]:
    """The last of each network."""
    its = Reconciliation.objects.filter(network=OuterRef("pk")).order_by("-pk")
    last = Network.objects.annotate(last=Subquery(its.values("pk")[:1])).values("last")
    return Reconciliation.objects.filter(pk__in=last).select_related("network", "by").order_by("network_id")


def _shown(row: Reconciliation) -> dict[str, Any]:
    return {"row": row, "said": _said(row), "lines": _lines(row)}


def _lines(row: Reconciliation) -> list[dict[str, Any]]:
    return [
        {
            "says": line["says"],
            "amounts": [(words, rows.shown(int(line[name]))) for name, words in AMOUNTS.items()],
            "explained": [(each["says"], rows.shown(int(each["amount"]))) for each in line["explained"]],
            "wrong": line["wrong"],
        }
        for line in row.lines
    ]


def _said(row: Reconciliation) -> str:
    """What is wrong, in a few words; empty where nothing is."""
    if row.is_balanced:
        return ""
    if row.unexplained:
        return f"nothing explains {rows.shown(row.unexplained)}"
    return "there are rows that should not be so"
