"""What providers ask."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from marketplace.money import MoneyField


class Price(models.Model):
    """What a provider asks on a node: for a model, or (no model) for an hour of each of its GPUs, or for training.

    A change is a new row, so that a request keeps its price and a receipt can name it. It outlives its node.
    """

    node = models.ForeignKey("gpus.Node", models.DO_NOTHING, related_name="prices", db_constraint=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    model = models.CharField(max_length=255, blank=True)
    input_price = MoneyField(default=0, help_text="Per million prompt tokens.")
    output_price = MoneyField(default=0, help_text="Per million completion tokens.")
    request_price = MoneyField(default=0, help_text="Per request.")
    hour_price = MoneyField(default=0, help_text="Per GPU and hour, for allocations.")
    training_price = MoneyField(default=0, db_default=0, help_text="Per million tokens trained on.")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"price {self.pk}"
