"""Who reads a network: one process at a time. Whoever has lost the lease writes nothing."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q

from chain.models import Network


class Lost(Exception):
    """Another process reads this network now, or it was paused or set back: nothing was written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write down what one network says, from `begun` on. `now()` goes on from there."""

    network: Network
    token: uuid.UUID
    begun: datetime
    _started: float = field(default_factory=time.monotonic)

    def now(self) -> datetime:
        return self.begun + timedelta(seconds=self.spent_s)

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._started

    def write(self, **values: Any) -> None:
        """Change the network's row, and have the lease last longer. Raises Lost, also where the cursor was moved."""
        network = self.network
        values["leased_until"] = _until(self.now())
        rows = Network.objects.filter(
            pk=network.pk,
            is_paused=False,
            lease=self.token,
            cursor_block=network.cursor_block,
            cursor_hash=network.cursor_hash,
        )
        if not rows.update(**values):
            raise Lost

    def give_back(self) -> None:
        Network.objects.filter(pk=self.network.pk, lease=self.token).update(lease=None, leased_until=None)


def take(network: Network, *, now: datetime) -> Lease | None:
    """None while another process has it, while the network is paused, or before it is to be asked again.

    A process that was killed gives nothing back; its lease runs out. `network` is brought up to date.
    """
    token = uuid.uuid4()
    free = Q(lease=None) | Q(leased_until=None) | Q(leased_until__lte=now)
    due = Network.objects.filter(free, pk=network.pk, is_paused=False, next_poll_at__lte=now)
    if not due.update(lease=token, leased_until=_until(now)):
        return None
    network.refresh_from_db()
    return Lease(network, token, now)


def _until(now: datetime) -> datetime:
    """Longer than a node may take for all that one window asks it."""
    return now + timedelta(seconds=10 + 2 * settings.CHAIN_TIMEOUT_S)
