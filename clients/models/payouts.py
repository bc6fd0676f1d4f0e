"""Earnings that a provider wants to have paid out."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from marketplace.money import MoneyField


class PayoutStatus(models.TextChoices):
    REQUESTED = "requested", "requested"
    PAID = "paid", "paid"
    REFUSED = "refused", "refused"
    CANCELLED = "cancelled", "cancelled"


class Payout(models.Model):
    """A request; its money is held until an operator has paid or refused it, or its owner takes it back."""

    client = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="payouts")
    amount = MoneyField()
    destination = models.CharField(max_length=200, help_text="Where to: a wallet address, or bank details.")
    status = models.CharField(
        max_length=9, choices=PayoutStatus, default=PayoutStatus.REQUESTED, db_index=True
    )
    reason = models.CharField(max_length=500, blank=True, help_text="Why it was refused, or how it was paid.")
    requested_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+"
    )

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"payout {self.pk}"

    @property
    def reference(self) -> str:
        """What its hold and its transfer are called in the ledger."""
        return f"payout:{self.pk}"
