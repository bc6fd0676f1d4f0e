"""Nodes that are somebody's alone for a time."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from marketplace.money import MoneyField


class TaskType(models.TextChoices):
    TRAINING = "training", "training"
    INFERENCE = "inference", "inference"


class Allocation(models.Model):
    """One or several nodes reserved for a client, from `created_at` to `expires_at`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    client = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="allocations")
    api_key_id = models.BigIntegerField(null=True, blank=True)
    task_type = models.CharField(max_length=9, choices=TaskType)
    gpu_type = models.CharField(max_length=255, blank=True, help_text="The GPUs of its nodes.")
    gpu_count = models.PositiveIntegerField()
    model = models.CharField(max_length=255, blank=True, help_text="The model that its nodes must hold.")
    dataset_id = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    end_reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return str(self.pk)


class Lease(models.Model):
    """One node of an allocation. Paid from a hold as time passes; open until `ended_at`."""

    allocation = models.ForeignKey(Allocation, models.PROTECT, related_name="leases")
    node = models.ForeignKey(
        "gpus.Node", models.DO_NOTHING, related_name="leases", db_constraint=False, db_index=False
    )
    node_name = models.CharField(max_length=100)
    provider = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="leases")
    gpus = models.PositiveIntegerField()
    price = models.ForeignKey("gpus.Price", models.PROTECT, null=True, blank=True, related_name="+")
    hour_price = MoneyField(help_text="For all of its GPUs.")
    fee_bps = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    paid_until = models.DateTimeField(help_text="Time up to which the provider has been paid.")
    expires_at = models.DateTimeField()
    charged = MoneyField(default=0)
    fee = MoneyField(default=0)
    ended_at = models.DateTimeField(null=True, blank=True)
    end_code = models.CharField(max_length=50, blank=True)
    end_reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint("node", condition=models.Q(ended_at=None), name="lease_node_open_once"),
        ]

    def __str__(self) -> str:
        return f"lease {self.pk}"

    @property
    def reference(self) -> str:
        """What its hold is called in the ledger; each payment adds ":" and the second up to which it pays."""
        return f"lease:{self.pk}"
