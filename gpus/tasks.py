"""What the beat rings for: nodes whose state nobody has written down yet, gateways that are gone, leases to pay."""

from celery import shared_task
from django.utils import timezone

from gpus import gateways, leases, states


@shared_task
def sweep_nodes() -> int:
    """Write down the state of every node that is no longer what its row says; how many."""
    return states.sweep(now=timezone.now())


@shared_task
def sweep_gateways() -> int:
    """Let go of nodes whose gateway is gone, and forget gateways; how many nodes."""
    return gateways.sweep(now=timezone.now())


@shared_task
def sweep_leases() -> int:
    """Pay for the time for which nodes were reserved, and end what is over; how many allocations."""
    return leases.sweep(now=timezone.now())
