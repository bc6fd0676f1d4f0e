"""What can be used: hardware records, nodes, and the models that nodes offer."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import ClassVar

from django.conf import settings
from django.db import models


class Hardware(models.Model):
    """What a machine is made of, in the words of the API document (all of them texts)."""

    gpu_info = models.CharField(max_length=1000, help_text='GPU names, joined with "; ".')
    cpu_name = models.CharField(max_length=255)
    cpu_core = models.CharField(max_length=50)
    cpu_frequency = models.CharField(max_length=50, help_text="MHz")
    total_memory = models.CharField(max_length=50, help_text="GB")
    total_swap = models.CharField(max_length=50, help_text="GB")
    ram = models.CharField(max_length=50, help_text="GB")
    os_name = models.CharField(max_length=100)
    os_version = models.CharField(max_length=255)

    class Meta:
        abstract = True


class Gpu(Hardware):
    """A person's own record of a machine (`/gpu/list/`)."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="gpus")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        verbose_name = "GPU record"

    def __str__(self) -> str:
        return self.gpu_info


class Gateway(models.Model):
    """A process that relays requests to nodes. It proves that it lives by moving `seen_at`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField(db_index=True)

    # A gateway writes every second or two; after this long without a word it is gone and so is its work.
    LOST_AFTER: ClassVar = timedelta(seconds=12)

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Delivery(models.TextChoices):
    PULL = "pull", "pull: the agent keeps a connection open to us"
    PUSH = "push", "push: we call the node's URL"


class NodeState(models.TextChoices):
    """Why a node gets work or does not. `gpus.liveness` decides which one holds."""

    ONLINE = "online", "online"
    DRAINING = "draining", "draining"
    MAINTENANCE = "maintenance", "maintenance"
    UNREACHABLE = "unreachable", "unreachable"
    SILENT = "silent", "silent"
    OUTDATED = "outdated", "agent too old"
    PENDING = "pending", "waits for approval"
    SUSPENDED = "suspended", "suspended"


class Node(Hardware):
    """A provider's machine that answers requests."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="nodes")
    machine_id = models.CharField(max_length=128)
    name = models.CharField(max_length=100)
    token_prefix = models.CharField(max_length=16)
    token_digest = models.CharField(max_length=64, unique=True, editable=False)
    delivery = models.CharField(max_length=4, choices=Delivery, default=Delivery.PULL)
    push_url = models.URLField(max_length=500, blank=True)
    region = models.CharField(max_length=50, blank=True, db_index=True)
    trusted = models.BooleanField(default=False, help_text="An operator vouches for this node.")
    agent_version = models.CharField(max_length=50, blank=True)
    engine = models.CharField(
        max_length=200, blank=True, help_text="What answers behind the agent, with versions."
    )
    # What stops work, each by whoever may say it.
    drain_requested_at = models.DateTimeField(
        null=True, blank=True, help_text="An operator asked it to finish and stop."
    )
    suspended_at = models.DateTimeField(null=True, blank=True)
    suspended_reason = models.CharField(max_length=500, blank=True)
    draining = models.BooleanField(default=False, help_text="The agent says that it finishes and stops.")
    maintenance = models.BooleanField(default=False, help_text="The agent says that its owner works on it.")
    unreachable_since = models.DateTimeField(null=True, blank=True)
    unreachable_why = models.CharField(max_length=500, blank=True)
    message = models.CharField(
        max_length=500, blank=True, help_text="Shown to the provider with the next heartbeat."
    )
    # The process that holds the agent's connection, for nodes that pull.
    gateway = models.ForeignKey(Gateway, models.SET_NULL, null=True, blank=True, related_name="nodes")
    link_id = models.UUIDField(
        null=True, blank=True, help_text="Which of the agent's connections is the present one."
    )
    hour_price = models.ForeignKey(
        "gpus.Price",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="Per GPU, for allocations.",
    )
    training_price = models.ForeignKey(
        "gpus.Price",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="Per million tokens trained on. Empty: what an hour costs, by the time it takes; else the default.",
    )
    # What its agent offers besides answering: `gpus.talents` says what stands in them. Empty: not offered.
    training = models.JSONField(null=True, blank=True)
    hosting = models.JSONField(null=True, blank=True)
    # Goes up whenever there is something that the agent should ask for.
    errands = models.PositiveIntegerField(default=0, db_default=0)
    # What `liveness` last found, for people; placement computes it anew.
    state = models.CharField(max_length=12, choices=NodeState, default=NodeState.PENDING, db_index=True)
    state_reason = models.CharField(max_length=500, blank=True)
    state_since = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True, db_index=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint("owner", "machine_id", name="node_machine_unique")]

    def __str__(self) -> str:
        return self.name


class Heartbeat(models.Model):
    """The last sign of life of a node: a narrow row of its own, since it is written every few seconds."""

    node = models.OneToOneField(Node, models.CASCADE, primary_key=True, related_name="heartbeat")
    at = models.DateTimeField()
    active_requests = models.PositiveIntegerField(default=0)
    metrics = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return f"{self.node_id} at {self.at:%H:%M:%S}"


class Offer(models.Model):
    """A model that a node serves, and how much of it at once."""

    node = models.ForeignKey(Node, models.CASCADE, related_name="offers")
    model = models.CharField(max_length=255, db_index=True)
    revision = models.CharField(max_length=100, blank=True)
    description = models.CharField(max_length=500, blank=True)
    kinds = models.JSONField(default=list, help_text='Any of "chat", "completion", "embedding".')
    context_length = models.PositiveIntegerField(null=True, blank=True, help_text="Tokens.")
    concurrency = models.PositiveIntegerField(
        default=1, help_text="Requests that the node answers at the same time."
    )
    min_vram_mib = models.PositiveIntegerField(null=True, blank=True)
    price = models.ForeignKey(
        "gpus.Price",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="offers",
        help_text="Empty: the marketplace's default.",
    )
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint("node", "model", name="offer_model_unique")]

    def __str__(self) -> str:
        return f"{self.model} on {self.node_id}"


class NodeEvent(models.Model):
    """One change of a node's state, with its reason. Only ever added to."""

    node = models.ForeignKey(Node, models.CASCADE, related_name="events")
    at = models.DateTimeField()
    state = models.CharField(max_length=12, choices=NodeState)
    reason = models.CharField(max_length=500)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["node", "-at"], name="node_event_recent")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.state}: {self.reason}"


def overdue_before(now: datetime) -> datetime:
    """A node whose last heartbeat is older than this is silent."""
    return now - timedelta(seconds=settings.HEARTBEAT_INTERVAL_S * settings.HEARTBEATS_MISSED)
