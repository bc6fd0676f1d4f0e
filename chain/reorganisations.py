"""When blocks that were read are not part of the chain any more: find out which, and take back what they said."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from chain import deposits, projections, readings
from chain.ethereum import Ethereum
from chain.leases import Lease
from chain.models import Attempt, Block, Log, Network, Reorganisation, Response, Source, Task

# How many kept blocks are compared in one round trip.
COMPARED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Common:
    """The newest block that both chains are known to have; without a hash: the one before all that is read."""

    number: int
    hash: str


def common(node: Ethereum, network: Network, *, head: int) -> Common:
    """Asks for one kept block after the other, from the chain's newest on. Raises NodeAway.

    Where the chains parted before all that is kept, everything is read again.
    """
    kept = list(
        Block.objects.filter(network=network, number__lte=min(network.cursor_block, head))
        .order_by("-number")
        .values_list("number", "hash")
    )
    for start in range(0, len(kept), COMPARED_AT_ONCE):
        some = kept[start : start + COMPARED_AT_ONCE]
        found = readings.heads(node, [number for number, _ in some])
        for (number, was), now in zip(some, found, strict=True):
            if now is not None and now.hash == was and number >= network.start_block:
                return Common(number, was)
    return Common(network.start_block - 1, "")


@transaction.atomic
def roll_back(lease: Lease, to: Common) -> Reorganisation:
    """Take back all that the blocks after `to` said; the cursor is there then. Raises Lost."""
    network = lease.network
    lease.write(cursor_block=to.number, cursor_hash=to.hash)
    gone = Log.objects.filter(network=network, block_number__gt=to.number)
    touched = projections.touched(gone.only("name", "arguments"))
    count, _ = gone.delete()
    for model in (Response, Attempt, Task, Source):
        model._default_manager.filter(network=network, block_number__gt=to.number).delete()
    Block.objects.filter(network=network, number__gt=to.number).exclude(number=0).delete()
    projections.restore(network, touched)
    deposits.forget_from(network, to.number)
    made = Reorganisation.objects.create(
        network=network,
        common_block=to.number,
        depth=network.cursor_block - to.number,
        logs=count,
        at=lease.now(),
    )
    network.cursor_block, network.cursor_hash = to.number, to.hash
    return made
