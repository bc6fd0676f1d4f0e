"""What a block's header says of the events in it: its bloom filter, whatever else a node answers.

It names every contract that has emitted an event, and every topic. It may name others too, never too few; chains
without such filters leave them empty. Source: Ethereum's Yellow Paper, section 4.4.1 (M3:2048).
"""

from __future__ import annotations

import functools

from eth_bloom import BloomFilter

BYTES = 256


def read(said: str | None) -> int:
    """A header's filter. Raises ValueError for what is none."""
    text = said or "0x"
    if len(text) > 2 + 2 * BYTES:
        raise ValueError("No bloom filter.")
    return int(text[2:] or "0", 16)


def names(bloom: int, value: str) -> bool:
    """Whether an address or a topic (0x…) seems to be among those of a block's events."""
    mask = _mask(value)
    return bloom & mask == mask


@functools.lru_cache(maxsize=4096)
def _mask(value: str) -> int:
    return int(BloomFilter.from_iterable([bytes.fromhex(value[2:])]))
