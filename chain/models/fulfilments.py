"""Work for tasks on chains: which sources we serve, and how far each of their tasks is."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from chain.models.networks import AddressField, HashField, Network
from marketplace.money import MoneyField


class Serving(models.TextChoices):
    ASKED = "asked", "waits for an operator"
    SERVED = "served", "served"
    REFUSED = "refused", "not served"


class Service(models.Model):
    """Whether our nodes work for a source, and with which model. It outlives what is read from the chain."""

    network = models.ForeignKey(Network, models.CASCADE, related_name="services")
    source_address = AddressField()
    status = models.CharField(max_length=7, choices=Serving, default=Serving.ASKED)
    model = models.CharField(max_length=255, blank=True, help_text="Public id of the model that answers.")
    # Names of functions beyond the usual ones: {"analyze_sentiment": {"kind": "chat", "prompt": "… {text} …"}}
    functions = models.JSONField(default=dict, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    # The transaction by which our provider registers with the source.
    registration = models.ForeignKey(
        "chain.Transaction", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    registered_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Since when our provider is registered; only then tasks are taken on.",
    )
    obstacle = models.CharField(max_length=500, blank=True, help_text="Why it is not registered (yet).")
    tries = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(db_default=Now())
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint("network", "source_address", name="service_unique")]

    def __str__(self) -> str:
        return f"{self.source_address} on {self.network}"


class FulfilmentStatus(models.TextChoices):
    FOUND = "found", "found on the chain"
    CHECKED = "checked", "fetched and accepted"
    ATTEMPTING = "attempting", "our attempt is on its way"
    WORKING = "working", "a node works on it"
    ANSWERING = "answering", "our answer is on its way"
    ANSWERED = "answered", "answered; not confirmed"
    CONFIRMED = "confirmed", "confirmed and paid"
    DECLINED = "declined", "not taken on"
    EXPIRED = "expired", "too late"
    LOST = "lost", "somebody else was confirmed, or it was cancelled"
    FAILED = "failed", "failed"


ENDED_FULFILMENTS = (
    FulfilmentStatus.CONFIRMED,
    FulfilmentStatus.DECLINED,
    FulfilmentStatus.EXPIRED,
    FulfilmentStatus.LOST,
    FulfilmentStatus.FAILED,
)


class Fulfilment(models.Model):
    """Our work on one task. It survives reorganisations: a task that was published once more by the same transaction,
    at the same address, is the same task.
    """

    network = models.ForeignKey(Network, models.PROTECT, related_name="fulfilments")
    task_address = AddressField()
    source_address = AddressField()
    published_transaction = HashField()
    payment = MoneyField()
    expires_at = models.DateTimeField()
    status = models.CharField(
        max_length=10, choices=FulfilmentStatus, default=FulfilmentStatus.FOUND, db_index=True
    )
    code = models.CharField(max_length=50, blank=True)
    reason = models.CharField(max_length=1000, blank=True)
    config_url = models.TextField(blank=True)
    config = models.JSONField(null=True, blank=True, help_text="What it points to, as it was fetched.")
    function = models.CharField(max_length=100, blank=True)
    # What a node has done for it.
    inference = models.ForeignKey(
        "inference.Inference", models.SET_NULL, null=True, blank=True, related_name="+", db_constraint=False
    )
    job = models.ForeignKey("finetune.Job", models.SET_NULL, null=True, blank=True, related_name="+")
    node = models.ForeignKey("gpus.Node", models.SET_NULL, null=True, blank=True, related_name="+")
    provider = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="fulfilments"
    )
    answer_url = models.TextField(blank=True, help_text="What our response says on the chain.")
    attempt = models.ForeignKey("chain.Transaction", models.SET_NULL, null=True, blank=True, related_name="+")
    answer = models.ForeignKey("chain.Transaction", models.SET_NULL, null=True, blank=True, related_name="+")
    response_address = AddressField(blank=True)
    # What was confirmed, and how it was shared.
    paid = MoneyField(null=True, blank=True)
    fee = MoneyField(null=True, blank=True)
    tries = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField(db_default=Now())
    # Who works on it at present; a later one has another token, and what an earlier one writes changes nothing.
    token = models.UUIDField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                "network", "task_address", "published_transaction", name="fulfilment_unique"
            ),
        ]
        indexes = [
            models.Index(fields=["status", "next_try_at"], name="fulfilment_due"),
            models.Index(
                fields=["leased_until"],
                name="fulfilment_held",
                condition=models.Q(leased_until__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task_address}: {self.status}"

    @property
    def reference(self) -> str:
        """What its payment is called in the ledger."""
        return f"fulfilment:{self.pk}"

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED_FULFILMENTS
