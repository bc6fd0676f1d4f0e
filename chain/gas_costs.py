"""What gas costs at present, as the chains' newest blocks say: for what is decided before anything is sent.

Whoever reads a chain, or sends to it, notes it; nobody is asked because of it. While nothing is known it counts for
nothing: then nothing is sent either.
"""

from __future__ import annotations

import logging

import redis
from django.core.cache import cache

from chain import networks
from chain.models import DeliveryMethod, Network

logger = logging.getLogger(__name__)

# Measured (chain/contracts/README.md). A first response is confirmed and paid by the transaction that submits it.
ATTEMPT = 193_808
RESPONSE: dict[int, int] = {
    DeliveryMethod.MANUAL_CONFIRMATION: 599_687,
    DeliveryMethod.FIRST_RESPONSE: 715_049,
}
_KEPT_S = 600


def note(network: Network, *, base_fee: int | None = None, tip: int | None = None) -> None:
    """Base units per gas, of the newest block and for whoever makes the next; None: as it was."""
    said = {
        _key(part, network.chain_id): value
        for part, value in (("base", base_fee), ("tip", tip))
        if value is not None
    }
    try:
        cache.set_many(said, _KEPT_S)
    except redis.RedisError as error:
        logger.warning("What gas costs on %s is not noted: %s", network, type(error).__name__)


def for_task(network: Network, delivery_method: int) -> int:
    """What an attempt and a response cost us at present, in base units."""
    return _price([network.chain_id]) * (ATTEMPT + RESPONSE.get(delivery_method, max(RESPONSE.values())))


def for_usual_task() -> int:
    """The same on the dearest of the networks, with the first response paid."""
    chain_ids = [manifest.chain_id for manifest in networks.manifests()]
    return _price(chain_ids) * (ATTEMPT + RESPONSE[DeliveryMethod.FIRST_RESPONSE])


def _price(chain_ids: list[int]) -> int:
    """Base units per gas, of the dearest."""
    wanted = [_key(part, chain_id) for chain_id in chain_ids for part in ("base", "tip")]
    try:
        known = cache.get_many(wanted)
    except redis.RedisError:
        return 0
    prices = [sum(known.get(_key(part, each), 0) for part in ("base", "tip")) for each in chain_ids]
    return max(prices, default=0)


def _key(part: str, chain_id: int) -> str:
    return f"chain:gas:{part}:{chain_id}"
