"""Fine-tuning jobs, whichever API they came through, and everything that has happened to them."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from marketplace.money import MoneyField


class Method(models.TextChoices):
    """The trainer. What it takes is in `finetune.trainer.parameters`."""

    CAUSAL = "causal", "causal language model, LoRA"
    EMBEDDING = "embedding", "embeddings, LoRA or full"


class Where(models.TextChoices):
    """Which places the owner allows."""

    ANY = "any", "anywhere"
    HERE = "here", "on the marketplace's own workers"
    NODES = "nodes", "on providers' nodes"
    TRUSTED = "trusted", "on nodes that the operator vouches for"
    ALLOCATION = "allocation", "on the nodes of an allocation"


class JobStatus(models.TextChoices):
    PENDING = "pending", "waits for a place"
    RUNNING = "running", "running"
    PAUSED = "paused", "paused by its owner"
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"
    REFUSED = "refused", "a precondition was not met"


class Face(models.TextChoices):
    OPENAI = "openai", "/v1/fine_tuning/jobs"
    BROKER = "broker", "/v1/user/…/task"
    TASKS = "tasks", "/fine-tuning/task"
    CHAIN = "chain", "a task on a chain"


class Job(models.Model):
    """One fine-tuning job. Its state is only ever changed by `finetune.jobs`, with a guard."""

    ENDED: ClassVar = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.REFUSED)

    uid = models.UUIDField(
        unique=True, default=uuid.uuid4, help_text="Its id in all APIs, each with its spelling."
    )
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="jobs", db_index=False)
    api_key = models.ForeignKey("clients.ApiKey", models.SET_NULL, null=True, blank=True, related_name="+")
    face = models.CharField(max_length=6, choices=Face)
    method = models.CharField(max_length=9, choices=Method)
    base = models.ForeignKey("inference.Revision", models.PROTECT, related_name="jobs")
    dataset = models.ForeignKey("finetune.Dataset", models.PROTECT, related_name="jobs")
    validation = models.ForeignKey(
        "finetune.Dataset", models.PROTECT, null=True, blank=True, related_name="+",
        help_text="Held-out rows; without it, a part of the dataset is held out.",
    )  # fmt: skip
    parameters = models.JSONField(default=dict, help_text="All hyper-parameters, defaults filled in.")
    asked = models.JSONField(default=dict, help_text="The same as they were asked for, `auto` included.")
    seed = models.PositiveIntegerField()
    suffix = models.CharField(max_length=64, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    where = models.CharField(max_length=10, choices=Where, default=Where.ANY)
    allocation_id = models.UUIDField(null=True, blank=True)
    deploy = models.BooleanField(default=False, help_text="Deploy the result as blue when it is there.")
    wait_on_conflict = models.BooleanField(default=False)
    # What an API needs to give back as it was said; nothing here is used to decide.
    said = models.JSONField(default=dict, blank=True)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    request_sha256 = models.CharField(max_length=64, blank=True)
    # The broker's API: the wallet that signed, and its nonce there.
    wallet = models.CharField(max_length=42, blank=True, db_index=True)
    nonce = models.DecimalField(max_digits=78, decimal_places=0, null=True, blank=True)

    status = models.CharField(max_length=9, choices=JobStatus, default=JobStatus.PENDING)
    code = models.CharField(max_length=50, blank=True, help_text="Why it is as it is, for programs.")
    reason = models.CharField(max_length=1000, blank=True, help_text="Why it is as it is, for people.")
    run = models.PositiveIntegerField(
        default=1, help_text="Goes up when it is restarted; each run is paid for itself."
    )
    tokens = models.BigIntegerField(help_text="That one epoch reads, by the base's own tokenizer.")
    epochs = models.FloatField()
    price = MoneyField(help_text="Quoted and held: exactly this is charged when it has succeeded.")
    charged = MoneyField(default=0)
    fee = MoneyField(default=0, help_text="The part of what was charged that the marketplace kept.")
    provider = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    terms = models.ForeignKey(
        "clients.Terms",
        models.DO_NOTHING,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    progress = models.JSONField(
        default=dict, blank=True, help_text="step, steps, epoch, loss, tokens, tokens_per_s, left_s."
    )
    metrics = models.JSONField(
        default=dict, blank=True, help_text="On held-out rows: before, after, which is best."
    )
    result = models.ForeignKey(
        "inference.Revision", models.PROTECT, null=True, blank=True, related_name="made_by"
    )
    is_better = models.BooleanField(
        null=True, blank=True, help_text="Whether it beats its base on held-out rows."
    )
    created_at = models.DateTimeField(db_default=Now())
    changed_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(
        null=True, blank=True, help_text="When to try again after a passing failure."
    )

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["owner", "-id"], name="job_by_owner"),
            models.Index(
                fields=["owner", "id"],
                name="job_pending",
                condition=models.Q(status__in=("pending", "running")),
            ),
        ]
        constraints = [
            models.UniqueConstraint("owner", "idempotency_key", name="job_idempotency_unique"),
            models.UniqueConstraint(
                "wallet", "nonce", name="job_nonce_unique", condition=~models.Q(wallet="")
            ),
        ]

    def __str__(self) -> str:
        return f"job {self.pk}"

    @property
    def reference(self) -> str:
        """Under which its money is held and paid."""
        return f"training:{self.pk}:{self.run}"

    @property
    def has_ended(self) -> bool:
        return self.status in self.ENDED

    @property
    def is_charged(self) -> bool:
        """Whether its owner pays for it here. What a chain wants is paid there, when the answer is confirmed."""
        return self.face != Face.CHAIN

    @property
    def provider_share(self) -> int:
        """The part of what was charged that the owner of the node got; the marketplace keeps the rest."""
        return self.charged - self.fee if self.provider_id is not None else 0


class AttemptOutcome(models.TextChoices):
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    LOST = "lost", "lost"
    STOPPED = "stopped", "stopped as asked"


class Attempt(models.Model):
    """One run of the trainer for a job, in one place. Whoever does not hold its token writes nothing."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="attempts")
    run = models.PositiveIntegerField()
    number = models.PositiveIntegerField(help_text="Among all attempts of the job, from 1.")
    token = models.UUIDField(unique=True, default=uuid.uuid4)
    # A record outlives its node. None: on the marketplace's own worker.
    node = models.ForeignKey(
        "gpus.Node", models.DO_NOTHING, null=True, blank=True, related_name="attempts", db_constraint=False
    )
    worker = models.CharField(max_length=255, help_text="The process that looks after it.")
    started_at = models.DateTimeField(db_default=Now())
    # The trainer's place was heard of, and the process that looks after it.
    heard_at = models.DateTimeField(db_default=Now())
    watched_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=9, choices=AttemptOutcome, blank=True)
    code = models.CharField(max_length=50, blank=True)
    reason = models.CharField(max_length=1000, blank=True)
    resumed_from = models.ForeignKey(
        "finetune.Checkpoint", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    event_number = models.PositiveIntegerField(
        default=0, help_text="The last of the trainer's events that was noted."
    )
    facts = models.JSONField(
        default=dict, blank=True, help_text="Hardware, versions, as the trainer found them."
    )

    class Meta:
        ordering = ["job", "number"]
        constraints = [
            models.UniqueConstraint("job", "number", name="attempt_number_unique"),
            models.UniqueConstraint("job", name="attempt_open_unique", condition=models.Q(ended_at=None)),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.job_id}"


class Event(models.Model):
    """Something that has happened to a job. Only ever added to."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="events", db_index=False)
    attempt = models.ForeignKey(Attempt, models.CASCADE, null=True, blank=True, related_name="events")
    at = models.DateTimeField(db_default=Now())
    level = models.CharField(
        max_length=5, choices={"info": "info", "warn": "warn", "error": "error"}, default="info"
    )
    kind = models.CharField(
        max_length=20, help_text="message, metrics, and the words of finetune.trainer.events."
    )
    message = models.CharField(max_length=2000)
    data = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["job", "id"], name="event_by_job")]

    def __str__(self) -> str:
        return self.message


class Checkpoint(models.Model):
    """A state that a job's training can go on from, and the adapter or weights as they were then."""

    uid = models.UUIDField(unique=True, default=uuid.uuid4)
    job = models.ForeignKey(Job, models.CASCADE, related_name="checkpoints")
    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="checkpoints")
    run = models.PositiveIntegerField()
    step = models.PositiveIntegerField()
    # Empty once it is not needed any longer: only the newest can be gone on from.
    blob = models.ForeignKey(
        "clients.Blob", models.PROTECT, null=True, blank=True, related_name="+", help_text="A tar archive."
    )
    metrics = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint("attempt", "step", name="checkpoint_step_unique")]

    def __str__(self) -> str:
        return f"step {self.step} of {self.job_id}"


class SentFile(models.Model):
    """A file that an attempt on a node has sent: a checkpoint, or a part of its result."""

    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="files")
    path = models.CharField(max_length=255)
    blob = models.ForeignKey("clients.Blob", models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint("attempt", "path", name="sent_file_unique")]

    def __str__(self) -> str:
        return self.path
