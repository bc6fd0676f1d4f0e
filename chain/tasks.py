"""What Celery does for chains, in the queue `chain`: read them, send to them, and go on with whatever waits for them.

The rows are the queue; a message only says that there may be something. Each task does one network after the other.
"""

import logging
from datetime import datetime
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from chain import (
    broadcast,
    deposits,
    indexer,
    networks,
    outcomes,
    pins,
    reconciliation,
    repeats,
    roots,
    withdrawals,
)
from chain.fulfilment import rounds
from chain.fulfilment.crew import Crew
from chain.models import Network

logger = logging.getLogger(__name__)

_crew = Crew()


@shared_task
def follow_networks() -> int:
    """Read what is new on every chain; how many blocks."""
    return indexer.follow_all(now=timezone.now())


@shared_task
def send_transactions() -> int:
    """Credit what came in, and send what is to go out; how many rows have changed or are under way."""
    now = timezone.now()
    return sum(_sent(network, now) for network in networks.followed())


def _sent(network: Network, now: datetime) -> int:
    try:
        done = deposits.sweep(network, now=now) + withdrawals.sweep(network, now=now)
        done += broadcast.advance(network, now=now)
        broadcast.watch_balances(network, now=now)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        # Whatever is odd about one chain, the others are not to wait for it.
        if repeats.is_news(("sent", network.pk), error):
            logger.exception("What is to be sent to %s could not be looked after", network)
        return 0
    return done


@shared_task
def publish_roots() -> int:
    """Have the roots of new batches of receipts published; how many."""
    return roots.publish(now=timezone.now())


@shared_task
def reconcile() -> int:
    """Compare the ledger with every chain; how many do not agree."""
    return reconciliation.run_all(now=timezone.now())


@shared_task
def advance_fulfilments() -> int:
    """Look what there is to do for tasks on chains, and begin it in threads of this process; how much was begun."""
    return rounds.look(_crew, clock=timezone.now)


@worker_shutting_down.connect
def _close(**_said: Any) -> None:
    # What runs is taken on by another worker when its lease has run out, and gets the same answer.
    _crew.closing.set()


@shared_task
def settle_orders() -> int:
    """Go on with orders of tasks that the chain has said something about; how many were looked at."""
    return outcomes.sweep(now=timezone.now())


@shared_task
def sweep_pins() -> int:
    """Drop files that strangers have left and nothing points to."""
    return pins.sweep(now=timezone.now())
