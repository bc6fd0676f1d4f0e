"""The next steps of one fulfilment, as far as they go without waiting for the chain."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from django.db import InterfaceError, OperationalError, transaction

from chain.fulfilment import asking, checking, rows, sending, training
from chain.fulfilment.rows import Impossible, Later, Outcome, TakenAway, TooLate
from chain.models import Fulfilment, FulfilmentStatus
from marketplace.errors import MarketplaceError

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]
_UNTAKEN = (FulfilmentStatus.FOUND, FulfilmentStatus.CHECKED)


def advance(held: Fulfilment, *, clock: Clock) -> None:
    """Do what there is to do for a fulfilment that was claimed (`rows.claim`), and give it back.

    Whatever goes wrong is written down there. What is no Exception (the process is being ended) leaves it to its lease.
    """
    try:
        _until_it_waits(held, clock)
    except TakenAway:
        rows.give_back(held)
    except (OperationalError, InterfaceError):
        # Nothing can be written down now either; the lease runs out.
        logger.exception("Fulfilment %s: the database failed", held.pk)


def _until_it_waits(held: Fulfilment, clock: Clock) -> None:
    try:
        while held.status in rows.TO_DO and held.token is not None:
            _STEPS[FulfilmentStatus(held.status)](held, clock)
    except Later as why:
        rows.postpone(held, why, now=clock())
    except TooLate as why:
        _ended(held, FulfilmentStatus.EXPIRED, why, clock)
    except Impossible as why:
        taken = held.status not in _UNTAKEN
        _ended(held, FulfilmentStatus.FAILED if taken else FulfilmentStatus.DECLINED, why, clock)
    except MarketplaceError as error:
        rows.postpone(held, Later(error.code, error.message), now=clock())
    except (TakenAway, OperationalError, InterfaceError):
        raise
    except Exception:
        # Whatever is odd about one task, the others are not to wait for it.
        logger.exception("Unforeseen error in fulfilment %s", held.pk)
        fault = Later("internal_error", "A fault of ours: the worker's log says more.")
        rows.postpone(held, fault, now=clock())


def _ended(held: Fulfilment, status: FulfilmentStatus, why: Outcome, clock: Clock) -> None:
    with transaction.atomic():
        rows.end(held, status, why, now=clock())
        training.stop(held, now=clock())


def _check(held: Fulfilment, clock: Clock) -> None:
    checking.check(held, now=clock())


def _attempt(held: Fulfilment, clock: Clock) -> None:
    checking.check_time(held, now=clock())
    checking.check_registered(held)
    sending.attempt(held, now=clock())


def _work(held: Fulfilment, clock: Clock) -> None:
    rows.open_task_of(held)
    wanted = checking.wanted_by(held)
    budget = checking.budget_of(held)
    if wanted.is_training:
        training.step(held, wanted.data, wanted.model, budget=budget, now=clock())
        return
    left_s = asking.left_s(held.expires_at, now=clock(), keep_s=checking.ANSWERING_S)
    if left_s <= 0:
        raise TooLate("expired", "There is no time left to do it.")
    try:
        answer = asking.ask(
            wanted.request, key=f"fulfilment:{held.pk}", budget=budget, deadline_s=left_s
        )  # fmt: skip
    except Impossible as why:
        if why.code == "payment_too_low":
            # It was not when we took it on: prices have risen, and may fall.
            raise Later(why.code, why.reason) from None
        raise
    sending.answer(held, wanted.answer(answer.body), now=clock(), **answer.done_by())


_STEPS: dict[FulfilmentStatus, Callable[[Fulfilment, Clock], None]] = {
    FulfilmentStatus.FOUND: _check,
    FulfilmentStatus.CHECKED: _attempt,
    FulfilmentStatus.WORKING: _work,
}
