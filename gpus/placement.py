"""Which node gets a request: the live nodes that hold the model, fit the policy and have a free slot.

Each process keeps one `Pool` per model. A pool's `ready` list holds the offers with a free slot, so that a choice
looks at two of them, whatever the number of nodes (power of two choices, https://doi.org/10.1109/71.963420), and
takes the one with the least outstanding work per slot, weighted by its measured speed and its price. Where every node
is full for a moment, requests wait in a bounded queue that serves consumers in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings

from gpus.prices import ANY_PRICE, FREE, Ceiling, Rates
from marketplace import money
from marketplace.errors import InvalidRequest, MarketplaceError, Unavailable

if TYPE_CHECKING:
    from gpus.directory import LiveNode

# An agent whose connection broke is usually back in a moment: requests wait for it so long.
COMES_BACK_S = 5.0
TOO_DEAR = "over your maximum price"
# How many nodes people are told about, of those that a request would not go to; how many are looked at for it.
MOST_NAMED, MOST_COMPARED = 50, 1000


class NoCapacity(Unavailable):
    """Nodes hold this model, but none can take the request. The sentence counts them by reason."""

    code, message = "no_capacity", "No node can take this request at the moment."


class PolicyNotMet(InvalidRequest):
    """Nodes hold this model, but none is as the request demands. Waiting does not help; asking for less does."""

    code = "policy_not_met"


class QueueTimeout(NoCapacity):
    code = "queue_timeout"


class QueueFull(NoCapacity):
    code, message = (
        "queue_full",
        "Every node that holds this model is busy, and too many requests wait already.",
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """What a consumer demands of a node. Empty means anything."""

    kind: str = ""
    region: str = ""
    trusted_only: bool = False
    ceiling: Ceiling = ANY_PRICE

    def objection(self, offer: LiveOffer) -> str | None:
        """Why an offer does not fit, as the end of a sentence; None if it does."""
        node = offer.node
        if self.kind and self.kind not in offer.kinds:
            return f"not offering {self.kind}"
        if self.region and node.region != self.region:
            return f"not in region {self.region}"
        if self.trusted_only and not node.trusted:
            return "not trusted by the operator"
        if self.ceiling is not ANY_PRICE and not self.ceiling.admits(offer.rates):
            return TOO_DEAR
        return None


ANY = Policy()


# Nodes that a request is not sent to (again), each with the connection over which it failed.
Failed = Mapping[int, UUID | None]
NONE: Failed = {}


def _has_failed(offer: LiveOffer, failed: Failed) -> bool:
    """Whether a node failed on this request, over the connection that it still has."""
    node = offer.node
    return node.id in failed and failed[node.id] == node.link_id


@dataclass(slots=True, eq=False)
class LiveOffer:
    """A model on a node, with the work that is outstanding there."""

    node: LiveNode
    model: str
    kinds: frozenset[str]
    concurrency: int
    rates: Rates = FREE  # as they are charged
    asked: Rates = FREE  # as its owner set them, perhaps beyond the operator's limits
    context_length: int | None = None
    revision: str = ""
    outstanding: int = 0
    elsewhere: int = 0  # what other processes have outstanding there, as they last said
    latency_s: float = 0.0  # moving average of this offer's answers; 0 = not measured
    place: int = -1  # index in the pool's ready list
    pool: Pool | None = None  # the one that it is in, or was in last
    price: float = 0.0  # of a usual request, to compare by

    def charge(self, rates: Rates) -> None:
        """From now on requests cost this here."""
        self.rates, self.price = rates, rates.usual
        if self.price and self.pool is not None:
            self.pool.is_priced = True

    @property
    def free(self) -> int:
        return self.concurrency - self.outstanding - self.elsewhere

    def load(self, usual_s: float, prices: float = 0.0) -> float:
        """How bad it is to send a further request here, in no unit but comparable within a pool: its time and price.

        `prices`: this offer's price and that of the one it is compared with. The price counts up to twofold, so that
        it decides between nodes that are alike, and work that has piled up outweighs it.
        """
        taken = (self.outstanding + self.elsewhere + 1) / self.concurrency * (self.latency_s or usual_s)
        return taken * (1 + self.price / prices) if prices else taken


@dataclass(slots=True, eq=False)
class Slot:
    """One request's place on a node, until `release`."""

    pool: Pool
    offer: LiveOffer
    released: bool = False

    @property
    def node(self) -> LiveNode:
        return self.offer.node

    def release(self, *, took_s: float | None = None) -> None:
        """Give the place to whoever waits. `took_s` is how long a complete answer took."""
        if self.released:
            return
        self.released = True
        # Its node may have been reserved, or set free again, meanwhile.
        (self.offer.pool or self.pool).release(self.offer, took_s)


