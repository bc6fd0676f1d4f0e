"""What has been uploaded: contents, each kept once, and large files that are still coming in parts."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class Blob(models.Model):
    """The content of a file. Whoever needs it points here (PROTECT); what nobody points to is swept away."""

    sha256 = models.CharField(primary_key=True, max_length=64)
    keccak256 = models.CharField(max_length=64, db_index=True)
    size = models.BigIntegerField(help_text="Bytes.")
    name = models.CharField(max_length=200, editable=False, help_text="In the storage.")
    created_at = models.DateTimeField(db_default=Now())
    # Somebody has just sent it, or is about to point to it.
    touched_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.sha256[:12]


class UploadStatus(models.TextChoices):
    OPEN = "open", "parts are coming"
    COMPLETED = "completed", "completed"
    CANCELLED = "cancelled", "cancelled"


class Upload(models.Model):
    """A file that comes in parts, each of which may be sent again until the upload is completed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="uploads")
    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=50)
    size = models.BigIntegerField(null=True, blank=True, help_text="Bytes, as announced.")
    sha256 = models.CharField(max_length=64, blank=True, help_text="As announced.")
    status = models.CharField(max_length=9, choices=UploadStatus, default=UploadStatus.OPEN)
    result = models.CharField(max_length=100, blank=True, help_text="What it has become.")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.filename


class UploadPart(models.Model):
    """One part. Its content is a blob like any other."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    upload = models.ForeignKey(Upload, models.CASCADE, related_name="parts")
    number = models.PositiveIntegerField(help_text="Its place among the parts, from 0.")
    blob = models.ForeignKey(Blob, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    MOST: ClassVar = 10_000

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint("upload", "number", name="upload_part_unique")]

    def __str__(self) -> str:
        return f"part {self.number} of {self.upload_id}"
