"""Keeps the node connected to the marketplace: connects, serves the link, connects again when it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import aiohttp
from yarl import URL

from gpus.agent.intake import Intake
from gpus.agent.link import Link
from gpus.protocol import MAX_MESSAGE, ProtocolError

logger = logging.getLogger(__name__)

# The first try comes quickly, since a marketplace that restarts is back soon.
RETRY_FIRST_S, RETRY_MOST_S = 0.25, 15.0
HANDSHAKE_TIMEOUT_S = 15.0
# WebSocket close code: a newer connection of this node took over.
CLOSE_REPLACED = 4009
REFUSED = frozenset((401, 403, 404))


class Puller:
    """Pull delivery. `target` gives URL and node token for each try; `refused` hears of a token not taken."""

    def __init__(
        self,
        intake: Intake,
        *,
        target: Callable[[], tuple[URL, str]],
        on_drain: Callable[[], None],
        on_errands: Callable[[], None],
        connected: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        self._intake = intake
        self._target = target
        self._on_drain = on_drain
        self._on_errands = on_errands
        self._connected = connected
        self._refused = refused
        self._link: Link | None = None
        self._replaced = False

    async def run(self) -> None:
        """Stay connected until cancelled."""
        timeout = aiohttp.ClientTimeout(total=None, connect=HANDSHAKE_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            failures = 0
            while True:
                served = await self._connect(session)
                failures = 0 if served else failures + 1
                await asyncio.sleep(RETRY_MOST_S if self._replaced else _pause(failures))

    async def finish(self) -> None:
        """Return when nothing is under way on the connection."""
        if self._link is not None:
            await self._link.calm.wait()

    async def _connect(self, session: aiohttp.ClientSession) -> bool:
        """One connection from its beginning to its end. Whether there was one."""
        url, token = self._target()
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                socket = await session.ws_connect(
                    url,
                    headers={"Authorization": f"Bearer {token}"},
                    max_msg_size=MAX_MESSAGE,
                    autoping=True,
                    compress=0,
                )
        except aiohttp.WSServerHandshakeError as error:
            logger.warning("The marketplace refuses the connection with status %s.", error.status)
            if error.status in REFUSED:
                self._refused()
            return False
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("Cannot connect to %s: %s", url, error or type(error).__name__)
            return False
        await self._serve(socket)
        return True

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._replaced = False
        self._link = Link(socket, self._intake, self._heard)
        logger.info("Connected; requests may come.")
        self._connected()
        try:
            await self._link.run()
        except ProtocolError as error:
            logger.error("The marketplace does not keep to the protocol: %s", error)
        finally:
            self._link = None
        if socket.close_code == CLOSE_REPLACED or self._replaced:
            self._replaced = True
            logger.error("Another agent has connected as this node. Give each its own --state-dir.")
        else:
            logger.warning("The connection ended (%s); connecting again.", socket.close_code)

    def _heard(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "drain":
            self._on_drain()
        elif kind == "errands":
            self._on_errands()
        elif kind == "bye":
            self._replaced = True


def _pause(failures: int) -> float:
    """Seconds until the next try: at most half a second at first, doubling, never in step with others."""
    longest = min(RETRY_FIRST_S * 2.0 ** min(failures, 10), RETRY_MOST_S)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret
