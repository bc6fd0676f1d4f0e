"""Tasks that the marketplace publishes on a chain for people without a wallet, and pays out of their accounts.

    publishing ─▶ published ─▶ confirming ─▶ finished       the response is paid; that leaves the books
        │            │   ▲         │
        │            │   └─────────┘ the contract refused it
        │            └─▶ cancelling ─▶ cancelled │ expired   the Vault has given the payment back
        └─▶ failed │ cancelled                               nothing was published

The payment is held in the ledger for as long as an order is open, and lies in our balance in the Vault, where it comes
from our own coins or from what earlier orders have left there (`chain.floats`). What is sent is a row of the outbox
made in the same transaction; how an order ends is what the chain says for good (`chain.outcomes`). Locks are taken in
one order: transaction, order, float, ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from chain import allowances, documents, floats, functions, keys, outbox, pins, services
from chain.ethereum import encoded
from chain.models import (
    ENDED_ORDERS,
    Log,
    OrderStatus,
    Purpose,
    Response,
    ResponseStatus,
    Serving,
    Source,
    SourceStatus,
    Task,
    TaskOrder,
    TaskStatus,
    Transaction,
)
from clients import ledger, terms
from clients.models import AccountKind, Client
from marketplace import money
from marketplace.errors import Conflict, Forbidden, InvalidRequest, NotFound

MAX_OPEN = 50
# Providers need time, and so do confirmations; nobody's money is held for ever.
SHORTEST = timedelta(minutes=1)
LONGEST = timedelta(days=30)
USUAL = timedelta(hours=1)
# After so many seconds it is worthwhile to look whether something is final.
_FINAL_SOON_S = 5


class UnknownOrder(NotFound):
    code, message = "unknown_order", "You have no such order."


class UnknownSource(InvalidRequest):
    code = "unknown_source"


class NotOffered(InvalidRequest):
    """The source does not take such a task; the sentence says why."""

    code = "not_offered"


class TooManyOrders(Conflict):
    code, message = (
        "too_many_orders",
        f"{MAX_OPEN} of your tasks are open already. Cancel one, or wait until one ends.",
    )


class NotNow(Conflict):
    """The order is not in a state for this; the sentence says what it is."""

    code = "order_not_ready"


class NotFinal(Conflict):
    """What it depends on stands in a block that may still go; the sentence says what."""

    code = "not_final"


class NeedsApproval(Forbidden):
    """Details: `most`, a decimal string of tokens."""

    code = "approval_needed"


# --- What owners do -----------------------------------------------------------------------------------------


def of(client: Client) -> QuerySet[TaskOrder]:
    """A client's orders, newest first."""
    return TaskOrder.objects.filter(owner=client)


def pin(*, function: str, data: dict[str, Any], now: datetime) -> str:
    """Keep what a task's provider shall read, as the published clients do; the link. Not within a transaction.

    Raises InvalidRequest, storage.TooLarge.
    """
    content = json.dumps({"function_name": function, "data": data}, ensure_ascii=False).encode()
    try:
        # As strictly as it will be read.
        documents.read_json(content)
    except documents.NotFetched as fault:
        raise InvalidRequest(fault.message, fields={"data": [fault.message]}) from None
    kept = pins.keep(
        content,
        filename="taskConfig.json",
        content_type="application/json",
        keep_until=pins.usual_end(now),
        now=now,
    )
    return pins.url(kept)


def check(source: Source, *, payment: int, expires_at: datetime, now: datetime) -> None:
    """Raise NotOffered for what the contracts would refuse, before it costs anybody something."""
    life = expires_at - now
    if source.status != SourceStatus.ACTIVE:
        raise NotOffered(f"The source {source.address} takes no tasks any more.", param="source")
    if payment < source.min_payment:
        raise NotOffered(f"The source asks for at least {money.named(source.min_payment)}.", param="payment")
    if life < SHORTEST:
        raise NotOffered(f"A task needs at least {SHORTEST.seconds} seconds.", param="expires_in")
    longest = min(LONGEST.total_seconds(), source.max_expiry_duration or LONGEST.total_seconds())
    if life.total_seconds() > longest:
        raise NotOffered(f"A task may take at most {int(longest)} seconds here.", param="expires_in")


