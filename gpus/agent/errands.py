"""What the marketplace wants done here besides answering: asked for when it says that there is something, and done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gpus.agent.hosting import Hosting
from gpus.agent.marketplace import Marketplace, MarketplaceAway, MarketplaceRefused
from gpus.agent.training import Trainings

logger = logging.getLogger(__name__)

# Asked for also without a word from the marketplace, so that nothing goes on in vain.
LOOK_EVERY_S, WHILE_TRAINING_S = 60.0, 10.0
AGAIN_AFTER_S = 2.0


class Errands:
    """Keeps asking while the agent runs, if there is anything that it could do."""

    def __init__(
        self, marketplace: Marketplace, trainings: Trainings, hosting: Hosting, *, token: Callable[[], str]
    ) -> None:
        self._marketplace, self._token = marketplace, token
        self._trainings, self._hosting = trainings, hosting
        self._number: int | None = None
        self._now = asyncio.Event()

    def heard(self, number: Any) -> None:
        """What a heartbeat's reply says: another number is a new errand."""
        self._trainings.renew()
        if isinstance(number, int) and number != self._number:
            self._number = number
            self.look()

    def look(self) -> None:
        """Ask at once."""
        self._now.set()

    async def run(self) -> None:
        """Until cancelled."""
        telling = asyncio.create_task(self._keep_telling())
        try:
            await self._keep_looking()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while self._hosting.can_host or self._trainings.can_train or self._trainings.active:
            self._now.clear()
            pause = WHILE_TRAINING_S if self._trainings.active else LOOK_EVERY_S
            try:
                self._heed(await self._marketplace.errands(node_token=self._token()))
            except MarketplaceAway as error:
                logger.warning("No errands: %s", error)
                pause = AGAIN_AFTER_S
            except MarketplaceRefused as error:
                logger.warning("No errands: %s", error)
            try:
                async with asyncio.timeout(pause):
                    await self._now.wait()
            except TimeoutError:
                continue

    def _heed(self, reply: dict[str, Any]) -> None:
        train = reply.get("train")
        if isinstance(train, list):
            self._trainings.heed([each for each in train if isinstance(each, dict)])
        host = reply.get("host")
        if isinstance(host, list):
            self._hosting.heed([each for each in host if isinstance(each, dict)])

    async def _keep_telling(self) -> None:
        """Let the marketplace know how far the node is with the models that it hosts."""
        while True:
            await self._hosting.news.wait()
            self._hosting.news.clear()
            try:
                said = {"host": self._hosting.states()}
                await self._marketplace.tell_errands(node_token=self._token(), said=said)
            except MarketplaceAway as error:
                logger.warning("Could not tell how hosting goes: %s", error)
                self._hosting.news.set()
                await asyncio.sleep(AGAIN_AFTER_S)
            except MarketplaceRefused as error:
                logger.warning("The marketplace does not take what was said of hosted models: %s", error)
