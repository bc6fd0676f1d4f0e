"""Reading chains: from a cursor in windows of blocks up to the newest one, each event once, whatever happens meanwhile.

What a window says, and the cursor that stands at its end, are written in one transaction, by whoever has the network's
lease. A cursor whose block is not part of the chain any more goes back to one that is (`chain.reorganisations`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DataError, connections, transaction
from django.db.models import F, Value
from django.db.models.functions import Coalesce

from chain import deposits, ethereum, gas_costs, leases, networks, projections, readings, reorganisations
from chain.ethereum import Ethereum, NodeAway, Refused
from chain.leases import Lease, Lost
from chain.models import Block, Log, Network
from chain.pace import Pace
from chain.readings import Position, Window
from marketplace.errors import MarketplaceError

logger = logging.getLogger(__name__)

FOLLOW_S = 5.0
NETWORKS_AT_ONCE = 16
# The hashes of so many blocks are kept; a reorganisation that goes deeper is read from the start.
KEPT_BLOCKS = 1_000
MOST_PAUSE_S = 30.0
WELL: dict[str, Any] = {"failing_since": None, "failures": 0, "failure": ""}

Callback = Callable[[Network, datetime], None]

_callbacks: list[Callback] = []
_readers = ThreadPoolExecutor(NETWORKS_AT_ONCE, thread_name_prefix="indexer")
# Only hints, so each process finds them out by itself.
_paces: dict[int, Pace] = {}


class WrongChain(MarketplaceError):
    """Its node is of another chain than the one that was read so far."""

    code = "wrong_chain"


def on_progress(callback: Callback) -> None:
    """Have `callback(network, now)` called, outside of any transaction, after each step forward on a network."""
    if callback not in _callbacks:
        _callbacks.append(callback)


def follow(network: Network, *, now: datetime, for_s: float = FOLLOW_S) -> int:
    """Read what is new on a network, until there is no more or `for_s` seconds are over; how many blocks it was.

    0 as well while another process reads it, while it is paused, and while its node is away: then it is asked again
    later and later, up to every half a minute, and the network's row says since when and why.
    """
    lease = leases.take(network, now=now)
    if lease is None:
        return 0
    start = network.cursor_block
    try:
        _advance(ethereum.of(network), lease, for_s=for_s)
    except Lost:
        # Perhaps because a window took longer than the lease lasts: the next one is smaller.
        _pace(network).failed(_pace(network).size(settings.CHAIN_WINDOW_BLOCKS))
        logger.info("%s is read by somebody else now, or paused.", network)
    except (NodeAway, Refused, WrongChain, networks.UnknownNetwork) as error:
        _fail(lease, str(error))
    except DataError:
        logger.exception("%s: what its node says cannot be written down", network)
        _fail(lease, "Its node says something that cannot be true; the worker's log says more.")
    finally:
        lease.give_back()
    return max(network.cursor_block - start, 0)


def follow_all(*, now: datetime) -> int:
    """Read what is new on all networks at once, each in a thread of its own; how many blocks it was.

    One whose node takes its time is not waited for longer than the others may take: it ends by itself.
    """
    found = networks.followed()
    if len(found) == 1:
        return follow(found[0], now=now)
    begun = [_readers.submit(_follow, network, now) for network in found]
    done, _ = wait(begun, timeout=FOLLOW_S)
    return sum(one.result() for one in done)


def _follow(network: Network, now: datetime) -> int:
    try:
        return follow(network, now=now)
    finally:
        connections.close_all()


def _advance(node: Ethereum, lease: Lease, *, for_s: float) -> None:
    network = lease.network
    position = _looked_at(node, lease)
    while network.cursor_block < position.head.number:
        window = _read(node, lease, position)
        if window is not None:
            _write(lease, position, window)
            for callback in _callbacks:
                callback(network, lease.now())
        if lease.spent_s >= for_s:
            return


def _looked_at(node: Ethereum, lease: Lease) -> Position:
    """Where the chain is, after the cursor was set back where need be. Raises NodeAway, WrongChain, Lost."""
    network = lease.network
    position = readings.position(node, network)
    _check_chain(network, position)
    gas_costs.note(network, base_fee=position.head.base_fee)
    is_there = position.here is not None and position.here.hash == network.cursor_hash
    if _is_behind(network, position):
        lease.write(polled_at=lease.now(), **WELL)
        return position
    if network.cursor_hash and not is_there:
        common = reorganisations.common(node, network, head=position.head.number)
        made = reorganisations.roll_back(lease, common)
        logger.warning("Rolled back: %s, to block %s.", made, common.number)
    # Where there is more to read, all is well when that has been read.
    lease.write(
        head_block=position.head.number,
        head_at=readings.date(position.head.timestamp),
        polled_at=lease.now(),
        next_poll_at=lease.begun,
        **({} if network.cursor_block < position.head.number else WELL),
    )
    network.head_block = position.head.number
    return position


def _is_behind(network: Network, position: Position) -> bool:
    """Whether this is one of several nodes behind one address, and has not heard of the newest blocks yet.

    That is so where it has the chain that was read but for its end, and nothing in there is final. If the chain has
    become shorter instead, its next blocks tell.
    """
    head = position.head
    if not head.number < network.cursor_block < head.number + network.confirmations:
        return False
    return Block.objects.filter(network=network, number=head.number, hash=head.hash).exists()


def _check_chain(network: Network, position: Position) -> None:
    if position.chain_id != network.chain_id:
        raise WrongChain(f"Its node is of chain {position.chain_id}, not of {network.chain_id}.")
    kept = Block.objects.filter(network=network, number=0).first()
    if kept is not None and position.genesis is not None and kept.hash != position.genesis.hash:
        raise WrongChain(
            "Its node is of another chain with the same id: its first block is not the one that was read. "
            "Either the node is the wrong one, or the chain was deleted and begun anew; then delete this "
            "network's data, or give the new chain another id."
        )


def _read(node: Ethereum, lease: Lease, position: Position) -> Window | None:
    """The next blocks; None where the node refuses so many at once. Raises NodeAway, Lost."""
    network = lease.network
    pace = _pace(network)
    first = network.cursor_block + 1
    last = min(first + pace.size(settings.CHAIN_WINDOW_BLOCKS) - 1, position.head.number)
    lease.write()
    try:
        window = readings.window(node, network, first=first, last=last, head=position.head.number)
    except readings.TooMuch:
        pace.was_too_much(last - first + 1)
        if last > first:
            return None
        raise
    except (readings.Moved, readings.Untold):
        raise
    except NodeAway:
        pace.failed(last - first + 1)
        raise
    pace.went_well(last - first + 1)
    return window


def _pace(network: Network) -> Pace:
    return _paces.setdefault(network.pk, Pace(settings.CHAIN_WINDOW_BLOCKS))


@transaction.atomic
def _write(lease: Lease, position: Position, window: Window) -> None:
    """All that a window says, and the cursor at its end, or nothing. Raises Lost."""
    network = lease.network
    last = window.last
    lease.write(cursor_block=last.number, cursor_hash=last.hash, **WELL)
    _keep_blocks(network, position, window)
    logs = _unseen(network, window)
    Log.objects.bulk_create(logs, batch_size=projections.ROWS_AT_ONCE)
    projections.apply(network, logs, window.said)
    treasury = network.address("TREASURY").lower()
    deposits.seen(
        network, [log for log in logs if log.name == "Deposited" and log.address.lower() == treasury]
    )
    network.cursor_block, network.cursor_hash = last.number, last.hash


def _keep_blocks(network: Network, position: Position, window: Window) -> None:
    heads = {head.number: head for head in window.blocks}
    kept = Block.objects.filter(network=network)
    if position.genesis is not None and not kept.filter(number=0).exists():
        heads.setdefault(0, position.genesis)
    kept.filter(number__in=list(heads)).delete()
    kept.filter(number__gt=0, number__lt=window.last.number - KEPT_BLOCKS).delete()
    Block.objects.bulk_create(
        Block(network=network, number=head.number, hash=head.hash, at=readings.date(head.timestamp))
        for head in heads.values()
        if head.number in (0, window.last.number) or head.number >= position.head.number - KEPT_BLOCKS
    )


def _unseen(network: Network, window: Window) -> list[Log]:
    """Events that are not written down yet: none should be, but a cursor may have been set back by hand."""
    rows = Log.objects.filter(network=network, block_number__range=(window.first, window.last.number))
    seen = set(rows.values_list("block_number", "log_index"))
    return [log for log in window.logs if (log.block_number, log.log_index) not in seen]


def _fail(lease: Lease, reason: str) -> None:
    """The node is asked again after a while that doubles each time, a different one for each process."""
    network, now = lease.network, lease.now()
    pause_s = min(2.0 ** min(network.failures, 10), MOST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311 - no secret
    rows = Network.objects.filter(pk=network.pk, lease=lease.token)
    rows.update(
        failing_since=Coalesce(F("failing_since"), Value(now)),
        failures=F("failures") + 1,
        failure=reason[:500],
        next_poll_at=now + timedelta(seconds=pause_s),
    )
    logger.warning("%s cannot be read: %s Next try in %.0f s.", network, reason, pause_s)
