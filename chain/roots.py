"""The Merkle roots of receipts' batches, published to a chain: each once, in order, a few at a time."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction

from chain import keys, networks, outbox
from chain.ethereum import encoded
from chain.models import DONE, Log, Network, PublishedRoot, Purpose, Transaction, TransactionStatus
from inference.models import ReceiptBatch

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 4
# What somebody has to mend first is tried again after this.
_WAIT = timedelta(minutes=10)
# What is only to be read yet.
_SOON = timedelta(minutes=1)
_THERE_ALREADY = "AlreadyPublished"
_UNTOLD = "A root stands there already; the event of that is awaited."
# Where that is so, the reason begins with it.
ANOTHER = "Another root stands on the chain for this batch"


def publish(*, now: datetime) -> int:
    """Queue the next batches' roots for the first network that has a Receipts contract; how many."""
    network = home()
    if network is None or network.is_paused:
        return 0
    on_their_way = PublishedRoot.objects.filter(network=network).exclude(transaction__status__in=DONE).count()
    queued = 0
    try:
        for batch in _next(network, MOST_AT_ONCE - on_their_way):
            _queue(network, batch)
            queued += 1
    except keys.NoKey as error:
        logger.warning("Roots are not published: %s", error.message)
    return queued


def home() -> Network | None:
    """The network that roots are published to: the first that has a Receipts contract."""
    return next((network for network in networks.followed() if network.address("RECEIPTS")), None)


def _next(network: Network, count: int) -> list[ReceiptBatch]:
    last = PublishedRoot.objects.filter(network=network).order_by("-batch_id").first()
    batches = ReceiptBatch.objects.filter(pk__gt=last.batch_id if last else 0).order_by("pk")
    # Without the leaves: they are of no use here, and many.
    return list(batches.only("pk", "root")[: max(count, 0)])


@transaction.atomic
def _queue(network: Network, batch: ReceiptBatch) -> None:
    sending = outbox.queue(
        network=network,
        purpose=Purpose.ROOT,
        reference=f"root:{network.chain_id}:{batch.pk}",
        to=network.address("RECEIPTS"),
        data=encoded("Receipts", "publish", batch.pk, bytes.fromhex(batch.root.removeprefix("0x"))),
    )
    PublishedRoot.objects.get_or_create(network=network, batch=batch, defaults={"transaction": sending})


def _ended(sending: Transaction) -> None:
    """What was refused is tried again: later ones wait for it, so that roots stand there in order."""
    if sending.status in (TransactionStatus.CONFIRMED, TransactionStatus.CANCELLED):
        return
    assert sending.ended_at is not None
    if _THERE_ALREADY in sending.reason:
        _compare(sending)
        return
    logger.warning("%s is not published: %s", sending, sending.reason)
    outbox.again(sending, at=sending.ended_at + _WAIT, reason=sending.reason)


def _compare(sending: Transaction) -> None:
    """Which root stands there: ours, from an earlier sending, or another's. Later ones are held up by neither."""
    ours = PublishedRoot.objects.filter(transaction=sending).values_list("batch_id", "batch__root").first()
    if ours is None:
        return
    batch, root = ours
    network = Network.objects.get(pk=sending.network_id)
    told = Log.objects.filter(
        network=network,
        name="RootPublished",
        address=network.address("RECEIPTS"),
        block_number__lte=network.final_block,
        arguments__batch=str(batch),
    ).first()
    if told is None:
        assert sending.ended_at is not None
        outbox.again(sending, at=sending.ended_at + _SOON, reason=_UNTOLD)
    elif told.arguments["root"] != root:
        reason = f"{ANOTHER}: {told.arguments['root']}. Does another marketplace publish there?"
        logger.error("%s: %s", sending, reason)
        Transaction.objects.filter(pk=sending.pk).update(reason=reason)


outbox.on_end(Purpose.ROOT, _ended)
