"""How orders of tasks go on and end: by the ends of their transactions, and by what the chain says for good."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from chain import floats, orders, outbox, repeats
from chain.models import (
    ENDED,
    ENDED_ORDERS,
    Log,
    OrderStatus,
    Purpose,
    Response,
    ResponseStatus,
    Task,
    TaskOrder,
    TaskStatus,
    Transaction,
    TransactionStatus,
)
from clients import ledger, terms
from clients.models import AccountKind, TransferKind

logger = logging.getLogger(__name__)

# After its time a task is ended on the chain: a moment later, since the chain's clock is another one, and a day later
# where a response waits for its owner to confirm it. What was refused is tried again after a while.
_LATE = timedelta(seconds=15)
_LATE_WITH_RESPONSE = timedelta(days=1)
_PATIENCE = timedelta(minutes=1)
_OPEN = tuple(status for status in OrderStatus if status not in ENDED_ORDERS)
_UNSEEN = "It was published, and the contracts have told of no task; an operator has to look."
# What the contracts' refusals mean to somebody who has no wallet.
_REFUSALS = {
    "SourceInactive": "The source takes no tasks any more.",
    "PaymentTooLow": "The source asks for a higher payment now.",
    "ExpiryTooLong": "The source wants tasks to end sooner now.",
    "Expired": "The task's time is over.",
    "AlreadyFinalized": "A provider was quicker, or the task has ended.",
    "AlreadyConfirmed": "A response is confirmed already.",
    "Paused": "The contracts are paused by their owner.",
}


@transaction.atomic
def follow(order: TaskOrder, *, now: datetime) -> None:
    """End an order as the chain says for good; have the payment of one freed whose time is over."""
    found = TaskOrder.objects.select_for_update(skip_locked=True, of=("self",)).filter(pk=order.pk).first()
    if found is not None:
        _follow(found, now)


def sweep(*, now: datetime) -> int:
    """Go on with all orders that may go on; how many were looked at."""
    due = list(_due(now))
    for order in due:
        try:
            follow(order, now=now)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:
            # Whatever is odd about one, the others go on.
            if repeats.is_news(("order", order.pk), error):
                logger.exception("Order %s cannot go on", order.pk)
    _take_back_what_nobody_needs()
    return len(due)


def may_be_released(order: TaskOrder) -> bool:
    """Whether an order waits for a task that is not there: its publication has ended and was read, and none is known.

    Reads `publication` and `network`.
    """
    sent = order.publication
    if (
        order.status not in (OrderStatus.PUBLISHING, OrderStatus.PUBLISHED)
        or sent is None
        or not sent.has_ended
    ):
        return False
    # What is in a block that is to be read (again) may be found there.
    if sent.block_number is not None and sent.block_number > order.network.final_block:
        return False
    its = Q(transaction_hash=sent.hash) | Q(address=order.task_address)
    return not Task.objects.filter(its, network=order.network_id).exists()


def release(order: TaskOrder, *, reason: str, now: datetime) -> None:
    """End a locked order whose task is not there; what is held is free. Nothing of it is taken to be in the Vault."""
    _close(order, OrderStatus.FAILED, reason=reason, back=0, now=now)


def deposit_ended(row: Transaction) -> None:
    """What was deposited for an order that has come to nothing meanwhile is left for the next one."""
    order = _order_of(row)
    if order is not None and order.has_ended and row.status == TransactionStatus.CONFIRMED:
        floats.give(order, row.value)


def publication_ended(row: Transaction) -> None:
    order = _order_of(row)
    if order is None or order.status != OrderStatus.PUBLISHING:
        return
    if row.status == TransactionStatus.CONFIRMED:
        _follow(order, row.ended_at or order.expires_at)
        return
    back = order.reused
    if "InsufficientBalance" in row.reason and order.reused:
        # Somebody has taken out what we thought was there: it is deposited anew for the next order.
        floats.forget(order)
        back = 0
    deposit = order.deposit
    if deposit is not None and deposit.status == TransactionStatus.CONFIRMED:
        back += deposit.value
    is_cancelled = row.status == TransactionStatus.CANCELLED
    status = OrderStatus.CANCELLED if is_cancelled else OrderStatus.FAILED
    _close(order, status, reason=_why(row), back=back, now=row.ended_at)


def confirmation_ended(row: Transaction) -> None:
    _settled(row, OrderStatus.CONFIRMING, "The response could not be confirmed")


def cancellation_ended(row: Transaction) -> None:
    _settled(row, OrderStatus.CANCELLING, "The task could not be taken back")


def _settled(row: Transaction, status: OrderStatus, sentence: str) -> None:
    """What a call of the Controller has led to; where it failed, the task is there as before."""
    order = _order_of(row)
    if order is None or order.status != status:
        return
    if row.status != TransactionStatus.CONFIRMED:
        orders.change(order, OrderStatus.PUBLISHED, f"{sentence}: {_why(row)}")
    _follow(order, row.ended_at or order.expires_at)


def _why(row: Transaction) -> str:
    """Why a transaction came to nothing: a sentence, and the contract's own word."""
    said = _REFUSALS.get(row.reason)
    return f"{said} ({row.reason})" if said else row.reason or row.get_status_display()


