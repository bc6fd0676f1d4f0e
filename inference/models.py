"""What was asked and what was answered, and the catalogue of models."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models


class Model(models.Model):
    """A model in the catalogue. Nodes offer it by `name`, which is its public id."""

    name = models.CharField(max_length=255, unique=True)
    title = models.CharField(max_length=255, blank=True)
    description = models.TextField(blank=True)
    framework = models.CharField(max_length=100, blank=True)
    version = models.CharField(max_length=100, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="models",
        help_text="Empty: everybody's.",
    )
    hidden = models.BooleanField(default=False, help_text="Not listed and not served.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name


class Kind(models.TextChoices):
    CHAT = "chat", "chat"
    COMPLETION = "completion", "completion"
    EMBEDDING = "embedding", "embedding"


class Status(models.TextChoices):
    RUNNING = "running", "running"
    COMPLETED = "completed", "completed"
    # The consumer left, or the node failed, after a part of the answer had been delivered.
    PARTIAL = "partial", "partial"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


class UsageSource(models.TextChoices):
    ENGINE = "engine", "reported by the engine"
    TOKENIZER = "tokenizer", "counted with the model's tokenizer"
    ESTIMATE = "estimate", "estimated from what was delivered"


class Inference(models.Model):
    """One request to a model, whichever API it came through, and how it ended.

    The texts are kept only where the API must give them back (`/inference/`); elsewhere hashes stand for them.
    """

    request_id = models.UUIDField(default=uuid.uuid4, unique=True)
    client = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="inferences")
    api_key = models.ForeignKey(
        "clients.ApiKey", models.SET_NULL, null=True, blank=True, related_name="inferences"
    )
    face = models.CharField(max_length=20, help_text="The endpoint it came through.")
    kind = models.CharField(max_length=10, choices=Kind)
    desired_model = models.CharField(max_length=255, db_index=True)
    question_text = models.TextField(blank=True)
    answer_text = models.TextField(blank=True)
    streamed = models.BooleanField(default=False)
    status = models.CharField(max_length=9, choices=Status, default=Status.RUNNING)
    code = models.CharField(max_length=50, blank=True, help_text="Why it ended as it did, for programs.")
    reason = models.CharField(max_length=1000, blank=True, help_text="Why it ended as it did, for people.")
    node = models.ForeignKey("gpus.Node", models.SET_NULL, null=True, blank=True, related_name="inferences")
    attempts = models.JSONField(
        default=list, help_text="Nodes that were tried before, each with the reason it failed."
    )
    gateway_id = models.UUIDField(null=True, blank=True, help_text="The process that relays it.")
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    usage_source = models.CharField(max_length=9, choices=UsageSource, blank=True)
    queued_ms = models.PositiveIntegerField(default=0)
    first_token_ms = models.PositiveIntegerField(null=True, blank=True)
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    request_sha256 = models.CharField(max_length=64, blank=True)
    response_sha256 = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(
        null=True, blank=True, help_text="Its owner deleted it: the texts are gone, what was metered stays."
    )

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["client", "-id"], name="inference_by_client"),
            models.Index(
                fields=["gateway_id"], name="inference_running", condition=models.Q(status="running")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.desired_model} {self.status}"
