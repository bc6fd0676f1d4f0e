"""What an account, or one of its API keys, may spend and send; and how much of that is used."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from marketplace.money import MoneyField


class Allowance(models.Model):
    """Limits of an account (no `api_key`) or of one key. Empty means no limit.

    The counters below belong to `ledger_hold` and `ledger_settle`, which change them under the account's lock: what is
    used includes what is held for requests that still run.
    """

    client = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="allowances")
    api_key = models.OneToOneField(
        "clients.ApiKey", models.CASCADE, null=True, blank=True, related_name="allowance"
    )
    # The dearest that a node may be: per million tokens, and per request.
    max_input_price = MoneyField(null=True, blank=True)
    max_output_price = MoneyField(null=True, blank=True)
    max_request_price = MoneyField(null=True, blank=True)
    # Calendar days and months are UTC's.
    budget_day = MoneyField(null=True, blank=True)
    budget_month = MoneyField(null=True, blank=True)
    budget_total = MoneyField(null=True, blank=True)
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrency = models.PositiveIntegerField(null=True, blank=True, help_text="Requests at the same time.")

    minute = models.DateTimeField(null=True, blank=True, editable=False)
    minute_requests = models.BigIntegerField(default=0, editable=False)
    minute_tokens = models.BigIntegerField(default=0, editable=False)
    running = models.BigIntegerField(default=0, editable=False)
    day = models.DateField(null=True, blank=True, editable=False)
    day_used = MoneyField(default=0, editable=False)
    month_used = MoneyField(default=0, editable=False)
    total_used = MoneyField(default=0, editable=False)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                "client", condition=models.Q(api_key=None), name="allowance_of_account_unique"
            ),
        ]

    def __str__(self) -> str:
        return f"key {self.api_key_id}" if self.api_key_id else f"account {self.client_id}"
