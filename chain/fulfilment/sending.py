"""What we send to a chain for a task: the attempt before the work, the answer after it, each once."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.db import transaction

from chain import keys, outbox, pins, registrations
from chain.ethereum import encoded
from chain.fulfilment import rows
from chain.fulfilment.rows import Impossible, TooLate
from chain.models import (
    Attempt,
    Fulfilment,
    FulfilmentStatus,
    Log,
    Purpose,
    Response,
    Transaction,
    TransactionStatus,
)
from marketplace.storage import TooLarge

_UNANSWERED = (*rows.OPEN, FulfilmentStatus.ANSWERING, FulfilmentStatus.FAILED, FulfilmentStatus.EXPIRED)


def attempt(held: Fulfilment, *, now: datetime) -> None:
    """Tell the chain that we take a task on; the work begins once it is there. Raises TooLate, NoKey, TakenAway."""
    rows.open_task_of(held)
    provider = keys.provider_address()
    data = encoded("Nexus", "attempt", held.task_address, provider, held.payment)
    with transaction.atomic():
        sent = _queue(held, Purpose.ATTEMPT, f"attempt:{held.pk}", data, provider, now)
        rows.move(
            held, FulfilmentStatus.ATTEMPTING, now=now, attempt=sent, token=None, leased_until=None
        )  # fmt: skip


def answer(held: Fulfilment, said: dict[str, Any], *, now: datetime, **done_by: Any) -> None:
    """Pin an answer, and have the chain told where it is.

    `done_by`: what is written down about who has done it. Raises Impossible where it is too large, TooLate, TakenAway.
    """
    rows.open_task_of(held)
    if now >= held.expires_at:
        raise TooLate("expired", "The answer was there only when the task had expired.")
    content = json.dumps({**said, "onchain": _about(held)}, ensure_ascii=False).encode()
    try:
        pin = pins.keep(
            content, filename="response.json", content_type="application/json", keep_until=None, now=now
        )
    except TooLarge:
        raise Impossible(
            "answer_too_large", f"The answer has {len(content)} bytes, more than can be pinned."
        ) from None
    # Who has attempted it must answer.
    provider = held.attempt.sender if held.attempt is not None else keys.provider_address()
    url = pins.url(pin)
    data = encoded("Nexus", "submitResponse", (held.task_address, provider, url, held.payment))
    with transaction.atomic():
        sent = _queue(held, Purpose.RESPONSE, f"respond:{held.pk}", data, provider, now)
        rows.move(
            held, FulfilmentStatus.ANSWERING, now=now, answer=sent, answer_url=url, token=None, leased_until=None,
            **done_by,
        )  # fmt: skip


def _about(held: Fulfilment) -> dict[str, str]:
    """Makes each task's answer another content, and says whose it is."""
    return {
        "network": held.network.name,
        "source": held.source_address,
        "task": held.task_address,
        "function": held.function,
    }


def _queue(
    held: Fulfilment, purpose: Purpose, reference: str, data: str, provider: str, now: datetime
) -> Transaction:
    """Once for a fulfilment. What the chain has refused before is begun again: an operator wants it tried.

    The answer need not wait until the attempt is final: one sender's transactions are carried out in their order.
    """
    before = Transaction.objects.filter(reference=reference).first()
    sent = before or outbox.queue(
        network=held.network, purpose=purpose, reference=reference, to=held.network.address("NEXUS"), data=data,
        sender=provider, expires_at=held.expires_at,
    )  # fmt: skip
    if sent.has_ended and sent.status != TransactionStatus.CONFIRMED:
        outbox.again(sent, at=now, reason="")
    return sent


# --- What became of it (called in the transaction in which that is written down) ---------------------------------


def attempt_ended(sent: Transaction) -> None:
    """The attempt is final, or was refused."""
    held = Fulfilment.objects.filter(attempt=sent, status=FulfilmentStatus.ATTEMPTING).first()
    if held is None:
        return
    assert sent.ended_at is not None
    if sent.status == TransactionStatus.CONFIRMED and _said(sent, "Attempted"):
        _become(held, FulfilmentStatus.WORKING, sent.ended_at)
    elif sent.status == TransactionStatus.CONFIRMED:
        # An attempt after its time ends a task instead.
        _become(
            held,
            FulfilmentStatus.EXPIRED,
            sent.ended_at,
            "expired",
            "It expired before our attempt was there.",
        )
    elif "AlreadyAttempted" in sent.reason and has_attempted(held, sent.sender):
        _become(held, FulfilmentStatus.WORKING, sent.ended_at)
    elif "NotRegistered" in sent.reason or "NotEligible" in sent.reason:
        registrations.lost(held.network, held.source_address, now=sent.ended_at)
        # It is looked after, and then this is attempted once more, if there is time left.
        _become(held, FulfilmentStatus.CHECKED, sent.ended_at)
    else:
        _refused(held, sent, "attempt")


def response_ended(sent: Transaction) -> None:
    """The answer is final, or was refused."""
    held = Fulfilment.objects.filter(answer=sent, status__in=_UNANSWERED).first()
    if held is None:
        return
    assert sent.ended_at is not None
    if sent.status == TransactionStatus.CONFIRMED:
        log = _said(sent, "ResponseSubmitted")
        address = str(log.arguments.get("response", "")) if log else ""
        _become(held, FulfilmentStatus.ANSWERED, sent.ended_at, response_address=address)
    elif (ours := response_of(held, sent.sender)) is not None:
        _become(held, FulfilmentStatus.ANSWERED, sent.ended_at, response_address=ours.address)
    else:
        _refused(held, sent, "answer")


def has_attempted(fulfilment: Fulfilment, provider: str) -> bool:
    return Attempt.objects.filter(
        task__network_id=fulfilment.network_id, task__address=fulfilment.task_address, provider=provider
    ).exists()


def response_of(fulfilment: Fulfilment, provider: str) -> Response | None:
    """What the chain knows as this provider's answer to the very task."""
    return Response.objects.filter(
        network_id=fulfilment.network_id, task__address=fulfilment.task_address,
        task__transaction_hash=fulfilment.published_transaction, provider=provider,
    ).first()  # fmt: skip


def _said(sent: Transaction, name: str) -> Log | None:
    """The event of this name that a transaction has brought about."""
    return Log.objects.filter(network_id=sent.network_id, transaction_hash=sent.hash, name=name).first()


# The contracts' words (and the outbox's), and what they mean for a fulfilment.
_MEANINGS = (
    ("expired", FulfilmentStatus.EXPIRED),
    ("alreadyfinalized", FulfilmentStatus.LOST),
    ("unknowntask", FulfilmentStatus.LOST),
)


def _refused(held: Fulfilment, sent: Transaction, what: str) -> None:
    assert sent.ended_at is not None
    said = sent.reason.lower()
    status = next((status for words, status in _MEANINGS if words in said), FulfilmentStatus.FAILED)
    if status == FulfilmentStatus.FAILED and sent.ended_at >= held.expires_at:
        status = FulfilmentStatus.EXPIRED
    reason = f"The {what} was not carried out ({sent.get_status_display()}): {sent.reason}"
    _become(held, status, sent.ended_at, f"{what}_refused", reason)


def _become(
    held: Fulfilment, status: FulfilmentStatus, now: datetime, code: str = "", reason: str = "", **more: Any
) -> None:
    Fulfilment.objects.filter(pk=held.pk, status=held.status).update(
        status=status, code=code, reason=reason[:1000], tries=0, next_try_at=now, changed_at=now, token=None,
        leased_until=None, **more,
    )  # fmt: skip
