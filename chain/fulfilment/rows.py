"""The row of a fulfilment while somebody works on it: taken with a lease, moved on with a guard, given back.

Who works on it holds its token. After a crash the lease runs out, and somebody else takes it with another token: what
an earlier holder still wants to write changes nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db.models import F, Q

from chain.models import Fulfilment, FulfilmentStatus, Task, TaskStatus

LEASE = timedelta(seconds=30)
# What there is something to do for, until it waits for the chain.
TO_DO = (FulfilmentStatus.FOUND, FulfilmentStatus.CHECKED, FulfilmentStatus.WORKING)
OPEN = (*TO_DO, FulfilmentStatus.ATTEMPTING)
_LONGEST_PAUSE_S = 60


class TakenAway(Exception):
    """Somebody else has the fulfilment now, or it has ended: nothing more is to be done about it here."""


class Outcome(Exception):
    """How a step has ended other than by its success: a code for programs and a sentence for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Later(Outcome):
    """It may succeed later. `after_s`: when; None: the longer, the more often it has been tried."""

    def __init__(self, code: str, reason: str, *, after_s: float | None = None) -> None:
        super().__init__(code, reason)
        self.after_s = after_s


class Impossible(Outcome):
    """It will not be done: declined, or failed where it was taken on already."""


class TooLate(Outcome):
    """There is not enough time left."""


def claim(fulfilment_id: int, *, now: datetime) -> Fulfilment | None:
    """Take a fulfilment that is due; None where it is not, or somebody else has it."""
    token = uuid4()
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    due = Fulfilment.objects.filter(free, pk=fulfilment_id, status__in=TO_DO, next_try_at__lte=now)
    if not due.update(token=token, leased_until=now + LEASE):
        return None
    return Fulfilment.objects.select_related("network").filter(pk=fulfilment_id, token=token).first()


def keep(tokens: list[UUID], *, now: datetime) -> None:
    """Prolong the leases of what is being worked on."""
    Fulfilment.objects.filter(token__in=tokens).update(leased_until=now + LEASE)


def move(held: Fulfilment, status: FulfilmentStatus, *, now: datetime, **changes: Any) -> None:
    """Write down that a held fulfilment is further. Raises TakenAway."""
    changes = {"code": "", "reason": "", "tries": 0, "next_try_at": now, "changed_at": now, **changes}
    _write(held, status=status, **changes)


def note(held: Fulfilment, **changes: Any) -> None:
    """Write something down about a held fulfilment that stays where it is. Raises TakenAway."""
    _write(held, **changes)


def postpone(held: Fulfilment, why: Later, *, now: datetime) -> None:
    """Give it back, to be tried again."""
    pause_s = min(2**held.tries, _LONGEST_PAUSE_S) if why.after_s is None else why.after_s
    tries = F("tries") if why.after_s is not None else F("tries") + 1
    _write(
        held, code=why.code[:50], reason=_plain(why.reason), tries=tries, token=None, leased_until=None,
        next_try_at=now + timedelta(seconds=pause_s),
    )  # fmt: skip


def end(held: Fulfilment, status: FulfilmentStatus, why: Outcome, *, now: datetime) -> None:
    """Give it back as ended. Raises TakenAway."""
    _write(
        held, status=status, code=why.code[:50], reason=_plain(why.reason), changed_at=now, token=None,
        leased_until=None,
    )  # fmt: skip


def give_back(held: Fulfilment) -> None:
    """Let somebody else have it, as it is; nothing happens where somebody has."""
    Fulfilment.objects.filter(pk=held.pk, token=held.token).update(token=None, leased_until=None)


def task_of(fulfilment: Fulfilment) -> Task | None:
    """The very task on the chain: at its address, by its transaction."""
    return (
        Task.objects.select_related("source")
        .filter(
            network_id=fulfilment.network_id,
            address=fulfilment.task_address,
            transaction_hash=fulfilment.published_transaction,
        )
        .first()
    )


def open_task_of(fulfilment: Fulfilment) -> Task:
    """The same, as long as it can be answered. Raises Later where it has vanished, TakenAway where it has ended."""
    found = task_of(fulfilment)
    if found is None:
        raise Later(
            "vanished", "The task is not on the chain at the moment: blocks were replaced.", after_s=5
        )
    if found.status in (TaskStatus.CANCELED, TaskStatus.EXPIRED, TaskStatus.FINALIZED):
        raise TakenAway
    return found


def _write(held: Fulfilment, **changes: Any) -> None:
    guarded = Fulfilment.objects.filter(pk=held.pk, token=held.token, status=held.status)
    if held.token is None or not guarded.update(**changes):
        raise TakenAway
    for name, value in changes.items():
        if not isinstance(value, F) and not hasattr(value, "resolve_expression"):
            setattr(held, name, value)


def _plain(text: str) -> str:
    return text.replace("\0", "")[:1000]
