"""Accounts: what each holds, what came in and went out, and what is reserved of it."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import ExpressionWrapper, OuterRef, QuerySet, Subquery, Sum
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from clients import holds
from clients.admin import rows
from clients.admin.grants import MAY_GIVE
from clients.admin.rows import ReadOnly, amount
from clients.api.statements import download, harmless
from clients.models import Account, AccountKind, Hold, Stripe, Transfer
from clients.models.ledger import UNBOUNDED_KINDS
from clients.statements import Entry, Statement
from marketplace import money
from marketplace.money import MoneyField

PAGE = 50
HOLDS_SHOWN = 50
_STRIPED = (
    Stripe.objects.filter(account_id=OuterRef("pk"))
    .order_by()
    .values("account_id")
    .annotate(total=Sum("balance"))
    .values("total")
)


@admin.register(Account)
class AccountAdmin(ReadOnly, ModelAdmin):
    list_display = ("name", "client", "kind", "posted", amount("held"), "free")
    list_display_links = ("name",)
    list_filter = ("kind",)
    list_select_related = ("client",)
    search_fields = ("client__username", "client__email")
    search_help_text = "A user name, an e-mail address, or an account (acc_…)."
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    fields = ("name", "client", "kind", "posted", amount("held"), "free", "created_at")
    readonly_fields = ("name", "posted", "free")
    change_form_outer_after_template = "admin/clients/statement.html"
    actions_detail = ("give_credit", "download")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        found: QuerySet[Account] = super().get_queryset(request)
        return found.annotate(striped=Subquery(_STRIPED))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Account], search_term: str
    ) -> tuple[QuerySet[Account], bool]:
        number = search_term.strip().removeprefix(Account.PREFIX)
        if number.isascii() and number.isdecimal() and len(number) <= 18:
            return queryset.filter(pk=int(number)), False
        found: tuple[QuerySet[Account], bool] = super().get_search_results(request, queryset, search_term)
        return found

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> Any:
        shown: dict[str, Any] = {}
        account = self.get_object(request, object_id)
        if account is not None and self.has_view_permission(request, account):
            shown = _statement(account, request.GET.get("p")) | _holds(account)
        return super().change_view(request, object_id, form_url, shown | (extra_context or {}))

    def has_give_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        if not request.user.has_perm(MAY_GIVE):
            return False
        return object_id is None or _owner(object_id) is not None

    @display(description="account", ordering="pk")
    def name(self, account: Account) -> str:
        return account.name

    @display(description="balance")
    def posted(self, account: Account) -> str:
        return rows.shown(_posted(account))

    @display(description="spendable")
    def free(self, account: Account) -> str:
        return "-" if account.kind in UNBOUNDED_KINDS else rows.shown(_posted(account) - account.held)

    @action(description="Give credit", permissions=["give"], url_path="give-credit", icon="redeem")
    def give_credit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect("admin:clients_client_give_credit", _owner(object_id))

    @action(description="Download (CSV)", permissions=["view"], url_path="statement.csv", icon="download")
    def download(self, request: HttpRequest, object_id: str) -> StreamingHttpResponse:
        account = self.get_object(request, object_id)
        if account is None:
            raise Http404
        lines = (_csv_line(entry) for entry in Statement([account]).all())
        return download(request, f"{account.name}.csv", _COLUMNS, lines)


def _posted(account: Account) -> int:
    striped: int | None = account.striped  # type: ignore[attr-defined]
    return account.balance + (striped or 0)


def _owner(account_id: Any) -> int | None:
    if not str(account_id).isdecimal():
        return None
    # Credit goes to what can be spent, so that the other accounts do not offer it.
    found = Account.objects.filter(pk=account_id, kind=AccountKind.SPENDABLE)
    return found.values_list("client_id", flat=True).first()


def _statement(account: Account, number: str | None) -> dict[str, Any]:
    """A page of the account's entries, each with what the account held after it."""
    statement = Statement([account])
    page = Paginator(range(statement.count()), PAGE).get_page(number)
    entries = statement.page(limit=PAGE, offset=(page.number - 1) * PAGE)
    after = _held_after(account, entries[0].transfer.pk) if entries else 0
    lines = []
    for entry in entries:
        lines.append(_line(entry, after))
        after -= entry.amount
    headers = ["when", "kind", "amount", "balance then", "other side", "reference", "memo"]
    return {"statement": {"headers": headers, "rows": lines}, "page": page}


def _held_after(account: Account, transfer_id: int) -> int:
    """What an account held after a transfer: what it holds now, less what came later. In one look at the database."""
    later = Transfer.objects.filter(pk__gt=transfer_id).order_by()
    sums = {
        "went": later.filter(source=OuterRef("pk")).values("source").annotate(total=Sum("amount")),
        "came": later.filter(destination=OuterRef("pk"))
        .values("destination")
        .annotate(total=ExpressionWrapper(Sum("amount") - Sum("fee"), MoneyField())),
    }
    if account.kind == AccountKind.FEES:
        # A constant in place of the account, since fees are of all transfers.
        sums["fees"] = (
            later.filter(fee__gt=0).annotate(one=OuterRef("pk")).values("one").annotate(total=Sum("fee"))
        )
    subqueries = {name: Subquery(found.values("total")) for name, found in sums.items()}
    row: Any = Account.objects.annotate(striped=Subquery(_STRIPED), **subqueries).get(pk=account.pk)
    came = int(row.came or 0) + int(getattr(row, "fees", None) or 0)
    return _posted(row) + int(row.went or 0) - came


def _line(entry: Entry, after: int) -> list[Any]:
    transfer = entry.transfer
    return [
        f"{transfer.at:%Y-%m-%d %H:%M:%S}",
        transfer.get_kind_display(),
        rows.shown(entry.amount),
        rows.shown(after),
        rows.link_to_account(entry.counterparty),
        rows.link("clients_transfer", transfer.pk, transfer.reference),
        transfer.memo,
    ]


def _holds(account: Account) -> dict[str, Any]:
    found: list[Hold] = list(account.holds.filter(ended_at=None).order_by("created_at")[:HOLDS_SHOWN])
    findings = holds.look(found, now=timezone.now())
    lines = [
        [
            f"{hold.created_at:%Y-%m-%d %H:%M:%S}",
            rows.shown(hold.amount - hold.captured),
            rows.link("clients_hold", hold.pk, hold.reference),
            findings[hold.reference].says + (" (overdue)" if findings[hold.reference].late else ""),
        ]
        for hold in found
    ]
    headers = ["since", "reserved", "what for", "what became of that"]
    return {"open_holds": {"headers": headers, "rows": lines}}


_COLUMNS = ("at", "kind", "amount", "fee", "currency", "counterparty", "owner", "reference", "memo")


def _csv_line(entry: Entry) -> tuple[str, ...]:
    transfer = entry.transfer
    return (
        transfer.at.isoformat(), transfer.kind, money.render(entry.amount), money.render(transfer.fee),
        settings.CURRENCY, entry.counterparty.name, harmless(str(entry.counterparty)), transfer.reference,
        harmless(transfer.memo),
    )  # fmt: skip
