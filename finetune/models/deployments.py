"""Which model answers under a name that stays."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class DeploymentStatus(models.TextChoices):
    WAITING = "waiting", "waits for another deployment of the same name"
    LOADING = "loading", "nodes load the model"
    LIVE = "live", "the name leads to it"
    REPLACED = "replaced", "a later one took the name"
    FAILED = "failed", "failed; the name leads where it led"
    REFUSED = "refused", "refused; the name leads where it led"
    ROLLED_BACK = "rolled_back", "taken back"


class Deployment(models.Model):
    """A model that takes over a name (blue), from the one that had it (kept as green, to go back to)."""

    alias = models.ForeignKey("inference.Model", models.CASCADE, related_name="deployments")
    model = models.ForeignKey("inference.Model", models.CASCADE, related_name="+")
    previous = models.ForeignKey("inference.Model", models.SET_NULL, null=True, blank=True, related_name="+")
    job = models.ForeignKey(
        "finetune.Job", models.SET_NULL, null=True, blank=True, related_name="deployments"
    )
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="deployments")
    status = models.CharField(max_length=11, choices=DeploymentStatus)
    wait_on_conflict = models.BooleanField(default=False)
    reason = models.CharField(max_length=1000, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    changed_at = models.DateTimeField(db_default=Now())
    live_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            # One at a time moves a name.
            models.UniqueConstraint(
                "alias", name="deployment_loading_unique", condition=models.Q(status="loading")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} as {self.alias}: {self.status}"
