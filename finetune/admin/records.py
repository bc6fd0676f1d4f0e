"""What has happened to jobs: attempts, the log, checkpoints. The marketplace alone writes these."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from clients.admin import rows
from clients.admin.rows import ReadOnly, moment
from finetune.models import Attempt, AttemptOutcome, Checkpoint, Deployment, Event

RUNNING = "running"
OUTCOME_COLOURS = {
    RUNNING: "info",
    AttemptOutcome.SUCCEEDED.label: "success",
    AttemptOutcome.FAILED.label: "danger",
    AttemptOutcome.LOST.label: "warning",
    AttemptOutcome.STOPPED.label: "info",
}
LEVEL_COLOURS = {"info": "info", "warn": "warning", "error": "danger"}


class _AttemptColumns:
    """What the list and the pages of jobs have in common."""

    @display(description="attempt")
    def shown_number(self, attempt: Attempt) -> str:
        return rows.link("finetune_attempt", attempt.pk, attempt.number)

    @display(description="place")
    def place(self, attempt: Attempt) -> str:
        # The node may be gone.
        if attempt.node_id is None:
            return "the marketplace's worker"
        return rows.link("gpus_node", attempt.node_id, f"node {attempt.node_id}")

    @display(description="outcome", ordering="outcome", label=OUTCOME_COLOURS)
    def shown_outcome(self, attempt: Attempt) -> str:
        return str(AttemptOutcome(attempt.outcome).label) if attempt.outcome else RUNNING

    @display(description="hardware")
    def hardware(self, attempt: Attempt) -> str:
        found: Any = attempt.facts.get("hardware")
        return str(found.get("name") or found.get("device") or "-") if isinstance(found, dict) else "-"


class AttemptInline(_AttemptColumns, ReadOnly, TabularInline):
    model = Attempt
    hide_title = True
    fields = readonly_fields = (
        *(
            "shown_number",
            "run",
            "place",
            "hardware",
            "shown_outcome",
            "code",
            "reason",
            "started_at",
            "ended_at",
        ),
        "resumed_from",
    )
    extra = 0
    per_page = 20
    ordering = ("-number",)
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        found: QuerySet[Attempt] = super().get_queryset(request)
        return found.select_related("resumed_from")


class EventInline(ReadOnly, TabularInline):
    """The log, the newest on top."""

    model = Event
    verbose_name_plural = "log"
    hide_title = True
    fields = readonly_fields = (moment("at"), "shown_level", "kind", "message")
    extra = 0
    per_page = 30
    ordering = ("-id",)
    tab = True

    @display(description="level", label=LEVEL_COLOURS)
    def shown_level(self, event: Event) -> str:
        return event.level


class _CheckpointColumns:
    @display(description="kept")
    def kept(self, checkpoint: Checkpoint) -> str:
        return "-" if checkpoint.blob is None else filesizeformat(checkpoint.blob.size)

    @display(description="measured")
    def measured(self, checkpoint: Checkpoint) -> str:
        return ", ".join(f"{name}: {value}" for name, value in list(checkpoint.metrics.items())[:10]) or "-"


class CheckpointInline(_CheckpointColumns, ReadOnly, TabularInline):
    model = Checkpoint
    hide_title = True
    fields = readonly_fields = ("step", "run", "kept", "measured", "created_at")
    extra = 0
    per_page = 20
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Checkpoint]:
        found: QuerySet[Checkpoint] = super().get_queryset(request)
        return found.select_related("blob")


class DeploymentInline(ReadOnly, TabularInline):
    model = Deployment
    fields = readonly_fields = ("alias", "model", "previous", "status", "reason", "created_at", "live_at")
    extra = 0
    per_page = 20
    show_change_link = True
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        found: QuerySet[Deployment] = super().get_queryset(request)
        return found.select_related("alias", "model", "previous")


@admin.register(Attempt)
class AttemptAdmin(_AttemptColumns, ReadOnly, ModelAdmin):
    list_display = (
        *("id", "job", "number", "place", "hardware", "shown_outcome", "reason", moment("started_at")),
        moment("ended_at"),
    )
    list_filter = (
        *("outcome", ("ended_at", admin.EmptyFieldListFilter), ("node", AutocompleteSelectFilter)),
        "started_at",
    )
    list_filter_submit = True
    list_select_related = ("job",)
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("=job__id", "=code")
    search_help_text = "A job's number, or the code of a failure."
    # Not its token: who has that may write to the job.
    fields = (
        *("job_link", "run", "number", "place", "worker", "hardware", "shown_outcome", "code", "reason"),
        *("started_at", "heard_at", "watched_at", "ended_at", "resumed_from", "event_number", "facts"),
    )
    readonly_fields = ("job_link", "place", "hardware", "shown_outcome")

    @display(description="job")
    def job_link(self, attempt: Attempt) -> str:
        return rows.link("finetune_job", attempt.job_id, attempt.job)


@admin.register(Event)
class EventAdmin(ReadOnly, ModelAdmin):
    list_display = ("id", moment("at"), "job", "shown_level", "kind", "message")
    list_filter = ("level", "at")
    list_filter_submit = True
    list_select_related = ("job",)
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("=job__id",)
    search_help_text = "A job's number."
    fields = ("job", "attempt", "at", "level", "kind", "message", "data")

    @display(description="level", ordering="level", label=LEVEL_COLOURS)
    def shown_level(self, event: Event) -> str:
        return event.level


@admin.register(Checkpoint)
class CheckpointAdmin(_CheckpointColumns, ReadOnly, ModelAdmin):
    list_display = ("id", moment("created_at"), "job", "run", "step", "kept", "measured")
    list_filter = ("created_at",)
    list_select_related = ("job", "blob")
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("=job__id",)
    search_help_text = "A job's number."
    fields = ("uid", "job", "attempt", "run", "step", "kept", "measured", "created_at")
    readonly_fields = ("kept", "measured")
