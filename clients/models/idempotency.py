"""Replies that are kept for whoever repeats a request with the same Idempotency-Key."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class StoredReply(models.Model):
    """A request that named an Idempotency-Key; `status` and the reply are empty while it runs."""

    client = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=255)
    request_sha256 = models.CharField(max_length=64, help_text="Of method, path and body.")
    gateway_id = models.UUIDField(null=True, blank=True, help_text="The process that works on it.")
    subject = models.CharField(max_length=100, blank=True, db_default="", help_text="What it made.")
    status = models.PositiveSmallIntegerField(null=True, blank=True)
    headers = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()))
    body = models.BinaryField(null=True, blank=True, help_text="Empty with a status: too large to be kept.")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "stored replies"
        constraints = [models.UniqueConstraint("client", "key", name="stored_reply_unique")]

    def __str__(self) -> str:
        return self.key
