"""What the beat rings for: requests that nobody will end, and models that nobody has catalogued."""

from celery import shared_task
from django.utils import timezone

from inference import catalogue, records, replays


@shared_task
def sweep_inferences() -> int:
    """End requests whose process is gone or whose deadline is long past; how many."""
    return records.sweep(now=timezone.now())


@shared_task
def sweep_claims() -> int:
    """Free the Idempotency-Keys of requests that nobody will end; how many."""
    return replays.sweep(now=timezone.now())


@shared_task
def sweep_catalogue() -> int:
    """Catalogue models that nodes offer for the first time; how many."""
    return catalogue.sweep()
