"""What was read from chains: the events as they are, and what they say about sources, tasks, attempts and responses.

All of it can be read again, and is deleted when its block is no longer part of the chain. What the marketplace itself
does about it (fulfilments, credits) is kept elsewhere.
"""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from chain.models.networks import AddressField, HashField, Network
from marketplace.money import MoneyField


class Placed(models.Model):
    """Something that an event has brought about, with where on the chain that event is."""

    network = models.ForeignKey(Network, models.CASCADE, related_name="%(class)ss")
    block_number = models.BigIntegerField()
    log_index = models.IntegerField()
    transaction_hash = HashField(db_index=True)

    class Meta:
        abstract = True

    @property
    def is_final(self) -> bool:
        """Whether its block has as many confirmations as the network wants."""
        return self.block_number <= self.network.final_block


class Log(Placed):
    """An event of one of the marketplace's contracts, as it was read."""

    block_hash = HashField()
    address = AddressField(help_text="The contract.")
    name = models.CharField(max_length=40)
    arguments = models.JSONField(help_text="Numbers are decimal strings.")
    at = models.DateTimeField(help_text="The time of the block.")

    class Meta:
        ordering = ["network", "block_number", "log_index"]
        constraints = [
            models.UniqueConstraint("network", "block_number", "log_index", name="log_unique"),
        ]
        indexes = [models.Index(fields=["network", "name", "block_number"], name="log_by_name")]

    def __str__(self) -> str:
        return f"{self.name} in {self.transaction_hash[:10]}…"


class SourceStatus(models.IntegerChoices):
    ACTIVE = 0, "active"
    INACTIVE = 1, "inactive"


class DeliveryMethod(models.IntegerChoices):
    MANUAL_CONFIRMATION = 0, "manual confirmation"
    FIRST_RESPONSE = 1, "first response"


class Source(Placed):
    """A service that somebody has published."""

    address = AddressField()
    client = AddressField(help_text="Who has published it.")
    metadata_url = models.TextField(blank=True)
    environments = models.PositiveSmallIntegerField(default=0, help_text="1 CPU, 2 NVIDIA, 4 AMD, added up.")
    min_payment = MoneyField(default=0)
    min_available_lockup = MoneyField(default=0)
    # uint256 on the chain: seconds.
    max_expiry_duration = models.DecimalField(max_digits=78, decimal_places=0, default=0)
    privacy_enabled = models.BooleanField(default=False)
    optional_params_url = models.TextField(blank=True)
    delivery_method = models.PositiveSmallIntegerField(choices=DeliveryMethod)
    status = models.PositiveSmallIntegerField(choices=SourceStatus, default=SourceStatus.ACTIVE)
    published_at = models.DateTimeField()
    updated_at = models.DateTimeField(null=True, blank=True)
    # From `metadata_url`, once it could be fetched.
    name = models.CharField(max_length=200, blank=True)
    description = models.TextField(blank=True)
    metadata = models.JSONField(null=True, blank=True)
    fetched_url = models.TextField(blank=True, help_text="The `metadata_url` that all this comes from.")
    fetch_tries = models.PositiveIntegerField(default=0)
    fetch_at = models.DateTimeField(db_default=Now(), help_text="When to try next.")

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint("network", "address", name="source_unique")]

    def __str__(self) -> str:
        return self.name or self.address


class TaskStatus(models.IntegerChoices):
    NEW = 0, "new"
    ATTEMPTED = 1, "attempted"
    RESPONDED = 2, "responded"
    CANCELED = 3, "canceled"
    EXPIRED = 4, "expired"
    FINALIZED = 5, "finalized"


ENDED = (TaskStatus.CANCELED, TaskStatus.EXPIRED, TaskStatus.FINALIZED)


class Task(Placed):
    """Something that somebody wants done by a source's providers, and pays for."""

    address = AddressField()
    source = models.ForeignKey(Source, models.CASCADE, related_name="tasks")
    config_url = models.TextField(blank=True)
    # uint256 on the chain, and nobody checks that it is a date.
    expiry_time = models.DecimalField(max_digits=78, decimal_places=0, help_text="Seconds since 1970.")
    payment = MoneyField()
    delivery_method = models.PositiveSmallIntegerField(choices=DeliveryMethod)
    status = models.PositiveSmallIntegerField(choices=TaskStatus, default=TaskStatus.NEW)
    published_at = models.DateTimeField()
    status_at = models.DateTimeField(help_text="Since when it has this status.")

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint("network", "address", name="task_unique")]
        indexes = [
            models.Index(fields=["network", "status", "id"], name="task_by_status"),
            # Most that nobody has answered stay as they are for ever: who looks for work looks at the others.
            models.Index(
                fields=["network", "expiry_time"], name="task_open", condition=models.Q(status__in=(0, 1))
            ),
        ]

    def __str__(self) -> str:
        return self.address


class Attempt(Placed):
    """A provider has taken a task on; several may."""

    task = models.ForeignKey(Task, models.CASCADE, related_name="attempts")
    provider = AddressField()
    suggested_payment = MoneyField()
    attempted_at = models.DateTimeField()

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint("task", "provider", name="attempt_unique")]

    def __str__(self) -> str:
        return f"{self.provider} at {self.task}"


class ResponseStatus(models.IntegerChoices):
    SUBMITTED = 0, "submitted"
    CONFIRMED = 1, "confirmed"


class Response(Placed):
    """A provider's answer to a task. The confirmed one is paid."""

    address = AddressField()
    task = models.ForeignKey(Task, models.CASCADE, related_name="responses")
    provider = AddressField()
    data = models.TextField(blank=True, help_text="As it stands on the chain: mostly a link to JSON.")
    payment = MoneyField()
    status = models.PositiveSmallIntegerField(choices=ResponseStatus, default=ResponseStatus.SUBMITTED)
    submitted_at = models.DateTimeField()
    # The event that has confirmed it.
    confirmed_at = models.DateTimeField(null=True, blank=True)
    confirmed_block = models.BigIntegerField(null=True, blank=True)
    confirmed_transaction = HashField(blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint("network", "address", name="response_unique")]

    def __str__(self) -> str:
        return self.address

    @property
    def is_finally_confirmed(self) -> bool:
        return self.confirmed_block is not None and self.confirmed_block <= self.network.final_block
