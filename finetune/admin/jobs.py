"""Fine-tuning jobs: how far they are, how well they went, where they ran, and what they did cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.paginator import InfinitePaginator

from clients.admin import reasons, rows, transfers
from clients.admin.rows import ReadOnly, amount, moment
from clients.models import Client, Hold, Transfer
from finetune import interventions
from finetune.admin import quality
from finetune.admin.records import AttemptInline, CheckpointInline, DeploymentInline, EventInline
from finetune.models import Attempt, Job, JobStatus
from gpus.models import Node

STATUS_COLOURS = {
    JobStatus.PENDING.label: "info",
    JobStatus.RUNNING.label: "info",
    JobStatus.PAUSED.label: "warning",
    JobStatus.SUCCEEDED.label: "success",
    JobStatus.FAILED.label: "danger",
    JobStatus.CANCELLED.label: "warning",
    JobStatus.REFUSED.label: "danger",
}
MAY_CHANGE = "finetune.change_job"
SEEN = "Its owner reads it in the job's log; it is kept in the audit."
_LAST = Attempt.objects.filter(job=OuterRef("pk")).order_by("-number")
_NODE = Node.objects.filter(attempts__job=OuterRef("pk")).order_by("-attempts__number")


@admin.register(Job)
class JobAdmin(ReadOnly, ModelAdmin):
    """Jobs, newest first. What is done about them is done by verbs, with a reason; no field is ever edited."""

    list_display = (
        *("short_id", moment("created_at"), "owner", "base_name", "shown_status", "why", "bar", "place"),
        *(amount("price"), "better"),
    )
    list_display_links = ("short_id",)
    list_filter = (
        *("status", "method", "face", "where", "is_better", ("owner", AutocompleteSelectFilter)),
        "created_at",
    )
    list_filter_submit = True
    list_select_related = ("owner", "base__model")
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("uid",)
    search_help_text = "An id as any of the APIs says it, a user name, a wallet, or a base model: all of it."
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("uid", "owner", "api_key", "face", "wallet", "method", "base_link", "dataset_link"),
                    *("validation_link", "result_link"),
                )
            },
        ),
        (
            "How it stands",
            {
                "fields": (
                    *("shown_status", "code", "reason", "bar", "steps", "left", "place", "run"),
                    *("created_at", "started_at", "finished_at", "not_before"),
                )
            },
        ),
        ("How well it went", {"fields": ("measured", "curve")}),
        (
            "Money",
            {
                "fields": (
                    *(amount("price"), amount("charged"), amount("fee"), "share", "provider", "reserved"),
                    *("movement", "terms"),
                )
            },
        ),
        (
            "What was asked for",
            {
                "classes": ("collapse",),
                "fields": (
                    *("asked", "parameters", "tokens", "epochs", "seed", "suffix", "where", "allocation_id"),
                    *("deploy", "wait_on_conflict", "metadata", "idempotency_key"),
                ),
            },
        ),
    )
    readonly_fields = (
        *(
            "base_link",
            "dataset_link",
            "validation_link",
            "result_link",
            "shown_status",
            "bar",
            "steps",
            "left",
        ),
        *("place", "measured", "curve", "share", "reserved", "movement"),
    )
    inlines = (AttemptInline, EventInline, CheckpointInline, DeploymentInline)
    actions = ("cancel", "restart", "requeue", "refund")
    actions_detail = ("cancel_one", "restart_one", "requeue_one", "refund_one")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        found: QuerySet[Job] = super().get_queryset(request)
        return found.annotate(
            last_attempt=Subquery(_LAST.values("number")[:1]),
            last_node=Subquery(_LAST.values("node_id")[:1]),
            last_node_name=Subquery(_NODE.values("name")[:1]),
        )

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Job | None:
        """With what its page shows, which is then not asked for one by one."""
        found = super().get_object(request, object_id, from_field)
        if found is None:
            return None
        related = ("owner", "base__model", "dataset", "validation", "result__model", "provider", "api_key")
        return self.get_queryset(request).select_related(*related).get(pk=found.pk)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        term = search_term.strip()
        return (queryset.filter(_matches(term)) if term else queryset), False

    def has_intervene_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_CHANGE)

    def has_refund_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(transfers.MAY_REVERSE)

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> Any:
        """What goes with the state that it is in; the verbs check it once more."""
        job = Job.objects.filter(pk=object_id).first()
        able = () if job is None else _possible(job)
        return [
            each for each in super().get_actions_detail(request, object_id) if each.action_name.endswith(able)
        ]

    # --- What is shown ------------------------------------------------------------------------------------

    @display(description="id", ordering="id")
    def short_id(self, job: Job) -> str:
        return job.uid.hex[:8]

    @display(description="base")
    def base_name(self, job: Job) -> str:
        return job.base.model.name.rsplit("/", 1)[-1]

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, job: Job) -> str:
        return str(JobStatus(job.status).label)

    @display(description="progress")
    def bar(self, job: Job) -> str:
        return quality.bar(job)

    @display(description="reason")
    def why(self, job: Job) -> str:
        # That it has succeeded says enough, and how well has a column.
        said = "" if job.status == JobStatus.SUCCEEDED else job.reason
        return format_html('<div style="min-width:14rem">{}</div>', said) if said else "-"

    @display(description="steps")
    def steps(self, job: Job) -> str:
        return quality.steps(job)

    @display(description="time left")
    def left(self, job: Job) -> str:
        return quality.left(job)

    @display(description="better than its base", boolean=True)
    def better(self, job: Job) -> bool | None:
        return job.is_better

    @display(description="place")
    def place(self, job: Job) -> str:
        number, node = job.last_attempt, job.last_node  # type: ignore[attr-defined]
        if number is None:
            return "-"
        if node is None:
            return "the marketplace's worker"
        return rows.link("gpus_node", node, job.last_node_name or f"node {node}")  # type: ignore[attr-defined]

    @display(description="base")
    def base_link(self, job: Job) -> str:
        return _to_model(job.base)

    @display(description="result")
    def result_link(self, job: Job) -> str:
        return _to_model(job.result)

    @display(description="dataset")
    def dataset_link(self, job: Job) -> str:
        return rows.link("finetune_dataset", job.dataset_id, job.dataset)

    @display(description="held-out rows")
    def validation_link(self, job: Job) -> str:
        if job.validation is None:
            return "a part of the dataset"
        return rows.link("finetune_dataset", job.validation_id, job.validation)

    @display(description="on held-out rows")
    def measured(self, job: Job) -> str:
        return quality.comparison(job)

    @display(description="as it went")
    @rows.once
    def curve(self, job: Job) -> str:
        return quality.charts(job)

    @display(description="the provider's share")
    def share(self, job: Job) -> str:
        return rows.shown(job.charged - job.fee) if job.provider_id else "-"

    @display(description="held for it now")
    @rows.once
    def reserved(self, job: Job) -> str:
        hold = Hold.objects.filter(pk=job.reference).first()
        if hold is None:
            return "-"
        what = "ended" if hold.ended_at else rows.shown(hold.amount - hold.captured)
        return rows.link("clients_hold", hold.pk, f"{hold.pk}: {what}")

    @display(description="in the ledger")
    @rows.once
    def movement(self, job: Job) -> str:
        paid = interventions.charges_of(job).prefetch_related("reversals")
        return format_html_join("", "<div>{}</div>", ((_movement(each),) for each in paid)) or "-"

    # --- What is done -------------------------------------------------------------------------------------

    def _do(
        self, request: HttpRequest, queryset: QuerySet[Job], verb: Callable[..., Job], **asking: Any
    ) -> HttpResponse | None:
        def one(job: Job, reason: str) -> str:
            after = verb(job, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{after} is {after.status}."

        return reasons.do_to_each(
            self, request, queryset, one, seen_by=SEEN,
            describe=lambda job: f"{job} of {job.owner}: {job.get_status_display()}, {rows.shown(job.price)}",
            **asking,
        )  # fmt: skip

    @action(description="Cancel, with a reason", permissions=["intervene"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        note = "They end at once, whoever trains them. Nothing is charged, and what was held is free again."
        return self._do(request, queryset, interventions.cancel, title="Cancel jobs", note=note)

    @action(description="Restart, with a reason", permissions=["intervene"])
    def restart(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        note = (
            "Those that have ended run once more from their beginning. It is a run of its own: their owner pays "
            "what it costs today if it succeeds, and that is held now."
        )
        return self._do(request, queryset, interventions.restart, title="Restart jobs", note=note)

    @action(description="Queue anew, with a reason", permissions=["intervene"])
    def requeue(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        note = (
            "The present attempt ends as lost, and the job goes on at another place from its last checkpoint. One that "
            "waits to be tried again waits no longer. The price stays."
        )
        return self._do(request, queryset, interventions.requeue, title="Queue jobs anew", note=note)

    @action(description="Refund, with a reason", permissions=["refund"])
    def refund(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse | None:
        reason = reasons.ask(
            request,
            self,
            queryset,
            title="Refund jobs",
            note="All that the last run did cost goes back to its owner, the fee included. The result stays.",
            seen_by="Both see it in their statements.",
            describe=lambda job: f"{job}: {rows.shown(job.charged)} of {job.owner}",
        )
        if isinstance(reason, HttpResponse):
            return reason
        by = rows.operator(request)
        for job in queryset:
            transfers.tell_of_reversal(self, request, job, lambda job=job: _refund(job, by, reason))  # type: ignore[misc]
        return None

    def _one(
        self, request: HttpRequest, object_id: str, done: Callable[..., HttpResponse | None]
    ) -> HttpResponse:
        asked = done(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:finetune_job_change", object_id)

    @action(
        description="Cancel", permissions=["intervene"], url_path="cancel", icon="cancel",
        variant=ActionVariant.DANGER,
    )  # fmt: skip
    def cancel_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._one(request, object_id, self.cancel)

    @action(description="Restart", permissions=["intervene"], url_path="restart", icon="restart_alt")
    def restart_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._one(request, object_id, self.restart)

    @action(description="Queue anew", permissions=["intervene"], url_path="requeue", icon="move_down")
    def requeue_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._one(request, object_id, self.requeue)

    @action(description="Refund", permissions=["refund"], url_path="refund", icon="undo")
    def refund_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._one(request, object_id, self.refund)


def _refund(job: Job, by: Client, reason: str) -> Transfer:
    return interventions.refund(job, by=by, reason=reason, now=timezone.now())


def _possible(job: Job) -> tuple[str, ...]:
    """The ends of the names of what can be done about a job now."""
    if not job.has_ended:
        return ("cancel_one", "requeue_one")
    return ("restart_one", "refund_one") if job.charged else ("restart_one",)


def _to_model(revision: Any) -> str:
    if revision is None:
        return "-"
    return rows.link(
        "inference_model", revision.model_id, f"{revision.model.name}, revision {revision.number}"
    )


def _movement(paid: Transfer) -> str:
    link = rows.link("clients_transfer", paid.pk, f"{paid}: {rows.shown(paid.amount)}")
    back = next(iter(paid.reversals.all()), None)
    if back is None:
        return link
    return format_html("{}, given back as {}", link, rows.link("clients_transfer", back.pk, back))


def _matches(term: str) -> Q:
    """What an index finds at once."""
    if term.isascii() and term.isdecimal() and len(term) <= 18:
        return Q(pk=int(term))
    try:
        return Q(uid=UUID(term.removeprefix("ftjob-")))
    except ValueError:
        people = Client.objects.filter(Q(username__iexact=term) | Q(email__iexact=term))
        return Q(owner__in=list(people[:10])) | Q(wallet__iexact=term) | Q(base__model__name=term)
