"""The live nodes, in the memory of one process: read once, then kept up with what changes.

Rows are the truth. A changed node is read again when somebody announces it, and at the latest by the next poll; what
polls could miss (a deleted node, an owner's account) is found by reading everything again every half minute.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import orjson
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connections

from clients import terms
from clients.models import Terms
from gpus import nodes, placement, prices, snapshots, states
from gpus.liveness import UNREACHABLE, Liveness, NodeFacts, assess
from gpus.models import Delivery, Node
from gpus.placement import LiveOffer, Pool
from gpus.pools import Guards, Pools, Reserved
from gpus.prices import FREE, Rates
from gpus.snapshots import OF_PRICE, PLAIN, TRAINING_PRICE, Row
from marketplace import background
from marketplace.bus import Bus

logger = logging.getLogger(__name__)

POLL_S = 1.0
LOAD_S = 0.2
EVERYTHING_S = 30.0
SLICE = 200
DOUBT_S = 3.0
# A row is visible only after its transaction: look back this far, so that none slips through between two polls.
OVERLAP = timedelta(seconds=2)

Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class LiveNode:
    """What this process knows of a node."""

    id: int
    owner_id: int
    facts: NodeFacts
    name: str = ""
    token_digest: str = ""
    delivery: str = Delivery.PULL
    push_url: str = ""
    push_secret: str = ""
    region: str = ""
    trusted: bool = False
    gateway_id: UUID | None = None
    link_id: UUID | None = None
    message: str = ""
    engine: str = ""
    # What it offers besides answering (`gpus.talents`), and asks for a million tokens trained on.
    training: Row | None = None
    hosting: Row | None = None
    training_price: int | None = None
    errands: int = 0
    liveness: Liveness = field(default=Liveness("pending", "It has just become known."))
    offers: dict[str, LiveOffer] = field(default_factory=dict)
    reserved: Reserved | None = None
    # When it stopped being reachable (monotonic clock), if it was.
    lost_at: float = -math.inf
    # Who holds its connection is written by one at a time, or an old connection could have the last word.
    noting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def takes_work(self) -> bool:
        return self.liveness.takes_work

    @property
    def state(self) -> str:
        return self.liveness.state

    @property
    def fix(self) -> str:
        return self.liveness.fix


@dataclass(slots=True)
class OwnLink:
    """A connection that this process holds. `written_at`: when its row was known to say so (monotonic clock)."""

    link_id: UUID
    written_at: float = math.inf


class Directory:
    """Nodes by id and by token, pools of offers. All methods but `start` and `stop` belong to the event loop."""

    def __init__(self, gateway_id: UUID) -> None:
        self.gateway_id = gateway_id
        self.nodes: dict[int, LiveNode] = {}
        self.by_digest: dict[str, LiveNode] = {}
        self._pools = Pools()
        self.pools = self._pools.general  # by model, for requests that name no allocation
        self.gateways: set[UUID] = set()
        self.terms = terms.UNSET
        self._own: dict[int, OwnLink] = {}
        self._doubted: dict[UUID | None, float] = {}
        self._listeners: list[Callable[[LiveNode], None]] = []
        self._errand_listeners: list[Callable[[LiveNode], None]] = []
        self._announced: set[int] = set()
        self._ring = asyncio.Event()
        self._elsewhere: dict[str, tuple[float, dict[str, int]]] = {}
        self._said: dict[str, int] = {}
        self._cursor = datetime.now(UTC)
        self._tasks: list[asyncio.Task[None]] = []
        # One thread, so that Django keeps one connection for all of the polls.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="directory")
        # Another for tokens that nobody knows: whoever sends many of these must not hold up the polls.
        self._lookups = ThreadPoolExecutor(1, thread_name_prefix="lookups")

    # --- Life ---------------------------------------------------------------------------------------------

    async def start(self, bus: Bus) -> None:
        """Read everything, then follow changes. Waits for a database that is not there yet."""
        bus.subscribe("nodes", self._heard_of)
        bus.subscribe("load", self._heard_load)
        bus.subscribe("credentials", self._heard_of_owner)
        while not await self._poll(everything=True):  # noqa: ASYNC110 - nobody tells when a database is there
            await asyncio.sleep(POLL_S)
        self._tasks = [
            background.keep_running(self._follow),
            background.keep_running(partial(self._tell_load, bus)),
        ]

    async def stop(self) -> None:
        await background.end(*self._tasks)
        for threads in (self._thread, self._lookups):
            await asyncio.get_running_loop().run_in_executor(threads, connections.close_all)
            threads.shutdown(wait=False)

    def on_change(self, listener: Callable[[LiveNode], None]) -> None:
        """Call `listener` with each node whose state, link or gateway is no longer what it was."""
        self._listeners.append(listener)

    def on_errand(self, listener: Callable[[LiveNode], None]) -> None:
        """Call `listener` with each node for which there is something new to ask for."""
        self._errand_listeners.append(listener)

    # --- Following ----------------------------------------------------------------------------------------

    def _heard_of(self, message: bytes) -> None:
        # Several announcements of one turn arrive joined only from Bus.publish; these come one by one.
        if message.isdigit():
            self._announced.add(int(message))
            self._ring.set()

    def _heard_of_owner(self, message: bytes) -> None:
        """An account was approved, suspended or closed, and its nodes with it."""
        kind, _, number = message.partition(b":")
        if kind == b"client" and number.isdigit():
            self._announced |= {node.id for node in self.nodes.values() if node.owner_id == int(number)}
            self._ring.set()

    async def _follow(self) -> None:
        last_everything = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._ring.wait()
            except TimeoutError:
                pass
            self._ring.clear()
            everything = time.monotonic() - last_everything > EVERYTHING_S
            if await self._poll(everything=everything) and everything:
                last_everything = time.monotonic()
            async for node in _in_slices(list(self.nodes.values())):
                self.reassess(node)

    async def _poll(self, *, everything: bool) -> bool:
        announced, self._announced = self._announced, set()
        since, started, read_at = self._cursor - OVERLAP, datetime.now(UTC), time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._thread, snapshots.read, since, frozenset(announced), everything
            )
        except DatabaseError as error:
            logger.warning("Could not read the nodes: %s", str(error).strip().split("\n")[0])
            self._announced |= announced
            return False
        self._cursor = started
        self.gateways = found.gateways | {self.gateway_id}
        self._heed(found.terms)
        async for row in _in_slices(found.nodes):
            self._apply(row, read_at)
        for node_id in found.gone(announced, self.nodes if everything else ()):
            self._forget(node_id)
        for node_id, at in found.heartbeats:
            self.beat(node_id, at)
        return True

    def _heed(self, now: Terms) -> None:
        """New terms: other prices where a node has none of its own, and where one is beyond the limits now."""
        if now.pk != self.terms.pk:
            self.terms = now
            for node in self.nodes.values():
                for offer in node.offers.values():
                    self._charge(offer)

    def pools_for(self, allocation: str, client_id: int) -> Mapping[str, Pool]:
        """The pools of a client's allocation by model; everybody's where it is "". Raises AllocationNotFound."""
        return self._pools.of(allocation, client_id)

    def pool_for(self, model: str, allocation: str, client_id: int) -> Pool:
        """Where a request finds its node. Raises AllocationNotFound."""
        return self._pools.of(allocation, client_id).get(model) or Pool(model)

    def guard(self, guards: Guards) -> None:
        """From now on only these nodes get requests for these models, whoever else says that he serves them."""
        changed = self._pools.guard(guards)
        for node in self.nodes.values() if changed else ():
            for model in node.offers.keys() & changed:
                self._pools.put(node.offers[model])
            self._refresh(node)

    async def find(self, token_digest: str) -> LiveNode | None:
        """The node that a token belongs to; a node that nobody has announced yet is looked up."""
        node = self.by_digest.get(token_digest)
        if node is None:
            loop, read_at = asyncio.get_running_loop(), time.monotonic()
            row = await loop.run_in_executor(self._lookups, snapshots.read_one, token_digest)
            if row is not None:
                self._apply(row, read_at)
                node = self.nodes[row["id"]]
        return node

    async def read_again(self, node_id: int) -> None:
        """Read one node now, for whoever has just changed it."""
        self._announced.add(node_id)
        await self._poll(everything=False)

    def beat(self, node_id: int, at: float) -> None:
        """Note a sign of life, seconds since the epoch."""
        node = self.nodes.get(node_id)
        if node is not None and at > (node.facts.last_heartbeat_at or 0):
            node.facts.last_heartbeat_at = at
            if node.state == "silent":
                self.reassess(node)

    def _apply(self, row: Row, read_at: float) -> None:
        row = self._own_link(row, read_at)
        facts = states.facts(row, now=datetime.now(UTC))
        node = self.nodes.get(row["id"])
        if node is None:
            node = self.nodes[row["id"]] = LiveNode(id=row["id"], owner_id=row["owner_id"], facts=facts)
        changed = node.link_id != row["link_id"]
        facts.last_heartbeat_at = max(facts.last_heartbeat_at or 0, node.facts.last_heartbeat_at or 0) or None
        node.facts = facts
        if node.token_digest != row["token_digest"]:
            self.by_digest.pop(node.token_digest, None)
            self.by_digest[row["token_digest"]] = node
        for name in PLAIN:
            setattr(node, name, row[name])
        node.training_price = row[TRAINING_PRICE]
        if node.errands != row["errands"]:
            node.errands = row["errands"]
            for listener in self._errand_listeners:
                listener(node)
        if node.delivery == Delivery.PUSH:
            node.push_secret = nodes.push_secret(Node(pk=node.id, token_digest=node.token_digest))
        if row["reserved"] != node.reserved:
            self._pools.assign(node, row["reserved"])
        self._apply_offers(node, row["offers"])
        self.reassess(node, changed=changed)
        self._refresh(node)

    def _apply_offers(self, node: LiveNode, offers: list[Row]) -> None:
        wanted = {offer["model"]: offer for offer in offers}
        for model in node.offers.keys() - wanted.keys():
            self._pools.withdraw(node.offers.pop(model))
        for model, offer in wanted.items():
            live = node.offers.get(model)
            if live is None:
                live = node.offers[model] = LiveOffer(node, model, frozenset(), 1)
                self._pools.put(live)
            live.kinds, live.concurrency = frozenset(offer["kinds"]), offer["concurrency"]
            live.context_length, live.revision = offer["context_length"], offer["revision"]
            live.asked = FREE if offer["price_id"] is None else Rates(*(offer[name] for name in OF_PRICE))
            self._charge(live)

    def _charge(self, offer: LiveOffer) -> None:
        """What an offer costs under the present terms; whoever has reserved its node has paid already."""
        offer.charge(prices.within(offer.asked, self.terms) if offer.node.reserved is None else FREE)

    @staticmethod
    def _refresh(node: LiveNode) -> None:
        for offer in node.offers.values():
            if offer.pool is not None:
                offer.pool.refresh(offer)

    def _forget(self, node_id: int) -> None:
        node = self.nodes.pop(node_id, None)
        if node is None:
            return
        self.by_digest.pop(node.token_digest, None)
        node.liveness = Liveness("suspended", "It is no longer registered.")
        for model in list(node.offers):
            self._pools.withdraw(node.offers.pop(model))
        self._pools.assign(node, None)
        self._tell(node)

    # --- Connections of this process ----------------------------------------------------------------------

    def hold(self, node: LiveNode, link_id: UUID) -> OwnLink:
        """This process holds a node's connection from now on, whatever a row that was read before says."""
        own = self._own[node.id] = OwnLink(link_id)
        node.gateway_id, node.link_id = self.gateway_id, link_id
        self.reassess(node, changed=True)
        return own

    def let_go(self, node: LiveNode, link_id: UUID) -> None:
        """The connection has ended."""
        own = self._own.get(node.id)
        if own is not None and own.link_id == link_id:
            del self._own[node.id]
        if node.link_id == link_id:
            node.link_id = None
            self.reassess(node, changed=True)

    def holds(self, node: LiveNode, link_id: UUID) -> bool:
        """Whether this is still the node's connection."""
        own = self._own.get(node.id)
        return own is not None and own.link_id == link_id

    def is_noted(self, node: LiveNode) -> bool:
        """Whether the row of a node that is connected here is known to say so."""
        own = self._own.get(node.id)
        return own is None or own.written_at < math.inf

    def _own_link(self, row: Row, read_at: float) -> Row:
        """A row, corrected by what this process knows better: that it holds the connection."""
        own = self._own.get(row["id"])
        if own is None or row["link_id"] == own.link_id:
            return row
        if row["link_id"] is not None and read_at > own.written_at:
            # The agent has connected to another process since.
            del self._own[row["id"]]
            return row
        if row["link_id"] is None and read_at > own.written_at:
            own.written_at = math.inf  # somebody cleared it: to be written again
        return {**row, "gateway_id": self.gateway_id, "link_id": own.link_id}

    # --- State --------------------------------------------------------------------------------------------

    def reassess(self, node: LiveNode, *, changed: bool = False) -> None:
        """Work out whether a node takes work now, and tell those who must act on it."""
        facts = node.facts
        facts.has_link = node.link_id is not None and self._has_link(node, node.link_id)
        before = node.liveness
        node.liveness = assess(
            facts,
            now=time.time(),
            silent_after_s=settings.HEARTBEAT_INTERVAL_S * settings.HEARTBEATS_MISSED,
            minimum_agent_version=settings.MINIMUM_AGENT_VERSION,
        )
        if node.liveness.state == UNREACHABLE and before.takes_work:
            node.lost_at = time.monotonic()
        if node.liveness.takes_work != before.takes_work:
            self._refresh(node)
        if changed or node.liveness.state != before.state:
            self._tell(node)

    def _tell(self, node: LiveNode) -> None:
        for listener in self._listeners:
            listener(node)

    def _has_link(self, node: LiveNode, link_id: UUID) -> bool:
        """Whether a node's connection stands. Of its own this process knows it better than a row."""
        if node.gateway_id == self.gateway_id:
            return self.holds(node, link_id)
        return self.is_there(node.gateway_id)

    def is_there(self, gateway_id: UUID | None) -> bool:
        """Whether a process lives and hears us, as far as we know."""
        return gateway_id in self.gateways and self._doubted.get(gateway_id, 0.0) < time.monotonic()

    def doubt(self, gateway_id: UUID) -> None:
        """A process did not hear us: nothing goes there for a moment. Its agents connect elsewhere if it is gone."""
        self._doubted[gateway_id] = time.monotonic() + DOUBT_S
        for node in self.nodes.values():
            if node.gateway_id == gateway_id:
                self.reassess(node)

    # --- What other processes have outstanding ------------------------------------------------------------

    async def _tell_load(self, bus: Bus) -> None:
        told_at = 0.0
        while True:
            await asyncio.sleep(LOAD_S)
            if len(self.gateways) < 2:
                continue
            load = placement.summary(self._pools.all())
            if load != self._said or (load and time.monotonic() - told_at > 1):
                bus.publish("load", orjson.dumps({"gateway": self.gateway_id.hex, "load": load}) + b"\n")
                self._said, told_at = load, time.monotonic()
            self._forget_old_load()

    def _heard_load(self, message: bytes) -> None:
        for line in message.splitlines():
            said: dict[str, Any] = orjson.loads(line)
            if said["gateway"] != self.gateway_id.hex:
                before = self._elsewhere.get(said["gateway"], (0.0, {}))[1]
                self._elsewhere[said["gateway"]] = (time.monotonic(), said["load"])
                self._recount(before.keys() | said["load"].keys())

    def _forget_old_load(self) -> None:
        for gateway, (at, load) in list(self._elsewhere.items()):
            if time.monotonic() - at > 3:
                del self._elsewhere[gateway]
                self._recount(load.keys())

    def _recount(self, keys: Iterable[str]) -> None:
        for key in keys:
            node_id, _, model = key.partition("/")
            node = self.nodes.get(int(node_id))
            offer = node.offers.get(model) if node else None
            if offer and offer.pool:
                offer.elsewhere = sum(load.get(key, 0) for _, load in self._elsewhere.values())
                offer.pool.refresh(offer)


async def _in_slices(items: list[Item]) -> AsyncIterator[Item]:
    """Each item, with a pause after every few hundred, in which requests that came meanwhile go on."""
    for number, item in enumerate(items):
        if number % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        yield item