def _follow(order: TaskOrder, now: datetime) -> None:
    """The order is locked."""
    if order.has_ended:
        return
    if order.status == OrderStatus.PUBLISHING and not _is_there(order):
        return
    task = orders.task_of(order)
    if task is None:
        return
    won = task.responses.filter(status=ResponseStatus.CONFIRMED).select_related("network").first()
    if won is not None:
        if won.is_finally_confirmed:
            _finish(order, min(won.payment, order.payment), now)
        return
    if task.status in (TaskStatus.CANCELED, TaskStatus.EXPIRED):
        if _is_final(order, task):
            status, reason = _ENDS[TaskStatus(task.status)]
            _close(order, status, reason=reason, back=order.payment, now=now)
        return
    if order.status == OrderStatus.PUBLISHED and _is_over(order, task, now):
        orders.free(order, "Its time is over; its payment is on its way back.")


_ENDS = {
    TaskStatus.CANCELED: (OrderStatus.CANCELLED, "It was cancelled; its payment has come back."),
    TaskStatus.EXPIRED: (OrderStatus.EXPIRED, "Its time is over; its payment has come back."),
}


def _is_there(order: TaskOrder) -> bool:
    """Write down the address of a task that was published; False where it was not, or cannot be told yet."""
    sent = order.publication
    if sent is None or sent.status != TransactionStatus.CONFIRMED:
        return False
    event = Log.objects.filter(
        network_id=order.network_id, transaction_hash=sent.hash, name="TaskPublished"
    ).first()
    if event is None:
        if order.reason != _UNSEEN:
            logger.error("The task of order %s was published, and its event is not known", order.pk)
            orders.change(order, OrderStatus.PUBLISHING, _UNSEEN)
        return False
    order.task_address = event.arguments["task"]
    orders.change(order, OrderStatus.PUBLISHED, "")
    return True


def _is_final(order: TaskOrder, task: Task) -> bool:
    """Whether the event that has ended a task has enough confirmations."""
    ended = Log.objects.filter(
        network_id=order.network_id,
        name="TaskStatusChanged",
        block_number__gte=task.block_number,
        arguments__task=task.address,
        arguments__status=str(task.status),
    ).order_by("block_number")
    event = ended.select_related("network").last()
    return event is not None and event.is_final


def _is_over(order: TaskOrder, task: Task, now: datetime) -> bool:
    late = _LATE_WITH_RESPONSE if task.status == TaskStatus.RESPONDED else _LATE
    if now < order.expires_at + late:
        return False
    failed = order.cancellation
    return failed is None or failed.ended_at is None or now >= failed.ended_at + _PATIENCE


def _finish(order: TaskOrder, paid: int, now: datetime) -> None:
    _close(order, OrderStatus.FINISHED, reason="", back=order.payment - paid, now=now, paid=paid)


