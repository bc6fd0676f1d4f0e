"""What requests add up to: batches of receipts, earnings, demand."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from inference.models.catalogue import Kind
from marketplace.money import MoneyField


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
