"""What models are taught with."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class Format(models.TextChoices):
    """What a dataset's rows are. `finetune.formats` says what each looks like."""

    CHAT = "chat", "chat messages"
    COMPLETION = "completion", "prompt and completion"
    INSTRUCTION = "instruction", "instruction, input and output"
    TEXT = "text", "plain text"
    PAIRS = "pairs", "sentence pairs, with a score or without"
    TRIPLETS = "triplets", "anchor, positive and negative"
    CLICKS = "clicks", "click sessions: query, results, clicked"


class DatasetStatus(models.TextChoices):
    VALIDATING = "validating", "is being looked at"
    READY = "ready", "can be used"
    INVALID = "invalid", "cannot be used; its errors say why"


class Dataset(models.Model):
    """An uploaded file, what was found in it, and (once it is ready) its rows in one form, as trainers read them."""

    uid = models.CharField(max_length=40, unique=True, help_text="file-…, its name in all APIs.")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="datasets")
    name = models.CharField(max_length=255)
    description = models.TextField(blank=True)
    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=50, default="fine-tune")
    metadata = models.JSONField(default=dict, blank=True)
    # Empty once it is deleted; jobs that used it keep the row.
    blob = models.ForeignKey("clients.Blob", models.PROTECT, null=True, blank=True, related_name="+")
    rows = models.ForeignKey(
        "clients.Blob", models.PROTECT, null=True, blank=True, related_name="+",
        help_text="JSON lines in the form of the format.",
    )  # fmt: skip
    size = models.BigIntegerField(help_text="Bytes, as uploaded.")
    sha256 = models.CharField(max_length=64, db_index=True)
    keccak256 = models.CharField(max_length=64, db_index=True)
    format = models.CharField(max_length=11, choices=Format, blank=True)
    status = models.CharField(max_length=10, choices=DatasetStatus, default=DatasetStatus.VALIDATING)
    summary = models.JSONField(default=dict, blank=True, help_text="What `finetune.datasets` has counted.")
    errors = models.JSONField(
        default=list, blank=True, help_text="The first of them: line, field, message, fix."
    )
    error_count = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["owner", "-id"], name="dataset_by_owner")]

    def __str__(self) -> str:
        return self.name
