"""The page that says whether the ledger and the chains agree, and why not."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils import timezone
from unfold.decorators import action, display

from chain import networks, reconciliation
from chain.admin.columns import OnChain
from chain.models import Network, Reconciliation
from clients.admin import reasons, rows
from clients.admin.rows import amount, moment
from clients.models import Client

MAY_RUN = "chain.add_reconciliation"
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
    actions_list = ("run_now",)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        shown = {"latest": [_shown(each) for each in _latest()]}
        return super().changelist_view(request, shown | (extra_context or {}))

    def has_run_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_RUN)

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
