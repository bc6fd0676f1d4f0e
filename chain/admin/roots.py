"""Roots of receipts that were published, so that nobody can change a receipt afterwards."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from chain.admin.columns import OnChain, Term, cut, link_to_transaction, whole
from chain.admin.outbox import STATUS_COLOURS
from chain.models import PublishedRoot, TransactionStatus


@admin.register(PublishedRoot)
class PublishedRootAdmin(OnChain):
    list_display = ("id", "network", "batch_number", "receipts", "short_root", "standing", "short_hash")
    list_display_links = ("id",)
    list_filter = ("network",)
    list_select_related = ("network", "batch", "transaction")
    search_fields = ("batch",)
    search_help_text = "The number of a batch, a root, or the hash of a transaction: all of it."
    fields = ("network", "batch_number", "receipts", "root", "standing", "sent", "full_hash")
    readonly_fields = ("batch_number", "receipts", "root", "standing", "sent", "full_hash")

    @staticmethod
    def finds(term: Term) -> Q:
        return term.number_in("batch") | term.hash_in("batch__root") | term.sent_in("transaction")

    def get_queryset(self, request: HttpRequest) -> QuerySet[PublishedRoot]:
        found: QuerySet[PublishedRoot] = super().get_queryset(request)
        # A batch holds the hashes of all its receipts.
        return found.select_related("network", "batch", "transaction").defer("batch__leaves")

    @display(description="batch", ordering="batch")
    def batch_number(self, row: PublishedRoot) -> str:
        return str(row.batch_id)

    @display(description="receipts")
    def receipts(self, row: PublishedRoot) -> str:
        return str(row.batch.receipts)

    @display(description="root")
    def short_root(self, row: PublishedRoot) -> str:
        return cut(row.batch.root)

    @display(description="root")
    def root(self, row: PublishedRoot) -> str:
        return whole(row.batch.root)

    @display(description="status", ordering="transaction__status", label=STATUS_COLOURS)
    def standing(self, row: PublishedRoot) -> str:
        return str(TransactionStatus(row.transaction.status).label)

    @display(description="transaction")
    def sent(self, row: PublishedRoot) -> str:
        return link_to_transaction(row.transaction)

    @display(description="hash")
    def short_hash(self, row: PublishedRoot) -> str:
        return cut(row.transaction.hash)

    @display(description="hash")
    def full_hash(self, row: PublishedRoot) -> str:
        return whole(row.transaction.hash)
