"""What was asked and what was answered."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from inference.models.catalogue import Kind
from marketplace.money import MoneyField


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
    client = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="inferences", db_index=False
    )
    api_key = models.ForeignKey(
        "clients.ApiKey", models.SET_NULL, null=True, blank=True, related_name="inferences"
    )
    face = models.CharField(max_length=20, help_text="The endpoint it came through.")
    kind = models.CharField(max_length=10, choices=Kind)
    desired_model = models.CharField(max_length=255)
    question_text = models.TextField(blank=True)
    answer_text = models.TextField(blank=True)
    streamed = models.BooleanField(default=False)
    status = models.CharField(max_length=9, choices=Status, default=Status.RUNNING)
    code = models.CharField(max_length=50, blank=True, help_text="Why it ended as it did, for programs.")
    reason = models.CharField(max_length=1000, blank=True, help_text="Why it ended as it did, for people.")
    # A record outlives its node: who looks for the node may find none.
    node = models.ForeignKey(
        "gpus.Node", models.DO_NOTHING, null=True, blank=True, related_name="inferences", db_constraint=False
    )
    provider = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    revision = models.CharField(
        max_length=100, blank=True, db_default="", help_text="Of the model on that node."
    )
    price = models.ForeignKey(
        "gpus.Price", models.DO_NOTHING, null=True, blank=True, related_name="+", db_constraint=False, db_index=False,
        help_text="Empty: the default of the terms.",
    )  # fmt: skip
    terms = models.ForeignKey(
        "clients.Terms", models.DO_NOTHING, null=True, blank=True, related_name="+", db_constraint=False,
        db_index=False, help_text="Of the marketplace, at the time.",
    )  # fmt: skip
    allocation_id = models.UUIDField(null=True, blank=True)
    charged = MoneyField(default=0, db_default=0)
    fee = MoneyField(
        default=0, db_default=0, help_text="The part of what was charged that the marketplace kept."
    )
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
        indexes = [models.Index(fields=["client", "-id"], name="inference_by_client")]

    def __str__(self) -> str:
        return f"{self.id} {self.desired_model} {self.status}"


class Running(models.Model):
    """A request that has not ended yet: who writes its end, or cleans up after it, takes this row away.

    A small table of its own, so that ending a request changes nothing that the records are indexed by.
    """

    inference = models.OneToOneField(
        Inference, models.CASCADE, primary_key=True, related_name="running", db_constraint=False
    )
    client_id = models.BigIntegerField()
    gateway_id = models.UUIDField(null=True, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "running"

    def __str__(self) -> str:
        return str(self.inference_id)