@dataclass(slots=True, eq=False)
class _Waiter:
    policy: Policy
    failed: Failed
    slot: asyncio.Future[Slot]

    def fits(self, offer: LiveOffer) -> bool:
        return not _has_failed(offer, self.failed) and self.policy.objection(offer) is None


@dataclass(slots=True, eq=False)
class Pool:
    """The offers of one model in this process, and who waits for them.

    The nodes in `reserved` hold the model too, but serve only their allocations.
    """

    model: str
    offers: dict[int, LiveOffer] = field(default_factory=dict)
    ready: list[LiveOffer] = field(default_factory=list)
    waiting: dict[int, deque[_Waiter]] = field(default_factory=dict)  # by consumer, served in turn
    waiters: int = 0
    usual_s: float = 1.0  # of answers here; a guess before the first
    is_measured: bool = False
    is_priced: bool = False  # some offer here costs something, or did
    reserved: dict[int, LiveOffer] = field(default_factory=dict)

    @property
    def is_needed(self) -> bool:
        return bool(self.offers or self.waiters or self.reserved)

    def add(self, offer: LiveOffer) -> None:
        """Take an offer in, which is in no other pool; `refresh` must follow."""
        self.offers[offer.node.id] = offer
        offer.pool = self
        self.is_priced = self.is_priced or offer.price > 0

    def remove(self, offer: LiveOffer) -> None:
        """Send it no more requests. What runs there goes on."""
        self.offers.pop(offer.node.id, None)
        self.refresh(offer)

    def dismiss(self, error: MarketplaceError) -> None:
        """Answer this to all who wait."""
        for waiter in [each for queue in self.waiting.values() for each in queue]:
            if not waiter.slot.done():
                waiter.slot.set_exception(error)
        self.waiting.clear()
        self.waiters = 0

    def does(self, kind: str) -> bool:
        """Whether any node offers this kind of answer."""
        return any(
            kind in offer.kinds for offer in itertools.chain(self.offers.values(), self.reserved.values())
        )

    def refresh(self, offer: LiveOffer) -> None:
        """Keep `ready` right after anything about an offer has changed, and serve who waits."""
        wanted = offer.node.takes_work and offer.free > 0 and self.offers.get(offer.node.id) is offer
        if wanted and self.waiters:
            self._serve(offer)
            wanted = offer.free > 0
        if wanted and offer.place < 0:
            offer.place = len(self.ready)
            self.ready.append(offer)
        elif not wanted and offer.place >= 0:
            last = self.ready.pop()
            if last is not offer:
                self.ready[offer.place] = last
                last.place = offer.place
            offer.place = -1

    def occupy(self, offer: LiveOffer) -> Slot:
        offer.outstanding += 1
        if offer.free <= 0:
            self.refresh(offer)
        return Slot(self, offer)

    def release(self, offer: LiveOffer, took_s: float | None) -> None:
        offer.outstanding -= 1
        if took_s is not None:
            offer.latency_s = took_s if not offer.latency_s else 0.9 * offer.latency_s + 0.1 * took_s
            # A node of which nothing is known is taken for a usual one, so that it gets its share soon.
            self.usual_s = 0.98 * self.usual_s + 0.02 * took_s if self.is_measured else took_s
            self.is_measured = True
        if offer.place < 0 or self.waiters:
            self.refresh(offer)

    def _serve(self, offer: LiveOffer) -> None:
        """Give the offer's free slots to those who wait, one consumer after the other."""
        while offer.free > 0 and (waiter := self._next(offer)) is not None:
            offer.outstanding += 1
            waiter.slot.set_result(Slot(self, offer))

    def _next(self, offer: LiveOffer) -> _Waiter | None:
        for consumer, queue in list(self.waiting.items()):
            for waiter in queue:
                if not waiter.slot.done() and waiter.fits(offer):
                    self._remove(consumer, waiter)
                    if consumer in self.waiting:  # to the end of the turn
                        self.waiting[consumer] = self.waiting.pop(consumer)
                    return waiter
        return None

    def _remove(self, consumer: int, waiter: _Waiter) -> None:
        queue = self.waiting[consumer]
        queue.remove(waiter)
        self.waiters -= 1
        if not queue:
            del self.waiting[consumer]

    async def wait(self, *, consumer: int, policy: Policy, failed: Failed, for_s: float) -> Slot:
        """Queue for a slot. Raises QueueFull, NoCapacity when none came free in time, and what `dismiss` was told."""
        if self.waiters >= settings.QUEUE_LENGTH:
            raise QueueFull(retry_after=1 + self.usual_s)
        waiter = _Waiter(policy, failed, asyncio.get_running_loop().create_future())
        self.waiting.setdefault(consumer, deque()).append(waiter)
        self.waiters += 1
        try:
            await asyncio.wait((waiter.slot,), timeout=for_s)
        except asyncio.CancelledError:
            self._leave(consumer, waiter)
            raise
        if waiter.slot.done():
            return waiter.slot.result()
        self._leave(consumer, waiter)
        raise QueueTimeout(
            f"Every node that could serve {self.model} stayed busy for {for_s:.0f} seconds.",
            retry_after=1 + self.usual_s,
        )

    def _leave(self, consumer: int, waiter: _Waiter) -> None:
        """Leave the queue, or hand on a slot that came at the very moment of leaving."""
        if waiter.slot.done():
            if waiter.slot.exception() is None:
                waiter.slot.result().release()
        else:
            waiter.slot.cancel()
            self._remove(consumer, waiter)


