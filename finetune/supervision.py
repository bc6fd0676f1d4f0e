"""A training on a provider's node, from the marketplace's side: asked for, watched, moved when the node is lost.

The node fetches what it needs by signed links, reports by `finetune.api.training`, and hands in its result there; the
rows say how it is. Nothing here is lost when the process that watches dies: another one adopts the attempt.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from finetune import attempts, workshop
from finetune.models import Attempt, Where
from gpus import nodes
from gpus.models import Gateway, Lease, Node

LOOK_EVERY_S = 1.0
# Between two looks. What took longer was the database's absence, or this machine's: the node could not report either.
_STEADY_S = 5.0
# To write a last checkpoint and send it.
_OBEYS_WITHIN_S = 300.0


def errands(node_id: int) -> list[dict[str, Any]]:
    """What a node is to train at the moment: [{"attempt", "method", "path"}]. Whatever it trains besides is not wanted.

    Under `path` it finds all the rest (`finetune.api.training`).
    """
    open_ones = Attempt.objects.filter(node_id=node_id, ended_at=None).select_related("job")
    return [
        {"attempt": str(each.token), "method": each.job.method, "path": f"/llm_models/training/{each.token}/"}
        for each in open_ones
        if attempts.order_of(each).word != attempts.STOP
    ]


def follow(attempt: Attempt) -> None:
    """Look after an attempt on a node until it is over, or until this process closes and somebody else adopts it."""
    assert attempt.node_id is not None
    node_id = attempt.node_id
    workshop.patiently(lambda: nodes.send_for_errands(node_id))
    patience = _Patience(attempt.heard_at)
    while not workshop.closing.wait(LOOK_EVERY_S):
        if not workshop.patiently(lambda: _look(attempt, patience)):
            workshop.patiently(lambda: nodes.send_for_errands(node_id))
            return
    workshop.patiently(lambda: attempts.let_go(attempt.token, worker=workshop.WORKER))


def _look(attempt: Attempt, patience: _Patience) -> bool:
    """See how an attempt is and end it where it must be; whether it goes on."""
    assert attempt.node_id is not None
    now = timezone.now()
    order = attempts.watch(attempt.token, worker=workshop.WORKER, now=now)
    heard = (
        Attempt.objects.filter(pk=attempt.pk, ended_at=None, worker=workshop.WORKER)
        .values_list("heard_at", flat=True)
        .first()
    )
    if heard is None:
        return False
    is_silent = patience.silent_s(heard) > settings.TRAINING_LOST_AFTER_S
    if order.goes_on:
        patience.nothing_asked()
    if order.word == attempts.STOP or (
        order.word == attempts.PAUSE and (is_silent or patience.is_at_its_end())
    ):
        # The node learns of it with its next report; it is not waited for.
        attempts.stopped(attempt.token, now=now)
        return False
    if now - attempt.started_at > timedelta(hours=settings.TRAINING_MAX_HOURS):
        attempts.fail(
            attempt.token, code="time_limit", reason="It took longer than it may.", retry=False, now=now
        )
        return False
    gone = _gone(attempt) or (_SILENT if is_silent else None)
    if gone is not None:
        attempts.lose(attempt.token, code=gone[0], reason=gone[1], now=now)
        return False
    return True


_SILENT = ("node_lost", "The node was not heard of any more.")


def _gone(attempt: Attempt) -> tuple[str, str] | None:
    """Why a node may train no longer, if so: a code and a sentence."""
    assert attempt.node_id is not None
    node = (
        Node.objects.filter(pk=attempt.node_id)
        .values("suspended_at", "owner__provider_status", "owner__is_active")
        .first()
    )
    if node is None:
        return "node_left", "The node has left the marketplace."
    admitted = node["owner__provider_status"] == "approved" and node["owner__is_active"]
    if node["suspended_at"] is not None or not admitted:
        return "node_suspended", "The node was suspended."
    job = attempt.job
    if job.where == Where.ALLOCATION:
        assert job.allocation_id is not None
        leases = Lease.objects.filter(node_id=attempt.node_id, allocation_id=job.allocation_id, ended_at=None)
        if not leases.exists():
            # The training costs nothing besides the allocation: it goes no further than that.
            return "allocation_over", "The node is not of its owner's allocation any more."
    return None


class _Patience:
    """For how long a node has not been heard of, counting only while it could have been; and not obeyed."""

    def __init__(self, heard_at: datetime) -> None:
        self._heard_at = heard_at
        self._seconds = 0.0
        self._looked_at = self._obeyed_at = time.monotonic()

    def nothing_asked(self) -> None:
        """There is nothing to obey."""
        self._obeyed_at = time.monotonic()

    def is_at_its_end(self) -> bool:
        """Whether a node that was told to pause has had its time."""
        return time.monotonic() - self._obeyed_at > _OBEYS_WITHIN_S

    def silent_s(self, heard_at: datetime) -> float:
        """Seconds, by when it was last heard of."""
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        if heard_at != self._heard_at or passed > _STEADY_S or not _is_open():
            self._heard_at, self._seconds = heard_at, 0.0
        else:
            self._seconds += passed
        return self._seconds


def _is_open() -> bool:
    """Whether a web process of ours runs, to which nodes can report."""
    return Gateway.objects.filter(seen_at__gt=timezone.now() - Gateway.LOST_AFTER).exists()
