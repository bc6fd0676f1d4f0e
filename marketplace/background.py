"""Work that goes on as long as its process: it must outlive what nobody foresaw."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

AGAIN_AFTER_S = 1.0


def keep_running(work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """A task that does `work`, and begins it again after an error, which is logged. Cancel it to end it."""
    return asyncio.create_task(_forever(work), name=getattr(work, "__qualname__", None))


async def _forever(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s failed; it begins again", getattr(work, "__qualname__", work))
        await asyncio.sleep(AGAIN_AFTER_S)


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
