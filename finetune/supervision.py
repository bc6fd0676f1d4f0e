"""A training on a provider's node, from the marketplace's side: asked for, watched, moved when the node is lost.

The node fetches what it needs by signed links, reports by `finetune.api.training`, and hands in its result there; the
rows say how it is. Nothing here is lost when the process that watches dies: another one adopts the attempt.
"""

from __future__ import annotations

import time
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from finetune import attempts, workshop
from finetune.models import Attempt
from gpus import nodes

LOOK_EVERY_S = 1.0


def follow(attempt: Attempt) -> None:
    """Look after an attempt on a node until it is over."""
    assert attempt.node_id is not None
    node_id = attempt.node_id
    workshop.patiently(lambda: nodes.send_for_errands(node_id))
    last_heard, silent_since = attempt.heard_at, time.monotonic()
    while not workshop.closing.wait(LOOK_EVERY_S):  # then somebody else adopts it
        order = workshop.patiently(
            lambda: attempts.watch(attempt.token, worker=workshop.WORKER, now=timezone.now())
        )
        heard = workshop.patiently(lambda: _heard_at(attempt))
        if heard is None:
            return
        if heard != last_heard:
            last_heard, silent_since = heard, time.monotonic()
        silent_s = time.monotonic() - silent_since
        if not order.goes_on:
            # The node learns of it with its next report; one that is gone too is not waited for.
            if silent_s > settings.TRAINING_LOST_AFTER_S or order.word == attempts.STOP:
                workshop.patiently(lambda: attempts.stopped(attempt.token, now=timezone.now()))
                return
        elif silent_s > settings.TRAINING_LOST_AFTER_S:
            workshop.patiently(lambda: _lose(attempt))
            return


def _heard_at(attempt: Attempt) -> datetime | None:
    """When it was last heard of; None once it has ended."""
    return Attempt.objects.filter(pk=attempt.pk, ended_at=None).values_list("heard_at", flat=True).first()


def _lose(attempt: Attempt) -> None:
    reason = f"The node was not heard of for {settings.TRAINING_LOST_AFTER_S:g} s."
    attempts.lose(attempt.token, code="node_lost", reason=reason, now=timezone.now())
