"""Records of requests: what their owner may still do to them, and how those end that nobody ends."""

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from clients import idempotency, ledger
from gpus.models import Gateway
from inference.models import Inference, Running, Status
from marketplace.errors import Conflict

# A request may take its whole deadline; then its process has this long to write down the end.
GRACE = timedelta(seconds=60)
# Locks are held for so many rows only.
SWEPT_AT_ONCE = 500


class StillRunning(Conflict):
    code = "still_running"
    message = "This request is still being answered. Wait for its end, then repeat this."


class ModelIsFixed(Conflict):
    code = "model_is_fixed"
    message = "This request has been answered by its model; ask again to have another one answer."


def of(client_id: int, *, everybody: bool = False) -> QuerySet[Inference]:
    """The records a client sees, newest first; with `everybody`, all that are not deleted."""
    rows = Inference.objects.filter(deleted_at=None).select_related("client", "node").order_by("-id")
    return rows if everybody else rows.filter(client_id=client_id)


def rename(record: Inference, *, question_text: str | None, desired_model: str | None) -> Inference:
    """Change the text that a record shows. What it is metered by, the model included, stays as it was.

    Raises ModelIsFixed for another model.
    """
    if desired_model not in (None, record.desired_model):
        raise ModelIsFixed
    if question_text is not None:
        Inference.objects.filter(pk=record.pk, deleted_at=None).update(question_text=question_text)
        record.question_text = question_text
    return record


def delete(record: Inference, *, now: datetime) -> None:
    """Take a record from its owner's sight and its texts from the database. What it is metered by stays.

    Raises StillRunning.
    """
    finished = Inference.objects.filter(pk=record.pk).exclude(status=Status.RUNNING)
    if not finished.update(deleted_at=now, question_text="", answer_text=""):
        raise StillRunning
    idempotency.forget(client_id=record.client_id, subject=f"inference:{record.pk}")


def sweep(*, now: datetime) -> int:
    """End what nobody will end, and release what it held: requests whose gateway is gone or that are long overdue.

    Returns how many.
    """
    alive: list[UUID] = list(
        Gateway.objects.filter(seen_at__gte=now - Gateway.LOST_AFTER).values_list("id", flat=True)
    )
    running = Running.objects.all()
    # A gateway may write its first requests before others can see that it lives.
    settled = running.filter(created_at__lt=now - Gateway.LOST_AFTER)
    lost = settled.exclude(gateway_id=None).exclude(gateway_id__in=alive)
    overdue = running.filter(
        created_at__lt=now - timedelta(seconds=settings.REQUEST_DEADLINE_S) - GRACE
    ).filter(Q(gateway_id=None) | Q(gateway_id__in=alive))
    return _end(lost, code="gateway_lost", reason=_LOST, now=now) + _end(
        overdue, code="deadline_exceeded", reason=_OVERDUE, now=now
    )


def _end(rows: QuerySet[Running], *, code: str, reason: str, now: datetime) -> int:
    ended = 0
    while found := list(rows.order_by("pk").values_list("pk", "client_id")[:SWEPT_AT_ONCE]):
        with transaction.atomic():
            # In the order of the hot path: accounts before records.
            ledger.lock({client_id for _, client_id in found})
            mine = Running.objects.filter(pk__in=[pk for pk, _ in found]).select_for_update()
            ids = list(mine.order_by("pk").values_list("pk", flat=True))
            Running.objects.filter(pk__in=ids).delete()
            Inference.objects.filter(pk__in=ids).update(
                status=Status.FAILED, code=code, reason=reason, finished_at=now
            )
            ledger.release_all([f"inference:{pk}" for pk in ids])
            ended += len(ids)
    return ended


_LOST = (
    "The process of the marketplace that relayed this request stopped before its end. "
    "Nothing is known of the answer; send the request again."
)
_OVERDUE = "The request ran past its deadline and nobody wrote down its end. Send it again."
