"""What Celery does for the accounts."""

from smtplib import SMTPException
from typing import Any

from celery import shared_task
from django.utils import timezone

from clients import devices, files, idempotency, passwords, uploads
from marketplace import storage


@shared_task
def sweep_tokens() -> int:
    """Delete tokens that have expired."""
    return devices.sweep(now=timezone.now())


@shared_task
def sweep_replies() -> int:
    """Delete replies that need not be kept any longer."""
    return idempotency.sweep(now=timezone.now())


@shared_task
def sweep_uploads() -> int:
    """Forget uploads that nobody has gone on with."""
    return uploads.sweep(now=timezone.now())


@shared_task
def sweep_files() -> int:
    """Delete contents that nothing points to any longer, and what killed processes have left on this disk."""
    storage.sweep_spool()
    return files.sweep(now=timezone.now())


@shared_task(
    bind=True, autoretry_for=(OSError, SMTPException), retry_backoff=10, retry_jitter=True, max_retries=5
)
def send_password_reset(self: Any, email: str) -> None:
    passwords.send_reset(email=email)
