"""What operators set, and what they did."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models.functions import Now

from marketplace.money import MoneyField


class Terms(models.Model):
    """The marketplace's terms: a new row for each change, so that what was charged can be explained. The last holds.

    Prices are per million tokens (read, written, trained on), per request, and per GPU-hour; empty limits bind nobody.
    """

    fee_bps = models.PositiveIntegerField(
        "fee in basis points",
        default=0,
        validators=[MaxValueValidator(10_000)],
        help_text="The platform's share of what consumers pay; 100 is 1 %.",
    )
    # What a node costs whose owner has set no price.
    default_input_price = MoneyField(default=0)
    default_output_price = MoneyField(default=0)
    default_request_price = MoneyField(default=0)
    default_hour_price = MoneyField(default=0)
    # Also what training on the marketplace's own workers costs.
    default_training_price = MoneyField(default=0, db_default=0)
    # What providers may ask.
    min_input_price = MoneyField(null=True, blank=True)
    max_input_price = MoneyField(null=True, blank=True)
    min_output_price = MoneyField(null=True, blank=True)
    max_output_price = MoneyField(null=True, blank=True)
    min_request_price = MoneyField(null=True, blank=True)
    max_request_price = MoneyField(null=True, blank=True)
    min_hour_price = MoneyField(null=True, blank=True)
    max_hour_price = MoneyField(null=True, blank=True)
    min_training_price = MoneyField(null=True, blank=True)
    max_training_price = MoneyField(null=True, blank=True)
    payouts_frozen = models.BooleanField(
        default=False, help_text="No payout or withdrawal is paid while this is on; inference goes on."
    )
    # What goes out to wallets by itself: per withdrawal, per client and day (UTC), and without an operator's word.
    withdrawal_minimum = MoneyField(null=True, blank=True)
    withdrawal_daily = MoneyField(null=True, blank=True)
    withdrawal_approval_above = MoneyField(null=True, blank=True)
    reason = models.CharField(max_length=500, help_text="Why this was changed.")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "terms"
        constraints = [
            models.CheckConstraint(condition=models.Q(fee_bps__lte=10_000), name="terms_fee_at_most_all"),
        ]

    def __str__(self) -> str:
        return f"{self.pk}: {self.reason}"


class AuditEntry(models.Model):
    """Something that an operator did to money. The database refuses to change or delete it."""

    at = models.DateTimeField(db_default=Now())
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    action = models.CharField(max_length=50, db_index=True)
    subject = models.CharField(max_length=200, help_text="What it was done to.")
    reason = models.CharField(max_length=500)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.action} {self.subject}"
