"""What was asked and what was answered, and the catalogue of models."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from marketplace.money import MoneyField


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


class ReceiptBatch(models.Model):
    """Receipts of the transfers in a range of ids, bound together by a Merkle root that the marketplace has signed."""

    first_transfer = models.BigIntegerField(unique=True)
    last_transfer = models.BigIntegerField(unique=True)
    receipts = models.PositiveIntegerField()
    root = models.CharField(max_length=66, help_text="0x…, keccak256.")
    signature = models.CharField(max_length=132)
    signer = models.CharField(max_length=42)
    # What its receipts say that a setting could change.
    marketplace = models.CharField(max_length=500)
    currency = models.CharField(max_length=50)
    leaves = models.BinaryField(
        help_text="The receipts' hashes, 32 bytes each, in the order of their transfers."
    )
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "receipt batches"

    def __str__(self) -> str:
        return f"batch {self.pk}"


class Earning(models.Model):
    """What a model on a node has brought in within an hour: sums of the requests that ended in it."""

    hour = models.DateTimeField()
    provider = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="earnings")
    node = models.ForeignKey("gpus.Node", models.DO_NOTHING, related_name="+", db_constraint=False)
    node_name = models.CharField(max_length=100)
    model = models.CharField(max_length=255)
    requests = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    busy_ms = models.BigIntegerField(default=0)
    charged = MoneyField(default=0)
    fee = MoneyField(default=0)

    class Meta:
        ordering = ["-hour"]
        constraints = [models.UniqueConstraint("hour", "node", "model", name="earning_unique")]
        indexes = [models.Index(fields=["provider", "-hour"], name="earning_by_provider")]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.model} on {self.node_id}"


class Demand(models.Model):
    """How many requests asked for something within an hour, and what came of them. A price of MOST is any price."""

    hour = models.DateTimeField()
    model = models.CharField(max_length=255)
    kind = models.CharField(max_length=10, choices=Kind)
    region = models.CharField(max_length=50, blank=True)
    trusted_only = models.BooleanField(default=False)
    max_input_price = MoneyField()
    max_output_price = MoneyField()
    max_request_price = MoneyField()
    outcome = models.CharField(max_length=50, help_text='"served", or the code of the error.')
    requests = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["-hour"]
        constraints = [
            models.UniqueConstraint(
                "hour",
                "model",
                "kind",
                "region",
                "trusted_only",
                "max_input_price",
                "max_output_price",
                "max_request_price",
                "outcome",
                name="demand_unique",
            )
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.model}: {self.requests} {self.outcome}"
