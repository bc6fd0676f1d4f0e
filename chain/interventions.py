"""What operators do about chains and what waits for them: each with a reason, and an audit row."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from chain import orders, outbox, outcomes, pins
from chain.fulfilment import rows, training
from chain.models import (
    Fulfilment,
    FulfilmentStatus,
    Network,
    Pin,
    TaskOrder,
    Transaction,
    TransactionStatus,
)
from clients import audit
from clients.models import Client
from marketplace import money
from marketplace.errors import Conflict


class AlreadySo(Conflict):
    code = "already_so"


class TooLate(Conflict):
    code = "fulfilment_too_late"


class TaskThere(Conflict):
    code = "task_there"


class StillWanted(Conflict):
    code, message = "pin_wanted", "Something on a chain, or of ours, points to it. It stays."


@transaction.atomic
def pause(network: Network, *, by: Client, reason: str, now: datetime) -> None:
    """Neither read a chain nor send to it until `resume`. Raises AlreadySo."""
    if not Network.objects.filter(pk=network.pk, is_paused=False).update(is_paused=True):
        raise AlreadySo(f"{network} is paused already.")
    audit.note(by=by, action="pause_network", subject=network, reason=reason)


@transaction.atomic
def resume(network: Network, *, by: Client, reason: str, now: datetime) -> None:
    """Go on with a chain that was paused, at once. Raises AlreadySo."""
    changed = Network.objects.filter(pk=network.pk, is_paused=True).update(is_paused=False, next_poll_at=now)
    if not changed:
        raise AlreadySo(f"{network} is not paused.")
    audit.note(by=by, action="resume_network", subject=network, reason=reason)


def may_be_tried(fulfilment: Fulfilment, *, now: datetime) -> bool:
    """Whether `try_now` changes anything: it is under way, or has failed with time left, and no answer is there."""
    if not fulfilment.has_ended:
        return fulfilment.status in rows.TO_DO
    sent = fulfilment.answer
    is_unanswered = sent is None or (sent.has_ended and sent.status != TransactionStatus.CONFIRMED)
    has_failed = fulfilment.status in (FulfilmentStatus.DECLINED, FulfilmentStatus.FAILED)
    return has_failed and is_unanswered and fulfilment.expires_at > now


@transaction.atomic
def try_now(fulfilment: Fulfilment, *, by: Client, reason: str, now: datetime) -> Fulfilment:
    """Try at once what waits; begin again with what was declined or has failed, unless an answer is on its way.

    Raises TooLate.
    """
    row = _locked(fulfilment)
    if not may_be_tried(row, now=now):
        raise TooLate(f"It is {row.get_status_display()}; there is nothing to try any more.")
    before = row.status
    changes: dict[str, object] = {"next_try_at": now}
    if row.has_ended:
        said = f"An operator has it tried once more: {reason}"
        changes |= {"status": FulfilmentStatus.FOUND, "code": "", "reason": said[:1000], "tries": 0, **_FREE}
        changes["changed_at"] = now
    Fulfilment.objects.filter(pk=row.pk).update(**changes)
    row.refresh_from_db()
    _note("try_fulfilment", row, by, reason, before)
    return row


def may_be_given_up(fulfilment: Fulfilment) -> bool:
    return fulfilment.status in _UNANSWERED


@transaction.atomic
def give_up(fulfilment: Fulfilment, *, by: Client, reason: str, now: datetime) -> Fulfilment:
    """Work on it no longer; who works on it at this moment writes nothing more. Raises TooLate once it is answered."""
    # The transaction first, as whoever ends it does.
    sent = None
    if fulfilment.attempt_id is not None:
        sent = Transaction.objects.select_for_update().get(pk=fulfilment.attempt_id)
    row = _locked(fulfilment)
    if not may_be_given_up(row):
        raise TooLate(f"It is {row.get_status_display()}; it cannot be given up any more.")
    before = row.status
    Fulfilment.objects.filter(pk=row.pk).update(
        status=FulfilmentStatus.FAILED,
        code="given_up",
        reason=f"An operator has given it up: {reason}"[:1000],
        changed_at=now,
        **_FREE,
    )
    row.refresh_from_db()
    training.stop(row, now=now)
    if sent is not None and sent.status == TransactionStatus.QUEUED:
        outbox.cancel(sent, reason="The fulfilment was given up.")
    _note("give_up_fulfilment", row, by, reason, before)
    return row


@transaction.atomic
def release(order: TaskOrder, *, by: Client, reason: str, now: datetime) -> TaskOrder:
    """End an order whose task is not to be found, though its publication has ended. Raises TaskThere."""
    # The transaction first, as whoever ends it does.
    if order.publication_id is not None:
        Transaction.objects.select_for_update().get(pk=order.publication_id)
    row = orders.locked(order.pk)
    if not outcomes.may_be_released(row):
        raise TaskThere(
            f"{row} is “{row.get_status_display()}”: it is released only where its publication has ended and no task "
            "of it is known."
        )
    before = row.status
    outcomes.release(row, reason=f"An operator has released it: {reason}", now=now)
    details = {
        "network": row.network.name, "client": row.owner_id, "amount": money.render(row.payment),
        "status": [before, row.status], "hash": row.publication.hash if row.publication else "",
    }  # fmt: skip
    audit.note(by=by, action="release_order", subject=row, reason=reason, details=details)
    return row


@transaction.atomic
def drop(pin: Pin, *, by: Client, reason: str, now: datetime) -> None:
    """Delete a pin that nothing points to. Raises StillWanted."""
    locked = Pin.objects.select_for_update().filter(pk=pin.pk).first()
    if locked is None:
        raise pins.UnknownPin
    if pins.pointed_to({locked.pk}, now=now):
        raise StillWanted
    details = {"filename": locked.filename, "size": locked.size, "created_at": locked.created_at.isoformat()}
    audit.note(by=by, action="delete_pin", subject=locked, reason=reason, details=details)
    locked.delete()


# Nobody works on it: what a worker writes that still does changes nothing.
_FREE: dict[str, object] = {"token": None, "leased_until": None}
_UNANSWERED = (
    FulfilmentStatus.FOUND,
    FulfilmentStatus.CHECKED,
    FulfilmentStatus.ATTEMPTING,
    FulfilmentStatus.WORKING,
)


def _locked(fulfilment: Fulfilment) -> Fulfilment:
    found = Fulfilment.objects.select_for_update(of=("self",)).select_related("network", "answer")
    return found.get(pk=fulfilment.pk)


def _note(action: str, row: Fulfilment, by: Client, reason: str, before: str) -> None:
    details = {"network": row.network.name, "task": row.task_address, "status": [before, row.status]}
    audit.note(by=by, action=action, subject=row.reference, reason=reason, details=details)
