"""`python -m gpus.agent`: join a marketplace, answer its requests, stop gracefully."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from gpus.agent.engines import Engine
from gpus.agent.engines.choose import engines as choose_engines
from gpus.agent.errands import Errands
from gpus.agent.hosting import Hosting
from gpus.agent.intake import Intake
from gpus.agent.marketplace import Marketplace, MarketplaceAway, MarketplaceRefused
from gpus.agent.node import CannotJoin, Node
from gpus.agent.options import Options, WrongOption, parse
from gpus.agent.pull import Puller
from gpus.agent.push import PushServer
from gpus.agent.state import StateError, StateFile
from gpus.agent.training import Trainings

LAST_BEAT_TIMEOUT_S = 5.0
STOPPED_AT_ONCE = 130


class Agent:
    """One run of the program."""

    def __init__(self, options: Options, engines: Sequence[Engine], states: StateFile) -> None:
        self._options = options
        self._engines = list(engines)
        self._intake = Intake(engines)
        self._marketplace = Marketplace(options.marketplace)
        self._trainings = Trainings(options, folder=states.folder, token=self._token, changed=self._beat_soon)
        self._hosting = Hosting(
            options, _host(self._engines), self._intake, session=self._marketplace.session
        )
        self._errands = Errands(self._marketplace, self._trainings, self._hosting, token=self._token)
        self._hosting.ask = self._errands.look
        self._node = Node(
            options=options,
            marketplace=self._marketplace,
            intake=self._intake,
            engines=engines,
            states=states,
            drain=self._asked_to_drain,
            talents=self._talents,
            errands=self._errands.heard,
        )
        self._stop = asyncio.Event()
        self._resumed = asyncio.Event()
        self._signalled = False
        self._puller: Puller | None = None
        self._push: PushServer | None = None
        self._main: asyncio.Task[int] | None = None

    def _token(self) -> str:
        return self._node.state.node_token

    def _beat_soon(self) -> None:
        self._node.beat_soon()

    def _talents(self) -> dict[str, Any]:
        """What this node does besides answering."""
        return {"training": self._trainings.talent(), "hosting": self._hosting.talent()}

    async def run(self) -> int:
        """Serve until told to stop. The exit status."""
        self._main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._signal)
        self._node.check()
        self._hosting.start()
        try:
            for engine in self._engines:
                await engine.start(self._node.beat_soon)
            await self._node.join()
            return await self._serve()
        except asyncio.CancelledError:
            print("stopped at once", flush=True)
            return STOPPED_AT_ONCE
        finally:
            await self._close()

    def _signal(self) -> None:
        """The first one drains; a second one, or one before there is anything to drain, stops at once."""
        if self._signalled or (self._puller is None and self._push is None):
            assert self._main is not None
            self._main.cancel()
        self._signalled = True
        self._resumed.set()
        self._stop.set()

    def _asked_to_drain(self, wanted: bool) -> None:
        if wanted and not self._intake.draining:
            self._resumed.clear()
            self._stop.set()
        elif not wanted and not self._signalled:
            self._resumed.set()

    async def _serve(self) -> int:
        delivery = await self._start_delivery()
        looking = [asyncio.create_task(each) for each in (self._node.keep_beating(), self._errands.run())]
        tasks = [*looking, *delivery]
        try:
            while True:
                await self._stop.wait()
                await self._drained()
                if self._signalled or not self._options.stay_when_drained:
                    return 0
                await self._stay()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_delivery(self) -> list[asyncio.Task[None]]:
        if self._options.push_url:
            self._push = PushServer(
                self._intake,
                host=self._options.push_host,
                port=self._options.push_port,
                secret=lambda: self._node.state.push_secret,
            )
            await self._push.start()
            return []
        self._puller = Puller(
            self._intake,
            target=self._node.target,
            on_drain=lambda: self._asked_to_drain(True),
            on_errands=self._errands.look,
            connected=self._node.beat_soon,
            refused=self._node.beat_soon,
        )
        return [asyncio.create_task(self._puller.run())]

    async def _drained(self) -> None:
        """Finish what runs, as far as the time allows."""
        self._intake.draining = True
        self._node.beat_soon()
        print(f"draining: {self._intake.active} requests to finish", flush=True)
        try:
            async with asyncio.timeout(self._options.drain_timeout_s):
                await asyncio.gather(self._intake.drained(), self._trainings.drained())
                if self._puller is not None:
                    await self._puller.finish()
            print("safe to stop", flush=True)
        except TimeoutError:
            print(f"{self._intake.active} requests did not finish in time; stopping them", flush=True)
        await self._last_beat()

    async def _last_beat(self) -> None:
        try:
            async with asyncio.timeout(LAST_BEAT_TIMEOUT_S):
                await self._node.beat()
        except (MarketplaceAway, MarketplaceRefused, CannotJoin, TimeoutError) as error:
            logging.getLogger(__name__).debug("The last heartbeat did not arrive: %s", error)

    async def _stay(self) -> None:
        """Wait until the operator lets the node work again, or its owner stops it."""
        await self._resumed.wait()
        self._stop.clear()
        if self._signalled:
            self._stop.set()
            return
        self._intake.draining = False
        self._trainings.resume()
        self._errands.look()
        print("resumed", flush=True)
        self._node.beat_soon()

    async def _close(self) -> None:
        await self._trainings.close()
        await self._hosting.close()
        if self._push is not None:
            await self._push.stop()
        for engine in self._engines:
            await engine.close()
        await self._marketplace.close()


def _host(engines: Sequence[Engine]) -> Engine | None:
    """The engine that models of the marketplace's go to."""
    return next(iter(engines), None)


async def leave(options: Options, states: StateFile) -> int:
    """Remove the node from the marketplace."""
    marketplace = Marketplace(options.marketplace)
    node = Node(
        options=options,
        marketplace=marketplace,
        intake=Intake([]),
        engines=[],
        states=states,
        drain=lambda _wanted: None,
    )
    try:
        await node.leave()
    finally:
        await marketplace.close()
    print("the node has left the marketplace", flush=True)
    return 0


async def _run(options: Options, states: StateFile) -> int:
    if options.leave:
        return await leave(options, states)
    return await Agent(options, choose_engines(options), states).run()


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = parse(arguments)
        _log(options.log_level)
        states = StateFile(options.state_dir)
        states.lock()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            status = runner.run(_run(options, states))
    except (WrongOption, StateError, CannotJoin, MarketplaceAway, MarketplaceRefused, OSError) as error:
        print(f"gpus.agent: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        status = STOPPED_AT_ONCE
    if status == STOPPED_AT_ONCE:
        sys.stdout.flush()
        os._exit(status)  # a model that is loading or computing in its thread would be waited for
    return status


def _log(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for talkative in ("sentence_transformers", "transformers", "httpx"):
        logging.getLogger(talkative).setLevel(max(logging.WARNING, logging.getLogger().level))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed: it carries more requests."""
    if find_spec("uvloop") is None:
        return None
    import uvloop  # noqa: PLC0415 - optional

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