def choose(pool: Pool, *, policy: Policy = ANY, failed: Failed = NONE) -> Slot | None:
    """A slot on the better of two nodes that are free and fit; None where all that fit are full.

    Constant in the number of nodes, unless most of the free ones do not fit.
    """
    ready = pool.ready
    if not ready:
        return None
    best = _sample(pool, policy, failed) if len(ready) > 1 else None
    if best is None:
        best = next(_fitting(ready, policy, failed), None)
    return None if best is None else pool.occupy(best)


def _sample(pool: Pool, policy: Policy, failed: Failed, tries: int = 8) -> LiveOffer | None:
    ready, found = pool.ready, None
    for _ in range(tries):
        offer = ready[int(random.random() * len(ready))]  # noqa: S311 - spreads load, guards nothing
        if offer is found or _has_failed(offer, failed) or policy.objection(offer) is not None:
            continue
        if found is not None:
            return _better(found, offer, pool.usual_s)
        found = offer
    return found


def _better(one: LiveOffer, two: LiveOffer, usual_s: float) -> LiveOffer:
    prices = one.price + two.price
    return one if one.load(usual_s, prices) <= two.load(usual_s, prices) else two


def _fitting(offers: list[LiveOffer], policy: Policy, failed: Failed) -> Iterator[LiveOffer]:
    return (offer for offer in offers if not _has_failed(offer, failed) and policy.objection(offer) is None)


def explain(pool: Pool, *, policy: Policy, failed: Failed) -> tuple[float, MarketplaceError]:
    """For how many seconds waiting can help, and the error to answer where it does not: every node by its reason."""
    reasons: dict[str, int] = {}
    wait_s, fits = 0.0, False
    for offer in pool.offers.values():
        objection = policy.objection(offer)
        fits = fits or objection is None
        if objection is not None:
            reason = objection
        elif not offer.node.takes_work:
            reason = offer.node.state
            if offer.node.lost_at > time.monotonic() - COMES_BACK_S:
                wait_s = max(wait_s, COMES_BACK_S)
        elif _has_failed(offer, failed):
            reason = "failed on this request"
        else:
            reason, wait_s = "full", math.inf
        reasons[reason] = reasons.get(reason, 0) + 1
    if pool.reserved:
        reasons["reserved for an allocation"] = len(pool.reserved)
    sentence, details = _sentence(pool.model, reasons), {"nodes": reasons}
    if TOO_DEAR in reasons:
        sentence, details = _with_cheapest(pool, policy, sentence, details)
    if pool.offers and not fits and not pool.reserved:
        return 0.0, PolicyNotMet(sentence, details=details)
    return wait_s, NoCapacity(sentence, details=details, retry_after=5)