def check_work(source: Source, *, function: str, data: Mapping[str, Any]) -> None:
    """Raise UnknownFunction or BadInput for what our nodes would surely decline, where they are who serves a source."""
    service = services.of_source(source.network, source.address)
    if service is not None and service.status == Serving.SERVED:
        functions.check(functions.find(function, service.functions), data)


@transaction.atomic
def publish(
    owner: Client,
    *,
    source: Source,
    function: str,
    config_url: str,
    payment: int,
    expires_at: datetime,
    now: datetime,
    api_key_id: int | None = None,
) -> TaskOrder:
    """Have a task published; `payment` (base units) is held from now on. What an API key orders counts in its budgets.

    Raises NotOffered, NotFinal, NeedsApproval, TooManyOrders, allowances.OverDailyLimit, allowances.NotWithdrawable,
    keys.NoKey, ledger.InsufficientFunds, ledger.BudgetExceeded.
    """
    check(source, payment=payment, expires_at=expires_at, now=now)
    _check_final(source)
    # One at a time for each account, so that two cannot both be the last.
    Client.objects.select_for_update(no_key=True).get(pk=owner.pk)
    if of(owner).exclude(status__in=ENDED_ORDERS).count() >= MAX_OPEN:
        raise TooManyOrders()
    _check_limits(owner, payment, now)
    _check_own_money(owner, payment)
    order = TaskOrder(
        owner=owner,
        network=source.network,
        source_address=source.address,
        function=function,
        config_url=config_url,
        payment=payment,
        publisher=keys.operator_address(),
        expires_at=expires_at,
        created_at=now,
    )
    order.save()
    order.reused = floats.take(order)
    ledger.hold(
        reference=order.reference, client_id=owner.pk, amount=payment, api_key_id=api_key_id, tokens=None
    )
    _send_off(order)
    return order


@transaction.atomic
def confirm(order: TaskOrder, response: Response) -> TaskOrder:
    """Accept a response: its provider is paid, and the rest of the payment is free. Raises NotNow, NotFinal."""
    order = locked(order.pk)
    if order.status != OrderStatus.PUBLISHED:
        raise NotNow(f"This task's order is “{order.get_status_display()}”: nothing can be confirmed.")
    if response.network_id != order.network_id or response.task.address != order.task_address:
        raise NotNow("This response belongs to another task.")
    if response.status == ResponseStatus.CONFIRMED:
        raise NotNow("This response is confirmed already.")
    if not response.is_final:
        raise NotFinal(
            f"This response is in block {response.block_number}, which is not final yet. Try again in a moment.",
            retry_after=_FINAL_SOON_S,
        )
    order.confirmation = _queue(
        order,
        Purpose.CONFIRM,
        encoded("Controller", "confirmResponse", response.address),
        order.confirmation_id,
    )
    change(order, OrderStatus.CONFIRMING, "")
    return order


def cancel(order: TaskOrder) -> TaskOrder:
    """Take a task back that no provider has begun. Raises NotNow."""
    if order.status == OrderStatus.PUBLISHING:
        return _cancel_publication(order)
    with transaction.atomic():
        order = locked(order.pk)
        if order.status != OrderStatus.PUBLISHED:
            raise NotNow(f"This task's order is “{order.get_status_display()}” and cannot be cancelled.")
        task = task_of(order)
        if task is not None and task.status != TaskStatus.NEW:
            raise NotNow(f"A provider was quicker: the task is “{task.get_status_display()}”.")
        free(order, "Its owner has cancelled it.")
        return order


def _check_final(source: Source) -> None:
    """What a source asks of tasks, and how it has them answered, must not be another thing once they are published."""
    changes = Log.objects.filter(
        network=source.network,
        name__in=("SourceUpdated", "SourceStatusChanged"),
        block_number__gt=source.network.final_block,
        arguments__source=source.address,
    )
    if not source.is_final or changes.exists():
        raise NotFinal(
            f"The source {source.address} was published or changed in a block that is not final yet. Try again in a "
            "moment.",
            retry_after=_FINAL_SOON_S,
        )


