"""Money that came to the Treasury: whose it is, whether it is credited, and why not."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Case, Q, QuerySet, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from chain import deposits
from chain.admin.columns import OnChain, Term, block, full, link_to_movement, of_any_network, short, wide
from chain.models import Deposit, DepositStatus
from clients.admin import reasons, rows
from clients.admin.rows import amount, moment
from clients.models import Account, Client, Wallet

STATUS_COLOURS = {
    DepositStatus.SEEN.label: "info",
    DepositStatus.CREDITED.label: "success",
    DepositStatus.UNCLAIMED.label: "warning",
    DepositStatus.ORPHANED.label: "danger",
    DepositStatus.REVERSED.label: "danger",
}
MAY_ASSIGN = "chain.change_deposit"


class OwnerForm(reasons.ReasonForm):
    client = forms.CharField(
        max_length=254,
        label="Whose it is",
        widget=UnfoldAdminTextInputWidget,
        help_text="A user name, an e-mail address, or an account (acc_…).",
    )
    field_order = ("client", "reason")

    def clean_client(self) -> Client:
        term = self.cleaned_data["client"].strip()
        number = term.removeprefix(Account.PREFIX)
        people = Q(username=term) | Q(email__iexact=term)
        if term != number and number.isascii() and number.isdecimal() and len(number) <= 18:
            people = Q(accounts__pk=int(number))
        found = list(Client.objects.filter(people)[:2])
        if len(found) != 1:
            raise forms.ValidationError("There is no such client." if not found else "There are several.")
        return found[0]


@admin.register(Deposit)
class DepositAdmin(OnChain):
    """Those that nobody knows the owner of come first, the oldest on top."""

    list_display = (
        *("id", moment("at"), "network", amount("amount"), short("sender"), "client", "shown_status", "why"),
        *(block, short("transaction_hash", "transaction")),
    )
    list_display_links = ("id",)
    list_filter = ("network", "status", ("client", AutocompleteSelectFilter), "at")
    list_select_related = ("network", "client")
    search_fields = ("sender",)
    search_help_text = "Its number, who sent it, a transaction's hash, or a user name: all of it."
    fieldsets = (
        (None, {"fields": ("id", "client", amount("amount"), "shown_status", "reason", "movement")}),
        (
            "On the chain",
            {
                "fields": (
                    *("network", block, "log_index", full("transaction_hash", "transaction"), "ordinal"),
                    *("at", full("sender"), "wallet", "named"),
                )
            },
        ),
        ("What became of it", {"fields": ("credited_at", "orphaned_at", "credits")}),
    )
    readonly_fields = ("shown_status", "movement", "wallet", "named")
    actions_detail = ("assign",)

    @staticmethod
    def finds(term: Term) -> Q:
        return (
            term.number_in("pk")
            | term.address_in("sender")
            | of_any_network(term.hash_in("transaction_hash"))
            | term.person_in("client")
        )

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        waits = When(status__in=(DepositStatus.UNCLAIMED, DepositStatus.ORPHANED), then="pk")
        return (Case(waits).asc(nulls_last=True), "-pk")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deposit]:
        found: QuerySet[Deposit] = super().get_queryset(request)
        return found.select_related("network", "client")

    def has_assign_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_ASSIGN)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        found = super().get_actions_detail(request, object_id)
        is_unclaimed = Deposit.objects.filter(pk=object_id, status=DepositStatus.UNCLAIMED).exists()
        return found if is_unclaimed else []

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, deposit: Deposit) -> str:
        return str(DepositStatus(deposit.status).label)

    @display(description="why")
    def why(self, deposit: Deposit) -> str:
        return wide(deposit.reason)

    @display(description="in the ledger")
    @rows.once
    def movement(self, deposit: Deposit) -> str:
        return link_to_movement(deposit.reference)

    @display(description="the sender's wallet is linked to")
    @rows.once
    def wallet(self, deposit: Deposit) -> str:
        found = Wallet.objects.filter(address=deposit.sender.lower()).select_related("client").first()
        return rows.link("clients_client", found.client_id, found.client) if found else "nobody"

    @display(description="account that it names")
    @rows.once
    def named(self, deposit: Deposit) -> str:
        number = int(deposit.account_number)
        if not number:
            return "none: the one of the sender's wallet"
        found = Account.objects.filter(pk=number).first() if number < 2**63 else None
        return rows.link_to_account(found) if found else f"{number}: there is no such account"

    @action(description="Credit it to somebody", permissions=["assign"], url_path="assign", icon="person_add")
    def assign(self, request: HttpRequest, object_id: str) -> HttpResponse:
        chosen = self.get_queryset(request).filter(pk=object_id)
        form = OwnerForm(request.POST if "reason" in request.POST else None)
        form.fields["reason"].help_text = "It is kept in the audit."
        if not form.is_bound or not form.is_valid():
            return reasons.fill(
                request, self, form, title="Credit it to somebody", objects=chosen, describe=_described,
                note="Only where it is sure whose it is: it can be spent at once.",
            )  # fmt: skip
        owner, reason = form.cleaned_data["client"], form.cleaned_data["reason"]

        def verb(deposit: Deposit) -> str:
            deposits.assign(
                deposit, client=owner, by=rows.operator(request), reason=reason, now=timezone.now()
            )
            return f"{deposit}: {rows.shown(deposit.amount)} for {owner}."

        rows.do_to_each(self, request, chosen, verb)
        return redirect("admin:chain_deposit_change", object_id)


def _described(deposit: Deposit) -> str:
    return f"{deposit}: {rows.shown(deposit.amount)} from {deposit.sender} on {deposit.network}"
