"""A network that is read from a fake chain, and what its rows say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from django.db import transaction

from chain import ethereum, indexer
from chain.models import Attempt, Block, Log, Network, Response, Source, Task
from tests.chain.fake import CONTRACTS, FakeChain

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def network_of(
    chain: FakeChain, *, start_block: int = 0, confirmations: int = 3, name: str = "fake"
) -> Network:
    return Network.objects.create(
        name=name,
        chain_id=chain.chain_id,
        contracts=CONTRACTS,
        confirmations=confirmations,
        start_block=start_block,
        cursor_block=start_block - 1,
        next_poll_at=NOW,
    )


@contextmanager
def nodes(*chains: FakeChain) -> Iterator[None]:
    """`ethereum.of` finds the fake with the network's chain id."""
    by_id = {chain.chain_id: chain for chain in chains}
    with mock.patch.object(ethereum, "of", lambda network: by_id[network.chain_id]):
        yield


def follow(network: Network, *, after_s: float = 0, for_s: float = 60) -> int:
    return indexer.follow(network, now=NOW + timedelta(seconds=after_s), for_s=for_s)


# The last ones are of whoever fetches what a source's link leads to.
_SKIPPED = {"id", "network", "source", "task", "fetched_url", "fetch_tries", "fetch_at"}


def rows(network: Network) -> dict[str, Any]:
    """All that was read, without the numbers of rows: equal for two networks that have read the same chain."""
    fresh = Network.objects.get(pk=network.pk)
    found: dict[str, Any] = {"cursor": (fresh.cursor_block, fresh.cursor_hash)}
    for model in (Log, Source, Task, Attempt, Response):
        names = [field.name for field in model._meta.fields if field.name not in _SKIPPED]
        parents = [
            f"{name}__address"
            for name in ("source", "task")
            if any(f.name == name for f in model._meta.fields)
        ]
        listed = model._default_manager.filter(network=network).order_by("block_number", "log_index")
        found[model.__name__] = list(listed.values(*names, *parents))
    return found


def is_consistent(network: Network, chain: FakeChain) -> bool:
    """Whether the cursor's block is kept, and all events up to there are the chain's if that block is."""
    fresh = Network.objects.get(pk=network.pk)
    kept = dict(Block.objects.filter(network=network).values_list("number", "hash"))
    cursor = fresh.cursor_block
    if not fresh.cursor_hash:
        return not Log.objects.filter(network=network).exists()
    if kept.get(cursor) != fresh.cursor_hash:
        return False
    if cursor > chain.head.number or chain.blocks[cursor].hash != fresh.cursor_hash:
        return True
    logs = Log.objects.filter(network=network).order_by("block_number", "log_index")
    true = [
        (block.number, index, block.hash)
        for block in chain.blocks[fresh.start_block : cursor + 1]
        for index, _ in enumerate(block.events)
    ]
    are_kept = all(chain.blocks[number].hash == hash for number, hash in kept.items())
    return are_kept and list(logs.values_list("block_number", "log_index", "block_hash")) == true


def read_afresh(chain: FakeChain, *, start_block: int = 0) -> dict[str, Any]:
    """What somebody has read who saw only the chain as it is now."""
    other = FakeChain(chain.chain_id + 1)
    other.blocks = chain.blocks
    with transaction.atomic(), nodes(other):
        fresh = network_of(other, name="fresh", start_block=start_block)
        follow(fresh)
        found = rows(fresh)
        transaction.set_rollback(True)
    return found
