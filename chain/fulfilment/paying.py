"""A confirmed answer is paid: what the chain has paid us goes on to whoever did the work, less the fee, once."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, QuerySet, Subquery

from chain import repeats
from chain.models import Fulfilment, FulfilmentStatus, Network, Response, ResponseStatus
from clients import ledger, terms
from clients.models import AccountKind, TransferKind
from marketplace import money
from marketplace.errors import MarketplaceError

logger = logging.getLogger(__name__)


def sweep(network: Network, *, now: datetime) -> int:
    """Pay for all of our answers whose confirmation is final; how many."""
    ours = _confirmed(network.final_block)
    waiting = (
        Fulfilment.objects.filter(Exists(ours), network=network, answer__isnull=False)
        .exclude(status=FulfilmentStatus.CONFIRMED)
        .annotate(response_id=Subquery(ours.values("pk")[:1]))
    )
    paid = 0
    for fulfilment_id, response_id in waiting.values_list("pk", "response_id")[:500]:
        try:
            paid += pay(fulfilment_id, response_id, now=now)
        except (MarketplaceError, IntegrityError) as error:
            # Whatever is odd about one, the others are paid.
            if repeats.is_news(("fulfilment", fulfilment_id), error):
                logger.exception("Fulfilment %s cannot be paid", fulfilment_id)
    return paid


def _confirmed(final_block: int) -> QuerySet[Response]:
    """Finally confirmed answers of a fulfilment's (the outer query's) provider to the very task."""
    return Response.objects.filter(
        network=OuterRef("network"), task__address=OuterRef("task_address"),
        task__transaction_hash=OuterRef("published_transaction"), provider=OuterRef("answer__sender"),
        status=ResponseStatus.CONFIRMED, confirmed_block__lte=final_block,
    )  # fmt: skip


@transaction.atomic
def pay(fulfilment_id: int, response_id: int, *, now: datetime) -> bool:
    """Write down that a fulfilment is confirmed, and pay for it; False where that was done before.

    What was done on the marketplace's own machines, or by nobody who is known, goes to the fees.
    """
    held = Fulfilment.objects.select_for_update(of=("self",)).select_related("answer").get(pk=fulfilment_id)
    network = Network.objects.get(pk=held.network_id)
    # Once more, under the lock: blocks may have been replaced since.
    response = _confirmed_now(held, response_id, network.final_block)
    if held.status == FulfilmentStatus.CONFIRMED or response is None:
        return False
    fee = money.share(response.payment, terms.current().fee_bps) if held.provider_id is not None else 0
    if response.payment:
        kind = AccountKind.EARNED if held.provider_id is not None else AccountKind.FEES
        ledger.transfer(
            source=ledger.account(None, AccountKind.OUTSIDE),
            destination=ledger.account(held.provider_id, kind),
            amount=response.payment,
            fee=fee,
            reference=held.reference,
            kind=TransferKind.ONCHAIN,
            memo=f"Task {held.task_address} on {network}",
        )
    Fulfilment.objects.filter(pk=held.pk).update(
        status=FulfilmentStatus.CONFIRMED, code="", reason="", paid=response.payment, fee=fee,
        response_address=response.address, token=None, leased_until=None, changed_at=now,
    )  # fmt: skip
    return True


def _confirmed_now(held: Fulfilment, response_id: int, final_block: int) -> Response | None:
    assert held.answer is not None
    return Response.objects.filter(
        pk=response_id, task__address=held.task_address, task__transaction_hash=held.published_transaction,
        provider=held.answer.sender, status=ResponseStatus.CONFIRMED, confirmed_block__lte=final_block,
    ).first()  # fmt: skip
