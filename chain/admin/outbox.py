"""What is sent to chains: what for, with which nonce and fees, and what became of it. Never what was signed itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.admin import TabularInline
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from chain import outbox
from chain.admin.columns import (
    OnChain,
    Term,
    block,
    full,
    gwei,
    link_to_transaction,
    links_to_transactions,
    of_any_network,
    short,
    whole,
    wide,
)
from chain.models import (
    DONE,
    Fulfilment,
    PublishedRoot,
    Purpose,
    Service,
    Signed,
    SourceOrder,
    TaskOrder,
    Transaction,
    TransactionStatus,
    Withdrawal,
)
from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly, amount, moment
from clients.models import Client

STATUS_COLOURS = {
    TransactionStatus.QUEUED.label: "info",
    TransactionStatus.SIGNED.label: "info",
    TransactionStatus.SENT.label: "warning",
    TransactionStatus.MINED.label: "info",
    TransactionStatus.CONFIRMED.label: "success",
    TransactionStatus.REVERTED.label: "danger",
    TransactionStatus.REFUSED.label: "danger",
    TransactionStatus.CANCELLED.label: "warning",
}
MAY_CHANGE = "chain.change_transaction"


def _fee(name: str, description: str) -> Callable[[Any], str]:
    @display(description=description)
    def column(row: Any) -> str:
        return gwei(getattr(row, name))

    column.__name__ = f"gwei_{name}"
    return column


class SignedInline(ReadOnly, TabularInline):
    """The forms that were signed: of these one can be carried out. What was signed stays in the database."""

    model = Signed
    verbose_name_plural = "signed forms"
    hide_title = True
    fields = readonly_fields = (
        *("nonce", full("hash"), _fee("max_fee", "at most, per gas")),
        *(_fee("priority_fee", "tip, per gas"), "signed_at", "sent_at"),
    )
    extra = 0
    per_page = 20
    ordering = ("-id",)
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Signed]:
        found: QuerySet[Signed] = super().get_queryset(request)
        return found.defer("raw")


@admin.register(Transaction)
class TransactionAdmin(OnChain):
    list_display = (
        *("reference", "network", "shown_purpose", "shown_status", "why", "nonce", short("hash")),
        *("tries", moment("created_at"), moment("sent_at"), "block_number", "cost"),
    )
    list_filter = ("network", "status", "purpose", "created_at")
    list_select_related = ("network",)
    search_fields = ("reference",)
    search_help_text = (
        "A reference, an address (sender's or receiver's), a nonce, or a hash of any of its forms."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("reference", "what_for", "shown_purpose", "network", "shown_status", "reason"),
                    *("created_at", "sent_at", "mined_at", "ended_at"),
                )
            },
        ),
        (
            "What is sent",
            {"fields": (full("sender"), full("to"), amount("value"), "nonce", "shown_data")},
        ),
        (
            "On the chain",
            {
                "fields": (
                    *(full("hash"), block, full("block_hash"), "gas", "gas_used"),
                    *(_fee("gas_price", "paid, per gas"), "cost"),
                )
            },
        ),
        ("When", {"fields": ("tries", "next_try_at", "expires_at", "waits_for", "followed_by")}),
    )
    readonly_fields = (
        *("what_for", "shown_purpose", "shown_status", "shown_data", "cost", "waits_for", "followed_by"),
    )
    inlines = (SignedInline,)
    actions = ("retry", "bump", "cancel")
    actions_detail = ("retry_one", "bump_one", "cancel_one")

    @staticmethod
    def finds(term: Term) -> Q:
        if term.hash:
            return Q(hash=term.hash) | Q(pk__in=Signed.objects.filter(hash=term.hash).values("transaction"))
        if term.address:
            return of_any_network(term.address_in("sender", "to"))
        return Q(reference__startswith=term.text) | of_any_network(term.number_in("nonce"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transaction]:
        found: QuerySet[Transaction] = super().get_queryset(request)
        return found.select_related("network", "after")

    def has_intervene_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_CHANGE)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        """What goes with the state that it is in; the verbs check it once more."""
        found = Transaction.objects.filter(pk=object_id).first()
        able = () if found is None else _possible(found)
        return [
            each for each in super().get_actions_detail(request, object_id) if each.action_name.endswith(able)
        ]

    # --- What is shown ------------------------------------------------------------------------------------

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, row: Transaction) -> str:
        return str(TransactionStatus(row.status).label)

    @display(description="purpose", ordering="purpose")
    def shown_purpose(self, row: Transaction) -> str:
        return str(Purpose(row.purpose).label)

    @display(description="why")
    def why(self, row: Transaction) -> str:
        return wide(row.reason)

    @display(description="what for")
    @rows.once
    def what_for(self, row: Transaction) -> str:
        return _what_for(row)

    @display(description="data")
    def shown_data(self, row: Transaction) -> str:
        return whole(row.data)

    @display(description="gas paid for")
    def cost(self, row: Transaction) -> str:
        if row.gas_used is None or row.gas_price is None:
            return "-"
        return rows.shown(row.gas_used * row.gas_price)

    @display(description="not before")
    def waits_for(self, row: Transaction) -> str:
        return link_to_transaction(row.after)

    @display(description="what waits for it")
    @rows.once
    def followed_by(self, row: Transaction) -> str:
        return links_to_transactions(row.followers.order_by("pk")[:20])

    # --- What is done -------------------------------------------------------------------------------------

    @action(description="Try again, with a reason", permissions=["intervene"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Transaction]) -> HttpResponse | None:
        note = (
            "What waits is tried at once. What was refused, reverted or taken back is put back to be sent, with a "
            "nonce of its own. What was carried out is never sent again."
        )
        return self._do(request, queryset, outbox.retry, title="Try again", note=note)

    @action(description="Raise the fees, with a reason", permissions=["intervene"])
    def bump(self, request: HttpRequest, queryset: QuerySet[Transaction]) -> HttpResponse | None:
        note = (
            "It is signed once more with higher fees and the same nonce, and replaces what was sent: only one of the "
            "two can be carried out. The fees stay below the limit of the settings."
        )
        return self._do(request, queryset, outbox.bump, title="Raise the fees", note=note)

    @action(description="Take back, with a reason", permissions=["intervene"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Transaction]) -> HttpResponse | None:
        note = "Only what is not signed yet. What waits for it is refused too."
        return self._do(request, queryset, outbox.cancel, title="Take back", note=note)

    @action(description="Try again", permissions=["intervene"], url_path="retry", icon="replay")
    def retry_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._one(request, object_id, self.retry)

    @action(description="Raise the fees", permissions=["intervene"], url_path="bump", icon="trending_up")
    def bump_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._one(request, object_id, self.bump)

    @action(
        description="Take back", permissions=["intervene"], url_path="cancel", icon="cancel",
        variant=ActionVariant.DANGER,
    )  # fmt: skip
    def cancel_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._one(request, object_id, self.cancel)

    def _one(
        self, request: HttpRequest, object_id: str, done: Callable[..., HttpResponse | None]
    ) -> HttpResponse:
        asked = done(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_transaction_change", object_id)

    def _do(
        self,
        request: HttpRequest,
        queryset: QuerySet[Transaction],
        verb: Callable[[Transaction, Client, str], Transaction],
        **asking: Any,
    ) -> HttpResponse | None:
        def one(row: Transaction, reason: str) -> str:
            after = verb(row, rows.operator(request), reason)
            return f"{after}: {after.get_status_display()}."

        return reasons.do_to_each(
            self, request, queryset, one, seen_by="It is kept in the audit.",
            describe=lambda row: f"{row} on {row.network}: {row.get_status_display()}", **asking,
        )  # fmt: skip


def _possible(row: Transaction) -> tuple[str, ...]:
    """The ends of the names of what can be done about a transaction now."""
    if row.status == TransactionStatus.QUEUED:
        return ("retry_one", "cancel_one")
    if row.status in (TransactionStatus.SIGNED, TransactionStatus.SENT):
        return ("retry_one", "bump_one")
    if row.status in DONE and row.status != TransactionStatus.CONFIRMED:
        return ("retry_one",)
    return ()


# Which rows a transaction is of, by the admin's page: model and columns.
_WANTED_BY: dict[str, tuple[type[Model], tuple[str, ...]]] = {
    "chain_withdrawal": (Withdrawal, ("transaction",)),
    "chain_fulfilment": (Fulfilment, ("attempt", "answer")),
    "chain_taskorder": (TaskOrder, ("deposit", "publication", "confirmation", "cancellation")),
    "chain_sourceorder": (SourceOrder, ("publication",)),
    "chain_service": (Service, ("registration",)),
    "chain_publishedroot": (PublishedRoot, ("transaction",)),
}
_PAGES = {
    Purpose.WITHDRAWAL: ("chain_withdrawal",),
    Purpose.ATTEMPT: ("chain_fulfilment",),
    Purpose.RESPONSE: ("chain_fulfilment",),
    Purpose.PUBLISH_TASK: ("chain_taskorder",),
    Purpose.CONFIRM: ("chain_taskorder",),
    Purpose.CANCEL_TASK: ("chain_taskorder",),
    Purpose.VAULT_DEPOSIT: ("chain_taskorder", "chain_service"),
    Purpose.VAULT_LOCK: ("chain_service",),
    Purpose.PUBLISH_SOURCE: ("chain_sourceorder",),
    Purpose.REGISTER: ("chain_service",),
    Purpose.ROOT: ("chain_publishedroot",),
}


def _what_for(row: Transaction) -> str:
    """A link to what has asked for it, where that is known."""
    for page in _PAGES.get(Purpose(row.purpose), ()):
        model, columns = _WANTED_BY[page]
        wanted = Q()
        for column in columns:
            wanted |= Q(**{column: row})
        found = model._default_manager.filter(wanted).first()
        if found is not None:
            return rows.link(page, found.pk, found)
    return "-"
