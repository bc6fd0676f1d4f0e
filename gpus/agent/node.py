"""The node's life with the marketplace: it joins, sends heartbeats, and obeys what their answers say."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from yarl import URL

from gpus.agent import hardware
from gpus.agent.engines import Engine
from gpus.agent.intake import Intake
from gpus.agent.marketplace import Marketplace, MarketplaceAway, MarketplaceRefused
from gpus.agent.options import Options
from gpus.agent.state import State, StateFile
from gpus.protocol import VERSION

logger = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MOST_S = 0.5, 30.0
# The marketplace does not know the token (any more).
TOKEN_REFUSED = frozenset((401, 404))
PRICE_REFUSED = 400
INTERVAL_RANGE_S = (1.0, 3600.0)


class CannotJoin(Exception):
    """The marketplace will not have this node until its owner changes something."""


class Node:
    """This machine for the marketplace.

    `drain` hears when a drain is asked for (True) or taken back; `errands` the number in each reply that goes up when
    there is something to ask for. `talents` says what the node does besides answering, and may take a second.
    """

    def __init__(
        self,
        *,
        options: Options,
        marketplace: Marketplace,
        intake: Intake,
        engines: Sequence[Engine],
        states: StateFile,
        drain: Callable[[bool], None],
        talents: Callable[[], dict[str, Any]] = dict,
        errands: Callable[[Any], None] = lambda _number: None,
    ) -> None:
        self._options = options
        self._marketplace = marketplace
        self._intake = intake
        self._engines = list(engines)
        self._states = states
        self._drain = drain
        self._talents = talents
        self._errands = errands
        self._said: set[str] = set()
        self._state_heard: str | None = None
        self._state_said = ""
        self._beat_now = asyncio.Event()
        self.state: State = states.load()

    # --- Joining -----------------------------------------------------------------------------------------
    def check(self) -> None:
        """Raises CannotJoin where it is clear from the start that joining will fail."""
        if not self._still_registered() and not self._options.has_account:
            raise CannotJoin(
                "The marketplace does not know this node yet. Start it once with --token (your account's "
                "token or an API key), or with --email and --password."
            )

    async def join(self) -> None:
        """Be registered: as saved, else anew. Waits for a marketplace that is away. Raises CannotJoin."""
        if self._still_registered():
            logger.info("Known as node %s (%s).", self.state.node_id, self.state.name)
            return
        failures = 0
        while True:
            try:
                await self._models_to_offer()
                await self._register()
                return
            except MarketplaceAway as error:
                failures += 1
                logger.warning("%s", error)
                await asyncio.sleep(back_off(failures))
            except MarketplaceRefused as error:
                raise CannotJoin(f"The marketplace does not let this node join: {error}") from error

    async def leave(self) -> None:
        """Remove the node from the marketplace for good. Raises MarketplaceAway, MarketplaceRefused."""
        if self.state.node_token:
            await self._marketplace.deregister(node_token=self.state.node_token)
        self._states.forget()

    def target(self) -> tuple[URL, str]:
        """Where to connect, and with which token."""
        return self._marketplace.connect_url(self.state.connect_url), self.state.node_token

    def _still_registered(self) -> bool:
        if not self.state.node_token:
            return False
        described = self._described()
        if described == self.state.described:
            return True
        # Without an account there is no registering again; a new name can wait, another marketplace cannot.
        same_place = described["marketplace"] == self.state.described.get("marketplace")
        return same_place and not self._options.has_account

    def _described(self) -> dict[str, str]:
        options = self._options
        return {
            "marketplace": options.marketplace,
            "delivery": options.delivery,
            "push_url": options.push_url,
            "name": options.name,
            "region": options.region,
            **({"hour_price": options.hour_price} if options.hour_price else {}),
            **({"training_price": options.training_price} if options.training_price else {}),
        }

    async def _models_to_offer(self) -> None:
        while not self._intake.offers():
            self._beat_now.clear()
            await self._beat_now.wait()

    async def _register(self) -> None:
        registration = await self._registration()
        reply = await self._marketplace.register(token=await self._account_token(), node=registration)
        state = self.state
        state.priced = {model["name"]: self._options.prices for model in registration["models"]}
        state.node_token = reply["node_token"]
        state.node_id = int(reply.get("node_id") or 0)
        state.name = str(reply.get("name") or self._options.name)
        state.connect_url = str(reply.get("connect_url") or "")
        state.push_secret = str(reply.get("push_secret") or "")
        state.heartbeat_interval_s = _interval(reply.get("heartbeat_interval_s"), state.heartbeat_interval_s)
        state.described = self._described()
        self._states.save(state)
        print(f"joined {self._options.marketplace} as node {state.node_id} ({state.name})", flush=True)
        self._obey(reply)

    async def _account_token(self) -> str:
        options = self._options
        if options.token:
            return options.token
        return await self._marketplace.login(email=options.email, password=options.password)

    async def _registration(self) -> dict[str, Any]:
        offers = self._intake.offers()
        options = self._options
        node: dict[str, Any] = await asyncio.to_thread(hardware.describe)
        node |= await asyncio.to_thread(self._talents)
        node |= {
            "model_name": offers[0].name,
            "models": [offer.to_json() | options.prices for offer in offers],
            "machine_id": self.state.machine_id,
            "agent_version": VERSION,
            "engine": self._title(),
            "delivery": options.delivery,
        }
        wished = {
            "name": options.name,
            "push_url": options.push_url,
            "region": options.region,
            "hour_price": options.hour_price,
            "training_price": options.training_price,
        }
        return node | {key: value for key, value in wished.items() if value}

    def _title(self) -> str:
        return ", ".join(engine.title for engine in self._engines)[:200]

    # --- Heartbeats --------------------------------------------------------------------------------------
    def beat_soon(self) -> None:
        """Let the marketplace know at once that something has changed."""
        self._beat_now.set()

    async def keep_beating(self) -> None:
        """Send heartbeats until cancelled: at the marketplace's interval, in back-off while it is away."""
        failures = 0
        while True:
            self._beat_now.clear()
            try:
                await self.beat()
                failures, pause = 0, self.state.heartbeat_interval_s * random.uniform(0.85, 1.0)  # noqa: S311 - jitter
            except MarketplaceAway as error:
                failures += 1
                pause = min(back_off(failures), self.state.heartbeat_interval_s)
                logger.warning("No heartbeat: %s", error)
            except (MarketplaceRefused, CannotJoin) as error:
                failures += 1
                pause = back_off(failures + 3)  # only a person can change this, so there is no hurry
                logger.error("%s", error)
            try:
                async with asyncio.timeout(pause):
                    await self._beat_now.wait()
                await asyncio.sleep(0.05)  # let changes that come together go together
            except TimeoutError:
                pass

    async def beat(self) -> None:
        """One heartbeat; where its token is refused, a new registration, if there is an account for it."""
        report = await self._report()
        try:
            reply = await self._marketplace.heartbeat(node_token=self.state.node_token, report=report)
        except MarketplaceRefused as error:
            if error.status == PRICE_REFUSED and self._priced_in(report):
                # The rest of what it says must get through.
                logger.error("The marketplace refuses these prices: %s", error)
                self._note_prices(report)
                self.beat_soon()
                return
            if (
                error.status not in TOKEN_REFUSED
                or not self._options.has_account
                or not self._intake.offers()
            ):
                raise
            logger.warning("The marketplace does not take this node's token any more; registering again.")
            await self._register()
            return
        self._note_prices(report)
        self._obey(reply)

    def _models(self) -> list[dict[str, Any]]:
        """What is offered; with its price where the marketplace has not been told it yet.

        It is told once, since its owner may change it at the marketplace afterwards.
        """
        prices, priced = self._options.prices, self.state.priced
        return [
            offer.to_json() | (prices if priced.get(offer.name, {}) != prices else {})
            for offer in self._intake.offers()
        ]

    def _priced_in(self, report: dict[str, Any]) -> list[str]:
        prices = self._options.prices
        return [model["name"] for model in report["models"] if prices and prices.keys() <= model.keys()]

    def _note_prices(self, report: dict[str, Any]) -> None:
        told = self._priced_in(report)
        if told:
            self.state.priced |= dict.fromkeys(told, self._options.prices)
            self._states.save(self.state)

    async def _report(self) -> dict[str, Any]:
        active = self._intake.active
        load = await asyncio.to_thread(hardware.load)
        talents = await asyncio.to_thread(self._talents)
        return talents | {
            "models": self._models(),
            "status": "draining" if self._intake.draining else "online",
            "active_requests": active,
            "agent_version": VERSION,
            "engine": self._title(),
            "metrics": load | {"active_requests": active},
        }

    def _obey(self, reply: dict[str, Any]) -> None:
        """What the marketplace wants of us, and wants us to read."""
        self.state.heartbeat_interval_s = _interval(
            reply.get("next_heartbeat_in"), self.state.heartbeat_interval_s
        )
        for message in reply.get("messages") or ():
            self._say_once(f"message from the marketplace: {message}")
        self._hear_state(reply)
        minimum = str(reply.get("minimum_agent_version") or "")
        if minimum and version_tuple(VERSION) < version_tuple(minimum):
            self._say_once(
                f"this agent ({VERSION}) is too old for the marketplace, which wants {minimum}: update it"
            )
        self._errands(reply.get("errands"))
        if "drain" in reply:
            self._drain(bool(reply["drain"]))

    def _hear_state(self, reply: dict[str, Any]) -> None:
        """Say the node's state whenever it is another than before."""
        state, before = reply.get("state"), self._state_heard
        self._state_heard = state
        # A connection that is only being made is no news, and neither is what we are doing ourselves.
        passing = (state == "unreachable" != before) or (state == "draining" and self._intake.draining)
        if not state or passing:
            return
        sentences = " ".join(str(reply[key]) for key in ("reason", "fix") if reply.get(key))
        line = f"{state}: {sentences}" if sentences else str(state)
        if line != self._state_said:
            self._state_said = line
            print(line, flush=True)

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print(line, flush=True)


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling, jittered."""
    longest = min(RETRY_FIRST_S * 2.0 ** min(failures, 10), RETRY_MOST_S)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _interval(told: Any, otherwise: float) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float):
        return otherwise
    return min(max(float(told), INTERVAL_RANGE_S[0]), INTERVAL_RANGE_S[1])
