"""Messages between the processes of one marketplace, over Valkey's publish/subscribe.

A message may be lost (a restart of Valkey, a process that is not there); nothing may depend on its arrival but speed.
What is true stands in rows.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from django.conf import settings

from marketplace import background

logger = logging.getLogger(__name__)

PREFIX = "marketplace:"
# So much may wait for a Valkey that is away or slow; then the oldest is dropped, as it would be if it were sent.
MAX_WAITING = 64 * 1024 * 1024

Handler = Callable[[bytes], None]

_pool: redis.Redis | None = None


def announce(topic: str, payload: str) -> None:
    """Tell every process that listens to `topic`. For synchronous code; never raises."""
    global _pool
    if _pool is None:
        _pool = redis.Redis.from_url(settings.CACHE_URL, socket_connect_timeout=1, socket_timeout=1)
    try:
        _pool.publish(PREFIX + topic, payload)
    except redis.RedisError as error:
        logger.warning("Could not announce %s %s: %s", topic, payload, error)


class Bus:
    """One process's end: subscriptions, and sends that leave together once per turn of the event loop."""

    def __init__(self) -> None:
        self._redis = redis.asyncio.Redis.from_url(settings.CACHE_URL, socket_connect_timeout=2)
        self._handlers: dict[str, list[Handler]] = {}
        self._on_lost: list[Callable[[], None]] = []
        self._on_undelivered: list[Callable[[str], None]] = []
        self._waiting: dict[str, list[bytes]] = {}
        self._size = 0
        self._was_lost = False
        self._something = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Call `handler` with each message. Before `start` only."""
        self._handlers.setdefault(PREFIX + topic, []).append(handler)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever messages may have been lost."""
        self._on_lost.append(callback)

    def on_undelivered(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with each topic that nobody listened to when something was published."""
        self._on_undelivered.append(callback)

    def start(self) -> None:
        self._tasks = [background.keep_running(self._listen), background.keep_running(self._send)]

    async def stop(self) -> None:
        await background.end(*self._tasks)
        await self._redis.aclose()

    def publish(self, topic: str, message: bytes) -> None:
        """Send soon. Messages to one topic keep their order; those of one turn arrive joined together."""
        self._size += len(message)
        if self._size > MAX_WAITING:
            self._lose("too much is waiting to be sent")
            return
        self._waiting.setdefault(PREFIX + topic, []).append(message)
        self._something.set()

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            batch, self._waiting, self._size = self._waiting, {}, 0
            try:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for topic, messages in batch.items():
                        pipeline.publish(topic, b"".join(messages))
                    heard = await pipeline.execute()
                self._check(dict(zip(batch, heard, strict=True)))
            except (redis.RedisError, OSError) as error:
                self._lose(str(error))
                await asyncio.sleep(0.2)

    def _check(self, heard: dict[str, int]) -> None:
        for topic, listeners in heard.items():
            if not listeners:
                for callback in self._on_undelivered:
                    callback(topic.removeprefix(PREFIX))

    async def _listen(self) -> None:
        pause = 0.1
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(*self._handlers)
                    async for message in pubsub.listen():
                        self._handle(message)
                        pause = 0.1
            except (redis.RedisError, OSError) as error:
                self._lose(str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "message":
            for handler in self._handlers[message["channel"].decode()]:
                handler(message["data"])
        elif message["type"] == "subscribe" and message["data"] == len(self._handlers) and self._was_lost:
            # What was sent to us before this moment is gone, and nobody has seen an error.
            self._was_lost = False
            self._tell_lost()

    def _lose(self, why: str) -> None:
        logger.warning("Messages between processes may have been lost: %s", why)
        self._waiting, self._size, self._was_lost = {}, 0, True
        self._tell_lost()

    def _tell_lost(self) -> None:
        for callback in self._on_lost:
            callback()