def _check_limits(owner: Client, payment: int, now: datetime) -> None:
    """The limits of withdrawals hold for payments of tasks; nobody is there who approves one."""
    limits = terms.current()
    most = limits.withdrawal_approval_above
    if most is not None and payment > most:
        raise NeedsApproval(
            f"A task may be paid with at most {money.named(most)} here. Beyond that an operator has to approve: "
            "withdraw the money to a wallet of yours, and publish the task from there.",
            details={"most": money.render(most)},
        )
    if limits.withdrawal_daily is not None:
        allowances.check_day(owner, payment, limits.withdrawal_daily, now)


def _check_own_money(owner: Client, payment: int) -> None:
    """What pays for a task are coins, to whatever wallet answers: somebody's own, too. So it is as with withdrawals."""
    account, available = ledger.account(owner.pk, AccountKind.SPENDABLE), allowances.withdrawable(owner)
    total, held = ledger.balances([account])[account.pk]
    # Where there is too little of any money, the hold says so.
    if available < payment <= total - held:
        raise allowances.NotWithdrawable(
            f"{money.named(available)} of this account can pay for tasks on chains: what was deposited or earned, and "
            "is still there. Granted credit, and what others have sent you, can only be spent here.",
            details={"available": money.render(available), "needed": money.render(payment)},
        )


# --- Steps that outcomes take as well -------------------------------------------------------------------------


def free(order: TaskOrder, reason: str) -> None:
    """Have the Vault give a published task's payment back."""
    order.cancellation = _queue(
        order,
        Purpose.CANCEL_TASK,
        encoded("Controller", "cancelTask", order.task_address),
        order.cancellation_id,
    )
    change(order, OrderStatus.CANCELLING, reason)


def change(order: TaskOrder, status: OrderStatus, reason: str) -> None:
    """Write down where a locked order stands now."""
    order.status, order.reason = status, reason[:1000]
    order.save()


def locked(pk: int) -> TaskOrder:
    """An order, locked until the transaction ends."""
    return TaskOrder.objects.select_for_update(of=("self",)).get(pk=pk)


def task_of(order: TaskOrder) -> Task | None:
    """The task on the chain, as it was last read."""
    return Task.objects.filter(network_id=order.network_id, address=order.task_address).first()


def _send_off(order: TaskOrder) -> None:
    """The deposit of what is missing in the Vault, and the publication after it."""
    network, missing = order.network, order.payment - order.reused
    common: dict[str, Any] = {
        "network": network, "sender": order.publisher, "expires_at": order.expires_at,
    }  # fmt: skip
    if missing:
        order.deposit = outbox.queue(
            purpose=Purpose.VAULT_DEPOSIT,
            reference=f"{order.reference}:deposit",
            to=network.address("VAULT"),
            data=encoded("Vault", "deposit", order.publisher),
            value=missing,
            **common,
        )
    expiry = int(order.expires_at.timestamp())
    order.publication = outbox.queue(
        purpose=Purpose.PUBLISH_TASK,
        reference=f"{order.reference}:publish",
        to=network.address("CONTROLLER"),
        data=encoded(
            "Controller", "publishTask", (order.source_address, order.config_url, expiry, order.payment)
        ),
        after=order.deposit,
        **common,
    )
    order.save()


def _cancel_publication(order: TaskOrder) -> TaskOrder:
    assert order.publication is not None
    try:
        # What ends the transaction ends the order (`outcomes.publication_ended`).
        outbox.cancel(order.publication, reason="Its owner has cancelled it.")
    except outbox.TooLate:
        raise NotNow("This task is being published right now. Try again in a moment.") from None
    order.refresh_from_db()
    return order


def _queue(order: TaskOrder, purpose: Purpose, data: str, earlier: int | None) -> Transaction:
    """A call of the Controller for an order; `earlier` is the one that has failed before, if any."""
    return outbox.queue(
        network=order.network,
        purpose=purpose,
        reference=f"{order.reference}:{purpose.value}:{earlier or 0}",
        to=order.network.address("CONTROLLER"),
        data=data,
        sender=order.publisher,
    )
