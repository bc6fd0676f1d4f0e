"""Rings for this app's tasks as soon as there is something for them, so that it need not wait for beat.

A ring may be lost, or one too many: the rows say what there is to do.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from functools import partial

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from chain.models import Network

logger = logging.getLogger(__name__)

# What was rung for a moment ago is about to look anyway; and beat rings for what comes just after that look.
AGAIN_AFTER_S = 0.1
# A message that nobody has taken by then is beat's to replace.
EXPIRES_S = 1

_rung: dict[str, float] = {}


def ring(*tasks: str) -> None:
    """Ring for tasks of `chain.tasks` once the present transaction is committed; at once where there is none."""
    for task in tasks:
        transaction.on_commit(partial(_ring, task))


def on_progress(network: Network, now: datetime) -> None:
    """Something new was read."""
    ring("send_transactions", "advance_fulfilments", "settle_orders")


def _ring(task: str) -> None:
    now = time.monotonic()
    if now - _rung.get(task, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
        return
    _rung[task] = now
    try:
        current_app.send_task(f"chain.tasks.{task}", expires=EXPIRES_S, retry=False)
    except OperationalError as error:
        logger.warning("The broker is away: %s", error)