def _close(
    order: TaskOrder,
    status: OrderStatus,
    *,
    reason: str,
    back: int,
    now: datetime | None,
    paid: int | None = None,
) -> None:
    """End a locked order: `paid` of what is held leaves the books, and `back` of it is in our balance in the Vault."""
    order.status, order.reason, order.ended_at, order.paid = status, reason[:1000], now, paid
    order.save()
    floats.give(order, back)
    if not paid:
        ledger.release(order.reference)
        return
    ledger.settle(
        reference=order.reference,
        amount=paid,
        payee_id=None,
        payee_kind=AccountKind.OUTSIDE,
        kind=TransferKind.ONCHAIN,
        memo=f"Task {order.task_address} on {order.network}",
    )


def _order_of(row: Transaction) -> TaskOrder | None:
    """The order that a transaction is for, locked; None for somebody else's transaction."""
    number = _number_in(row.reference)
    return (
        None
        if number is None
        else TaskOrder.objects.select_for_update(of=("self",)).filter(pk=number).first()
    )


def _number_in(reference: str) -> int | None:
    kind, _, rest = reference.partition(":")
    number = rest.partition(":")[0]
    return int(number) if kind == "task-order" and number.isdecimal() else None


def _due(now: datetime) -> QuerySet[TaskOrder]:
    """Orders whose task has ended or was answered for good, whose time is over, or which were published unseen."""
    task = Task.objects.filter(network=OuterRef("network"), address=OuterRef("task_address"))
    won = Response.objects.filter(
        network=OuterRef("network"), task__address=OuterRef("task_address"), status=ResponseStatus.CONFIRMED
    )
    is_sent = Q(status=OrderStatus.PUBLISHING, publication__status=TransactionStatus.CONFIRMED)
    is_answered = Exists(task.filter(status=TaskStatus.RESPONDED))
    is_over = Q(status=OrderStatus.PUBLISHED, expires_at__lt=now - _LATE) & ~Q(is_answered)
    is_long_over = Q(status=OrderStatus.PUBLISHED, expires_at__lt=now - _LATE_WITH_RESPONSE)
    # Said as the index of those that are open says it: next to all have ended.
    still_open = TaskOrder.objects.filter(status__in=_OPEN)
    return still_open.filter(
        is_sent | is_over | is_long_over | Exists(task.filter(status__in=ENDED)) | Exists(won)
    ).order_by("pk")


def _why_not(row: Transaction) -> str:
    """Why a transaction for an order must not be sent now, whoever asks for it."""
    number = _number_in(row.reference)
    order = None if number is None else TaskOrder.objects.filter(pk=number).first()
    if order is None:
        return ""
    wanted = {
        OrderStatus.PUBLISHING: (order.deposit_id, order.publication_id),
        OrderStatus.CONFIRMING: (order.confirmation_id,),
        OrderStatus.CANCELLING: (order.cancellation_id,),
    }
    if row.pk in wanted.get(OrderStatus(order.status), ()):
        is_stopped = row.purpose != Purpose.CANCEL_TASK and terms.current().payouts_frozen
        # Coins that pay for a task leave as those of a withdrawal do.
        return "Withdrawals are frozen at the moment, and so are payments of tasks." if is_stopped else ""
    return f"Nobody needs it any more: {order} is “{order.get_status_display()}”."


def _take_back_what_nobody_needs() -> None:
    """What was not sent yet when its order ended."""
    queued = Transaction.objects.filter(status=TransactionStatus.QUEUED, reference__startswith="task-order:")
    for row in queued.filter(Exists(_ended_order(OuterRef("pk")))):
        try:
            outbox.cancel(row, reason=_why_not(row))
        except outbox.TooLate:
            continue  # it was sent meanwhile; its end is looked at like any other


def _ended_order(row: OuterRef) -> QuerySet[TaskOrder]:
    mine = Q(deposit=row) | Q(publication=row) | Q(confirmation=row) | Q(cancellation=row)
    return TaskOrder.objects.filter(mine, status__in=ENDED_ORDERS)


outbox.on_end(Purpose.VAULT_DEPOSIT, deposit_ended)
outbox.on_end(Purpose.PUBLISH_TASK, publication_ended)
outbox.on_end(Purpose.CONFIRM, confirmation_ended)
outbox.on_end(Purpose.CANCEL_TASK, cancellation_ended)
for _purpose in (Purpose.VAULT_DEPOSIT, Purpose.PUBLISH_TASK, Purpose.CONFIRM, Purpose.CANCEL_TASK):
    outbox.before(_purpose, _why_not)
