"""Money on its way to wallets: approving it, refusing it, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import Case, Q, QuerySet, Sum, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from chain import withdrawals
from chain.admin.columns import (
    OnChain,
    Term,
    full,
    link_to_hold,
    link_to_movement,
    link_to_transaction,
    short,
    whole,
    wide,
)
from chain.models import OPEN_WITHDRAWALS, TransactionStatus, Withdrawal, WithdrawalStatus
from clients import terms
from clients.admin import reasons, rows
from clients.admin.rows import FreezeShown, amount, moment
from clients.models import Wallet

STATUS_COLOURS = {
    WithdrawalStatus.REQUESTED.label: "warning",
    WithdrawalStatus.APPROVED.label: "info",
    WithdrawalStatus.SENDING.label: "info",
    WithdrawalStatus.CONFIRMED.label: "success",
    WithdrawalStatus.REFUSED.label: "danger",
    WithdrawalStatus.CANCELLED.label: "info",
    WithdrawalStatus.FAILED.label: "danger",
}
MAY_DECIDE = "chain.change_withdrawal"
A_DAY = timedelta(days=1)
_LEFT = (WithdrawalStatus.REFUSED, WithdrawalStatus.CANCELLED, WithdrawalStatus.FAILED)


@admin.register(Withdrawal)
class WithdrawalAdmin(OnChain, FreezeShown):
    """Those that wait for an operator come first, the oldest on top."""

    list_display = (
        *("number", moment("requested_at"), "client", amount("amount"), "network"),
        short("address", "wallet"),
        *("shown_status", "why", "decided"),
    )
    list_display_links = ("number",)
    list_filter = ("network", "status", ("client", AutocompleteSelectFilter), "requested_at")
    list_select_related = ("network", "client", "decided_by")
    list_before_template = change_form_outer_before_template = "admin/chain/withdrawals_frozen.html"
    search_fields = ("address",)
    search_help_text = "Its number, its wallet, a transaction's hash, or a user name: all of it."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("number", "client", amount("amount"), "account_kind", "network"),
                    full("address", "wallet"),
                    *("shown_status", "reason", "requested_at", "decided", "ended_at"),
                )
            },
        ),
        ("To decide by", {"fields": ("linked", "lately")}),
        (
            "On the chain",
            {"fields": ("shown_transaction", "shown_hash", full("payment_reference"), "is_claimable")},
        ),
        ("In the ledger", {"fields": ("held", "movement")}),
    )
    readonly_fields = (
        *("shown_status", "decided", "linked", "lately", "shown_transaction", "shown_hash"),
        *("held", "movement"),
    )
    actions = ("approve", "refuse")
    actions_detail = ("approve_one", "refuse_one")

    @staticmethod
    def finds(term: Term) -> Q:
        return (
            term.number_in("pk")
            | term.address_in("address")
            | term.sent_in("transaction")
            | term.hash_in("payment_reference")
            | term.person_in("client")
        )

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        waits = When(status=WithdrawalStatus.REQUESTED, then="pk")
        return (Case(waits).asc(nulls_last=True), "-pk")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Withdrawal]:
        found: QuerySet[Withdrawal] = super().get_queryset(request)
        return found.select_related("network", "client", "decided_by", "transaction")

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_DECIDE)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        """What goes with the state that it is in; the verbs check it once more."""
        row = Withdrawal.objects.filter(pk=object_id).select_related("transaction").first()
        able = () if row is None else _possible(row)
        return [
            each for each in super().get_actions_detail(request, object_id) if each.action_name.endswith(able)
        ]

    # --- What is shown ------------------------------------------------------------------------------------

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, withdrawal: Withdrawal) -> str:
        return str(WithdrawalStatus(withdrawal.status).label)

    @display(description="why")
    def why(self, withdrawal: Withdrawal) -> str:
        return wide(withdrawal.reason)

    @display(description="decided", ordering="decided_at")
    def decided(self, withdrawal: Withdrawal) -> str:
        if withdrawal.decided_at is None:
            return "-"
        return f"{withdrawal.decided_at:%Y-%m-%d %H:%M} by {withdrawal.decided_by or 'nobody: below the threshold'}"

    @display(description="wallet linked")
    @rows.once
    def linked(self, withdrawal: Withdrawal) -> str:
        found = Wallet.objects.filter(address=withdrawal.address.lower()).first()
        if found is None:
            return "to nobody any more"
        who = "" if found.client_id == withdrawal.client_id else " to somebody else"
        return f"{found.linked_at:%Y-%m-%d %H:%M}{who}"

    @display(description="withdrawn in the 24 hours before, this one included")
    @rows.once
    def lately(self, withdrawal: Withdrawal) -> str:
        at = withdrawal.requested_at
        found = Withdrawal.objects.filter(client=withdrawal.client, requested_at__range=(at - A_DAY, at))
        total = found.exclude(status__in=_LEFT).aggregate(total=Sum("amount"))["total"]
        return rows.shown(total or 0)

    @display(description="transaction")
    def shown_transaction(self, withdrawal: Withdrawal) -> str:
        return link_to_transaction(withdrawal.transaction)

    @display(description="hash")
    def shown_hash(self, withdrawal: Withdrawal) -> str:
        return whole(withdrawal.transaction.hash if withdrawal.transaction else "")

    @display(description="held")
    @rows.once
    def held(self, withdrawal: Withdrawal) -> str:
        return link_to_hold(withdrawal.reference)

    @display(description="moved")
    @rows.once
    def movement(self, withdrawal: Withdrawal) -> str:
        return link_to_movement(withdrawal.reference)

    # --- What is done -------------------------------------------------------------------------------------

    @action(description="Approve, with a note", permissions=["decide"])
    def approve(self, request: HttpRequest, queryset: QuerySet[Withdrawal]) -> HttpResponse | None:
        if terms.current().payouts_frozen:
            self.message_user(request, withdrawals.WithdrawalsFrozen.message, messages.ERROR)
            return None
        note = "It is sent to the chain at once. What is sent cannot be taken back."
        return self._do(
            request, queryset, withdrawals.approve, title="Approve", note=note,
            seen_by="It is kept in the audit.",
        )  # fmt: skip

    @action(description="Refuse, with a reason", permissions=["decide"])
    def refuse(self, request: HttpRequest, queryset: QuerySet[Withdrawal]) -> HttpResponse | None:
        note = "Nothing is sent, and the money is its owner's to use again."
        return self._do(
            request, queryset, withdrawals.refuse, title="Refuse", note=note, seen_by="Its owner reads it."
        )

    @action(description="Approve", permissions=["decide"], url_path="approve", icon="check")
    def approve_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.approve(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_withdrawal_change", object_id)

    @action(
        description="Refuse", permissions=["decide"], url_path="refuse", icon="block",
        variant=ActionVariant.DANGER,
    )  # fmt: skip
    def refuse_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.refuse(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_withdrawal_change", object_id)

    def _do(
        self,
        request: HttpRequest,
        queryset: QuerySet[Withdrawal],
        verb: Callable[..., Withdrawal],
        **asking: Any,
    ) -> HttpResponse | None:
        def one(row: Withdrawal, reason: str) -> str:
            after = verb(row, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{after}: {rows.shown(after.amount)} for {after.client}: {after.get_status_display()}."

        return reasons.do_to_each(self, request, queryset, one, describe=_described, **asking)


def _possible(row: Withdrawal) -> tuple[str, ...]:
    """The ends of the names of what can be done about a withdrawal now."""
    if row.status == WithdrawalStatus.REQUESTED:
        return ("approve_one", "refuse_one")
    sent = row.transaction is not None and row.transaction.status != TransactionStatus.QUEUED
    return ("refuse_one",) if row.status in OPEN_WITHDRAWALS and not sent else ()


def _described(row: Withdrawal) -> str:
    return f"{row}: {rows.shown(row.amount)} for {row.client}, to {row.address} on {row.network}"
