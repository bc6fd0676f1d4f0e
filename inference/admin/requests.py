"""What operators see of requests."""

from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from clients.admin import reasons, rows, transfers
from clients.admin.rows import ReadOnly, amount
from clients.models import Client
from clients.terms import UNSET
from gpus import prices
from inference import refunds
from inference.models import Inference, Model, Status
from marketplace import money

STATUS_COLOURS = {
    Status.RUNNING.label: "info",
    Status.COMPLETED.label: "success",
    Status.PARTIAL.label: "warning",
    Status.CANCELLED.label: "warning",
    Status.FAILED.label: "danger",
}
FACES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/inference",
    "/inference/stream",
    "/ai/models/inference",
)


class FaceFilter(admin.SimpleListFilter):
    """The endpoint, from what there is to choose: looking through the rows would take too long."""

    title = "endpoint"
    parameter_name = "face"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(face, face) for face in FACES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Inference]) -> QuerySet[Inference]:
        face = self.value()
        return queryset.filter(face__in=[face, f"{face}/"]) if face else queryset


class ModelFilter(admin.SimpleListFilter):
    title = "model"
    parameter_name = "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = Model.objects.order_by("name").values_list("name", flat=True)[:200]
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Inference]) -> QuerySet[Inference]:
        return queryset.filter(desired_model=self.value()) if self.value() else queryset


@admin.register(Inference)
class InferenceAdmin(ReadOnly, ModelAdmin):
    """Requests, newest first. Made for millions of rows: nothing here counts or scans them all."""

    list_display = (
        *("id", "created_at", "client", "desired_model", "shown_status", "reason", "node", "tokens"),
        *(amount("charged"), "latency_ms", "first_token_ms", "face"),
    )
    list_display_links = ("id", "created_at")
    list_filter = (
        *("status", ModelFilter, FaceFilter, "kind", "streamed", "usage_source"),
        *(("node", AutocompleteSelectFilter), ("client", AutocompleteSelectFilter)),
        "created_at",
    )
    list_filter_submit = True
    list_select_related = ("client", "node")
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("id",)
    search_help_text = "Id, request id, user name, or model: all of it."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "id",
                    "request_id",
                    "client",
                    "api_key",
                    "face",
                    "desired_model",
                    "kind",
                    "streamed",
                )
            },
        ),
        (
            "Money",
            {
                "fields": (
                    *(amount("charged"), amount("fee"), "share", "provider", "asked", "revision", "terms"),
                    *("allocation_id", "movement", "receipt"),
                )
            },
        ),
        ("How it ended", {"fields": ("shown_status", "code", "reason", "node", "attempts", "gateway_id")}),
        (
            "Measured",
            {
                "fields": (
                    *("prompt_tokens", "completion_tokens", "usage_source", "queued_ms", "first_token_ms"),
                    *("latency_ms", "created_at", "finished_at", "deleted_at"),
                )
            },
        ),
        (
            "Content",
            {
                "classes": ("collapse",),
                "fields": ("question_text", "answer_text", "request_sha256", "response_sha256"),
            },
        ),
    )
    readonly_fields = ("shown_status", "tokens", "share", "asked", "movement", "receipt")
    actions = ("refund",)
    actions_detail = ("refund_one",)

    def has_refund_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(transfers.MAY_REVERSE)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Inference], search_term: str
    ) -> tuple[QuerySet[Inference], bool]:
        term = search_term.strip()
        return (queryset.filter(_matches(term)) if term else queryset), False

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, inference: Inference) -> str:
        return str(Status(inference.status).label)

    @display(description="tokens in / out")
    def tokens(self, inference: Inference) -> str:
        return f"{inference.prompt_tokens} / {inference.completion_tokens}"

    @display(description="the provider's share")
    def share(self, inference: Inference) -> str:
        return rows.shown(inference.charged - inference.fee)

    @display(description="price")
    @rows.once
    def asked(self, inference: Inference) -> str:
        price, told = inference.price, inference.terms or UNSET
        rates = prices.of(price, told)
        found = (
            f"{price or 'the default of the terms'}: {money.render(rates.input)} in, {money.render(rates.output)} out "
            f"per million tokens, {money.named(rates.request)} per request"
        )
        is_as_asked = price is None or rates[:3] == (
            price.input_price,
            price.output_price,
            price.request_price,
        )
        return found if is_as_asked else f"{found} (what its owner asks is beyond the limits of the terms)"

    @display(description="in the ledger")
    @rows.once
    def movement(self, inference: Inference) -> str:
        paid = refunds.charge_of(inference)
        if paid is None:
            return "-"
        back = paid.reversals.first()
        link = rows.link("clients_transfer", paid.pk, paid)
        return (
            link
            if back is None
            else format_html("{}, given back as {}", link, rows.link("clients_transfer", back.pk, back))
        )

    @display(description="receipt")
    def receipt(self, inference: Inference) -> str:
        if not inference.charged:
            return "-"
        return format_html('<a href="/inference/{}/receipt" class="text-link">Receipt</a>', inference.pk)

    @action(description="Refund, with a reason", permissions=["refund"])
    def refund(self, request: HttpRequest, queryset: QuerySet[Inference]) -> HttpResponse | None:
        reason = reasons.ask(
            request,
            self,
            queryset,
            title="Refund",
            note="All that they did cost goes back to the consumer, the marketplace's fee included.",
            seen_by="Both see it in their statements.",
            describe=lambda each: f"{each}: {rows.shown(each.charged)} of {each.client}",
        )
        if isinstance(reason, HttpResponse):
            return reason
        for inference in queryset:
            verb = partial(refunds.refund, inference, by=rows.operator(request), reason=reason)
            transfers.tell_of_reversal(self, request, inference, verb)
        return None

    @action(description="Refund", permissions=["refund"], url_path="refund", icon="undo")
    def refund_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.refund(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:inference_inference_change", object_id)


def _matches(term: str) -> Q:
    """What an index finds at once."""
    if term.isascii() and term.isdecimal() and len(term) <= 18:
        return Q(pk=int(term))
    try:
        return Q(request_id=UUID(term))
    except ValueError:
        people = Client.objects.filter(Q(username__iexact=term) | Q(email__iexact=term))
        return Q(client__in=list(people[:10])) | Q(desired_model=term)
