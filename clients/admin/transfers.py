"""What moved, and giving it back."""

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from clients import refunds
from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly, amount, moment
from clients.models import Account, Client, Transfer, TransferKind
from marketplace.errors import MarketplaceError

KIND_COLOURS = {
    TransferKind.REVERSAL.label: "warning",
    TransferKind.GRANT.label: "info",
    TransferKind.PAYOUT.label: "info",
    TransferKind.DEPOSIT.label: "success",
}
MAY_REVERSE = "clients.add_transfer"


@admin.register(Transfer)
class TransferAdmin(ReadOnly, ModelAdmin):
    """What moved, newest first. Made for millions of rows: nothing here counts or scans them all."""

    list_display = (
        *("reference", moment("at"), "shown_kind", "source", "destination", amount("amount"), amount("fee")),
        *("memo", "is_given_back"),
    )
    list_display_links = ("reference",)
    list_filter = ("kind", "at")
    list_filter_submit = True
    list_select_related = ("source__client", "destination__client")
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("reference",)
    search_help_text = "The beginning of a reference, an account (acc_…), or a user name: all of it."
    fields = (
        *("reference", "shown_kind", "at", "payer", "payee", amount("amount"), amount("fee")),
        *("arrived", "memo", "by", "what_for", "original", "given_back"),
    )
    readonly_fields = ("shown_kind", "payer", "payee", "arrived", "what_for", "original", "given_back")
    actions = ("reverse",)
    actions_detail = ("reverse_one",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transfer]:
        found: QuerySet[Transfer] = super().get_queryset(request)
        return found.select_related("source__client", "destination__client").prefetch_related("reversals")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Transfer], search_term: str
    ) -> tuple[QuerySet[Transfer], bool]:
        term = search_term.strip()
        return (queryset.filter(_matches(term)) if term else queryset), False

    def has_reverse_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_REVERSE)

    @display(description="kind", ordering="kind", label=KIND_COLOURS)
    def shown_kind(self, transfer: Transfer) -> str:
        return str(TransferKind(transfer.kind).label)

    @display(description="from")
    def payer(self, transfer: Transfer) -> str:
        return rows.link_to_account(transfer.source)

    @display(description="to")
    def payee(self, transfer: Transfer) -> str:
        return rows.link_to_account(transfer.destination)

    @display(description="arrived there, after the fee")
    def arrived(self, transfer: Transfer) -> str:
        return rows.shown(transfer.amount - transfer.fee)

    @display(description="what for")
    def what_for(self, transfer: Transfer) -> str:
        return rows.link_to_purpose(transfer.reference)

    @display(description="gives back")
    def original(self, transfer: Transfer) -> str:
        if transfer.reverses is None:
            return "-"
        return rows.link("clients_transfer", transfer.reverses_id, transfer.reverses)

    @display(description="given back", label={"given back": "warning"})
    def is_given_back(self, transfer: Transfer) -> str | None:
        return "given back" if transfer.reversals.all() else None

    @display(description="given back by")
    def given_back(self, transfer: Transfer) -> str:
        found = list(transfer.reversals.all())
        return rows.link("clients_transfer", found[0].pk, found[0]) if found else "-"

    @action(description="Give back, with a reason", permissions=["reverse"])
    def reverse(self, request: HttpRequest, queryset: QuerySet[Transfer]) -> HttpResponse | None:
        return give_back(self, request, queryset)

    @action(description="Give back", permissions=["reverse"], url_path="give-back", icon="undo")
    def reverse_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = give_back(self, request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:clients_transfer_change", object_id)


def give_back(
    model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[Transfer]
) -> HttpResponse | None:
    """Ask why, then reverse these transfers; where somebody no longer has the money, offer to give credit instead."""
    reason = reasons.ask(
        request,
        model_admin,
        queryset,
        title="Give back",
        note="What was paid goes back to who paid it, the fee included, by further transfers. Nothing is deleted.",
        seen_by="Both see it in their statements.",
        describe=lambda each: f"{each}: {rows.shown(each.amount)} from {each.source} to {each.destination}",
    )
    if isinstance(reason, HttpResponse):
        return reason
    by = rows.operator(request)
    for transfer in queryset:
        verb = partial(refunds.reverse, transfer, by=by, reason=reason)
        tell_of_reversal(model_admin, request, transfer, verb)
    return None


def tell_of_reversal(
    model_admin: ModelAdmin, request: HttpRequest, row: Any, verb: Callable[[], Transfer]
) -> None:
    """Reverse what paid for a row, and tell the operator what became of it."""
    try:
        original = verb().reverses
    except refunds.PayeeHasTooLittle as error:
        model_admin.message_user(request, _instead(row, error), messages.ERROR)
    except MarketplaceError as error:
        model_admin.message_user(request, f"{row}: {error.message}", messages.ERROR)
    else:
        assert original is not None
        given = f"{row}: {rows.shown(original.amount)} went back to {original.source}."
        model_admin.message_user(request, given, messages.SUCCESS)


def _instead(row: Any, error: refunds.PayeeHasTooLittle) -> str:
    """What is wrong, with a link to what can be done instead."""
    payer = error.original.source.client
    if payer is None:
        return f"{row}: {error.message}"
    return format_html(
        '{}: {} <a href="{}?instead_of={}" class="underline">Give {} to {}</a>',
        row,
        error.message,
        reverse("admin:clients_client_give_credit", args=[payer.pk]),
        error.original.pk,
        rows.shown(error.original.amount),
        payer,
    )


def _matches(term: str) -> Q:
    """What an index finds at once."""
    number = term.removeprefix(Account.PREFIX)
    if number.isascii() and number.isdecimal() and len(number) <= 18:
        return Q(source=int(number)) | Q(destination=int(number))
    people = list(Client.objects.filter(Q(username__iexact=term) | Q(email__iexact=term))[:10])
    if people:
        accounts = list(Account.objects.filter(client__in=people).values_list("pk", flat=True))
        return Q(source__in=accounts) | Q(destination__in=accounts)
    return Q(reference__startswith=term)
