"""What the beat rings for: requests that nobody will end, and models that nobody has catalogued."""

from celery import shared_task
from django.utils import timezone

from inference import batches, catalogue, demand, hosting, records, replays


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


@shared_task
def sweep_hostings() -> int:
    """Have other nodes serve what nodes that are gone did serve; how many were asked."""
    return hosting.sweep(now=timezone.now())


@shared_task
def seal_receipts() -> int:
    """Bind the receipts of what was paid since the last time together, and add up what providers earned; how many."""
    return batches.seal(now=timezone.now())


@shared_task
def sweep_demand() -> int:
    """Delete counts of requests that no report reaches back to; how many."""
    return demand.sweep(now=timezone.now())
