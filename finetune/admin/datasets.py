"""What models are taught with: what was found in it, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from clients import audit
from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly, moment
from clients.api import files
from clients.models import Client
from finetune.models import Dataset, DatasetStatus

STATUS_COLOURS = {
    DatasetStatus.VALIDATING.label: "info",
    DatasetStatus.READY.label: "success",
    DatasetStatus.INVALID.label: "danger",
}
# Who may only look sees what was found in a dataset, never what people have put into it.
MAY_DOWNLOAD = "finetune.change_dataset"
ERRORS_SHOWN = 100


@admin.register(Dataset)
class DatasetAdmin(ReadOnly, ModelAdmin):
    list_display = (
        *("name", "uid", "owner", "shown_status", "format", "row_count", "shown_size", "error_count"),
        moment("created_at"),
    )
    list_filter = (
        *("status", "format", "purpose", ("deleted_at", admin.EmptyFieldListFilter)),
        *(("owner", AutocompleteSelectFilter), "created_at"),
    )
    list_filter_submit = True
    list_select_related = ("owner",)
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("uid",)
    search_help_text = "An id (file-…), a user name, or a hash of the content: all of it."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("uid", "name", "owner", "description", "filename", "purpose", "shown_status", "format"),
                    *("created_at", "expires_at", "deleted_at"),
                )
            },
        ),
        (
            "What was found in it",
            {"fields": ("counted", "shown_size", "error_count", "sha256_hash", "keccak256_hash")},
        ),
        ("What its owner says", {"classes": ("collapse",), "fields": ("metadata",)}),
    )
    readonly_fields = ("shown_status", "shown_size", "counted", "row_count", "sha256_hash", "keccak256_hash")
    change_form_outer_after_template = "admin/finetune/report.html"
    actions_detail = ("download",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Dataset], search_term: str
    ) -> tuple[QuerySet[Dataset], bool]:
        term = search_term.strip()
        return (queryset.filter(_matches(term)) if term else queryset), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> Any:
        found = self.get_object(request, object_id)
        shown = {} if found is None or not self.has_view_permission(request, found) else _report(found)
        return super().change_view(request, object_id, form_url, shown | (extra_context or {}))

    def has_download_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_DOWNLOAD)

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, dataset: Dataset) -> str:
        return str(DatasetStatus(dataset.status).label)

    @display(description="rows")
    def row_count(self, dataset: Dataset) -> str:
        return str(dataset.summary.get("rows", "-"))

    @display(description="size", ordering="size")
    def shown_size(self, dataset: Dataset) -> str:
        return filesizeformat(dataset.size)

    @display(description="SHA-256")
    def sha256_hash(self, dataset: Dataset) -> str:
        return _breakable(dataset.sha256)

    @display(description="Keccak-256")
    def keccak256_hash(self, dataset: Dataset) -> str:
        return _breakable(dataset.keccak256)

    @display(description="counted")
    def counted(self, dataset: Dataset) -> str:
        return ", ".join(f"{name}: {_plain(value)}" for name, value in dataset.summary.items()) or "-"

    @action(description="Download", permissions=["download"], url_path="download", icon="download")
    def download(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        chosen = self.get_queryset(request).filter(pk=object_id)
        dataset = chosen.select_related("blob", "owner").first()
        if dataset is None or dataset.blob is None:
            self.message_user(request, "Its content was deleted.", messages.ERROR)
            return redirect("admin:finetune_dataset_changelist")
        reason = reasons.ask(
            request, self, chosen, title="Download",
            note="This is somebody's data. Look at it only where it is needed.", seen_by="It is kept in the audit.",
        )  # fmt: skip
        if isinstance(reason, HttpResponse):
            return reason
        audit.note(
            by=rows.operator(request), action="download_dataset", subject=dataset.uid, reason=reason,
            details={"owner": dataset.owner.username, "name": dataset.name},
        )  # fmt: skip
        return files.reply(request, dataset.blob, filename=dataset.filename)


def _report(dataset: Dataset) -> dict[str, Any]:
    """What is wrong, line by line."""
    found = [each for each in dataset.errors if isinstance(each, dict)][:ERRORS_SHOWN]
    return {"report": found, "report_title": f"Errors: {len(found)} of {dataset.error_count}"}


def _breakable(text: str) -> str:
    return format_html('<span style="overflow-wrap:anywhere">{}</span>', text)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {each}" for name, each in value.items()) + ")"
    return str(value)


def _matches(term: str) -> Q:
    """What an index finds at once."""
    known = Q(uid=term) | Q(sha256=term.lower()) | Q(keccak256=term.lower().removeprefix("0x"))
    people = Client.objects.filter(Q(username__iexact=term) | Q(email__iexact=term))
    return known | Q(owner__in=list(people[:10])) | Q(name=term)
