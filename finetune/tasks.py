"""What Celery does for trainings: look for work, do it, and sweep up after who was killed.

The rows are the queue; a message only says that there may be something. A worker that takes a job owns it to its end,
here or on a node.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import shared_task
from celery.app.task import Task
from celery.signals import worker_shutting_down
from django.conf import settings
from django.utils import timezone
from kombu.exceptions import OperationalError

from finetune import attempts, datasets, deployments, supervision, workshop
from finetune.models import Attempt

logger = logging.getLogger(__name__)

QUEUE = "finetune"
# Trainings in this process at the same time.
_slots = threading.BoundedSemaphore(settings.TRAINING_SLOTS) if settings.TRAINING_SLOTS else None
# Large datasets that this process looks at at the same time: sweeps run in the same worker.
_readers = threading.BoundedSemaphore(2)


@worker_shutting_down.connect
def _close(**_said: Any) -> None:
    workshop.closing.set()


def ring(task: Task[Any, Any]) -> None:
    """Send a message; where the broker is away, a sweep will ring instead."""
    try:
        task.apply_async(retry=False)
    except OperationalError as error:
        logger.warning("The broker is away: %s", error)


# A job ends by its own limit (TRAINING_MAX_HOURS), and a worker goes on with the next one.
@shared_task(acks_late=True, time_limit=10**9, soft_time_limit=10**9)
def run_jobs() -> int:
    """Run jobs, one after the other, until there is none that this worker can begin; how many."""
    count = 0
    while not workshop.closing.is_set() and (attempt := _take()) is not None:
        count += 1
        _run(attempt)
    return count


def _take() -> Attempt | None:
    """An attempt to look after; where it is to run here, a slot is taken for it."""
    has_slot = _slots is not None and _slots.acquire(blocking=False)
    attempt = None
    try:
        now = timezone.now()
        attempt = attempts.adopt(worker=workshop.WORKER, now=now) or attempts.take(
            worker=workshop.WORKER, here_is_free=has_slot, now=now
        )
    finally:
        if has_slot and (attempt is None or attempt.node_id is not None):
            assert _slots is not None
            _slots.release()
    return attempt


def _run(attempt: Attempt) -> None:
    if attempt.node_id is not None:
        supervision.follow(attempt)
        return
    assert _slots is not None
    try:
        workshop.run(attempt)
    finally:
        _slots.release()


@shared_task
def sweep_jobs() -> int:
    """End what a killed worker has left, and ring for whatever waits; how many attempts were ended."""
    ended = attempts.sweep(now=timezone.now())
    for _ in range(attempts.rings_needed(now=timezone.now())):
        ring(run_jobs)
    return ended


@shared_task
def move_deployments() -> int:
    """Have names lead to what was deployed once it is loaded, and unload what nobody goes back to; how many moved."""
    return deployments.sweep(now=timezone.now())


# As long as reading the largest file may take.
@shared_task(time_limit=6 * 3600)
def validate_datasets() -> int:
    """Look at the datasets that wait for it, one after the other; how many. Elsewhere in this process: nothing."""
    if not _readers.acquire(blocking=False):
        return 0
    count = 0
    try:
        while datasets.validate_next():
            count += 1
    finally:
        _readers.release()
    return count


@shared_task
def sweep_datasets() -> int:
    """Delete what has expired, and ring again for datasets that nobody looks at; how many were deleted."""
    if datasets.are_forgotten(now=timezone.now()):
        ring(validate_datasets)
    return datasets.sweep(now=timezone.now())
