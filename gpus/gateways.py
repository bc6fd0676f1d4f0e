"""The processes that relay requests, as others see them."""

from datetime import datetime, timedelta

from gpus.models import Gateway, Node

# Long enough that nothing refers to it any more, and that an operator can see what was there.
FORGET_AFTER = timedelta(hours=1)


def sweep(*, now: datetime) -> int:
    """Let go of the nodes that a lost gateway held, and forget gateways lost for long; how many nodes."""
    lost = Gateway.objects.filter(seen_at__lt=now - Gateway.LOST_AFTER)
    # A node that has connected elsewhere meanwhile has another gateway, and is not touched.
    freed = Node.objects.filter(gateway__in=lost).update(gateway=None, link_id=None, changed_at=now)
    Gateway.objects.filter(seen_at__lt=now - FORGET_AFTER).delete()
    return freed
