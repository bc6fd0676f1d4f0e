"""Names that stay, which model each leads to, and going back."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.paginator import InfinitePaginator

from clients.admin import reasons, rows
from clients.admin.rows import ReadOnly, moment
from finetune import interventions
from finetune.models import Deployment, DeploymentStatus

WORDS = {status: str(status.value).replace("_", " ") for status in DeploymentStatus}
STATUS_COLOURS = {
    WORDS[DeploymentStatus.WAITING]: "info",
    WORDS[DeploymentStatus.LOADING]: "info",
    WORDS[DeploymentStatus.LIVE]: "success",
    WORDS[DeploymentStatus.FAILED]: "danger",
    WORDS[DeploymentStatus.REFUSED]: "danger",
    WORDS[DeploymentStatus.REPLACED]: "warning",
    WORDS[DeploymentStatus.ROLLED_BACK]: "warning",
}


@admin.register(Deployment)
class DeploymentAdmin(ReadOnly, ModelAdmin):
    list_display = (
        *("id", "alias", "model", "previous", "shown_status", "reason", "owner", moment("created_at")),
        moment("live_at"),
    )
    list_filter = ("status", ("owner", AutocompleteSelectFilter), "created_at")
    list_filter_submit = True
    list_select_related = ("alias", "model", "previous", "owner")
    ordering = ("-id",)
    paginator = InfinitePaginator
    show_full_result_count = False
    search_fields = ("=alias__name", "=model__name", "=owner__username")
    search_help_text = "A name, a model's id, or a user name: all of it."
    fields = (
        *("alias_link", "model_link", "previous_link", "shown_status", "reason", "owner", "job_link"),
        *("wait_on_conflict", "created_at", "changed_at", "live_at"),
    )
    readonly_fields = ("alias_link", "model_link", "previous_link", "job_link", "shown_status")
    actions = ("roll_back",)
    actions_detail = ("roll_back_one",)

    def has_roll_back_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("finetune.change_deployment")

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> Any:
        """What is not live cannot be taken back."""
        can = (
            Deployment.objects.filter(pk=object_id, status=DeploymentStatus.LIVE)
            .exclude(previous=None)
            .exists()
        )
        return super().get_actions_detail(request, object_id) if can else []

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, deployment: Deployment) -> str:
        return WORDS[DeploymentStatus(deployment.status)]

    @display(description="name")
    def alias_link(self, deployment: Deployment) -> str:
        return rows.link("inference_model", deployment.alias_id, deployment.alias)

    @display(description="model")
    def model_link(self, deployment: Deployment) -> str:
        return rows.link("inference_model", deployment.model_id, deployment.model)

    @display(description="before it")
    def previous_link(self, deployment: Deployment) -> str:
        previous = deployment.previous
        return "-" if previous is None else rows.link("inference_model", previous.pk, previous)

    @display(description="job")
    def job_link(self, deployment: Deployment) -> str:
        return "-" if deployment.job is None else rows.link("finetune_job", deployment.job_id, deployment.job)

    @action(description="Roll back, with a reason", permissions=["roll_back"])
    def roll_back(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> HttpResponse | None:
        def verb(deployment: Deployment, reason: str) -> str:
            by = rows.operator(request)
            done = interventions.roll_back(deployment, by=by, reason=reason, now=timezone.now())
            return f"{done.alias.name} leads to {done.previous and done.previous.name} again."

        return reasons.do_to_each(
            self, request, queryset, verb, title="Roll back",
            note="The name leads to the model before it from this moment on. Both stay loaded for a day.",
            seen_by="Its owner reads it with the deployment; it is kept in the audit.",
            describe=lambda each: f"{each.alias.name}: back to {each.previous and each.previous.name}",
        )  # fmt: skip

    @action(description="Roll back", permissions=["roll_back"], url_path="roll-back", icon="undo")
    def roll_back_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.roll_back(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:finetune_deployment_change", object_id)