def _with_cheapest(
    pool: Pool, policy: Policy, sentence: str, details: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The same, with the maximum price that would do: that of the cheapest node that is right but for its price."""
    dear = [offer for offer in pool.offers.values() if policy.objection(offer) == TOO_DEAR]
    rates = min(dear, key=lambda offer: (not offer.node.takes_work, offer.price)).rates
    shown = {
        "input_price": money.render(rates.input),
        "output_price": money.render(rates.output),
        "request_price": money.render(rates.request),
    }
    asks = (
        f" The cheapest of these asks {shown['input_price']} per million prompt tokens, {shown['output_price']} per "
        f"million completion tokens and {money.named(rates.request)} per request."
    )
    return sentence + asks, {**details, "cheapest": shown}


def _sentence(model: str, reasons: dict[str, int]) -> str:
    total = sum(reasons.values())
    if not total:
        return f"No node holds {model} at the moment."
    most_first = sorted(reasons.items(), key=lambda each: (-each[1], each[0]))
    said = ", ".join(f"{count} {'is' if count == 1 else 'are'} {reason}" for reason, count in most_first)
    return f"{total} node{'' if total == 1 else 's'} hold{'s' if total == 1 else ''} {model}: {said}."


def others(pools: Mapping[str, Pool], *, but: str, policy: Policy, most: int = 3) -> list[str]:
    """Models that could take the same kind of request now: what to suggest to whom nobody can serve."""
    free = (pool for pool in pools.values() if pool.model != but and pool.ready)
    fitting = (pool.model for pool in free if next(_fitting(pool.ready, policy, NONE), None))
    return list(itertools.islice(fitting, most))


async def take(
    pool: Pool, *, consumer: int, policy: Policy = ANY, failed: Failed = NONE, for_s: float
) -> Slot:
    """A slot now, or after a wait of at most `for_s` seconds. Raises NoCapacity, QueueFull, PolicyNotMet."""
    slot = choose(pool, policy=policy, failed=failed)
    if slot is not None:
        return slot
    wait_s, error = explain(pool, policy=policy, failed=failed)
    if min(wait_s, for_s) <= 0:
        raise error
    try:
        return await pool.wait(consumer=consumer, policy=policy, failed=failed, for_s=min(wait_s, for_s))
    except QueueTimeout:
        if wait_s == math.inf:
            raise
        raise error from None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would become of a request now.

    `chosen`: where it would go, also where it would have to wait for that; `others`: why not there, a bounded number of
    them, those that could do it first. `wait_s` None: waiting would not help, and `error` is the answer.
    """

    chosen: LiveOffer | None
    wait_s: float | None
    others: list[tuple[LiveOffer, str]]
    error: MarketplaceError | None = None


def foresee(pool: Pool, *, policy: Policy = ANY) -> Outlook:
    """The best node for a request, an estimate of its wait in seconds, and why the others would not get it.

    Where it goes in the end may differ: a choice looks at two free nodes only, and more requests come.
    """
    free = list(itertools.islice(_fitting(pool.ready, policy, NONE), MOST_COMPARED))
    full = [] if free else [each for each in pool.offers.values() if _is_full(each, policy)]
    best: LiveOffer | None = None
    for offer in free or full:
        best = offer if best is None else _better(best, offer, pool.usual_s)
    rest = (offer for offer in dict.fromkeys([*free, *full, *pool.offers.values()]) if offer is not best)
    others = [(offer, _why_not(offer, policy)) for offer in itertools.islice(rest, MOST_NAMED)]
    if best is None:
        return Outlook(None, None, others, explain(pool, policy=policy, failed=NONE)[1])
    return Outlook(best, _expected_wait_s(pool, full), others)


def _is_full(offer: LiveOffer, policy: Policy) -> bool:
    return offer.node.takes_work and offer.free <= 0 and policy.objection(offer) is None


def _expected_wait_s(pool: Pool, full: list[LiveOffer]) -> float:
    """Until the slots that come free have served all who wait already."""
    if not full:
        return 0.0
    slots = sum(offer.concurrency for offer in full)
    return pool.usual_s * (pool.waiters + 1) / slots


def _why_not(offer: LiveOffer, policy: Policy) -> str:
    objection = policy.objection(offer)
    if objection is not None:
        return objection
    if not offer.node.takes_work:
        return offer.node.state
    if offer.free <= 0:
        return "full"
    return "slower so far, more outstanding work, or a higher price"


def summary(pools: Iterable[Pool]) -> dict[str, Any]:
    """What is outstanding per node and model in this process, for the other processes."""
    return {
        f"{offer.node.id}/{pool.model}": offer.outstanding
        for pool in pools
        for offer in pool.offers.values()
        if offer.outstanding
    }
