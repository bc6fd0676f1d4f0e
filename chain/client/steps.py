"""How the client is written once and runs twice, blocking and async.

Whatever it does is a generator of *steps*: it yields what has to be done outside (an HTTP request, a pause, something
that blocks) and gets the outcome back. `blocking.perform` and `aio.perform` carry the steps out; nothing else differs.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chain.client.errors import OutOfTime

T = TypeVar("T")


@dataclass(frozen=True)
class Http:
    """One request, answered by a `Reply`; where there is none within `timeout` seconds, the steps see `Unreachable`."""

    method: str
    url: str
    timeout: float
    # Neither is shown in errors: a URL may hold an API key, a body what a person asks.
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Blocking:
    """A call that may take a while without the network of its own steps: reading a keystore, a manifest."""

    call: Callable[[], Any]


class Unreachable(Exception):
    """No reply: refused, broken off, too slow, too long. Its text names no URL."""


Step = Http | Pause | Blocking
Steps = Generator[Step, Any, T]


class Deadline:
    """The time that a whole call may take; `None` means as long as its parts."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def within(self, seconds: float, stage: str) -> float:
        """`seconds`, or what is left.

        Raises `OutOfTime` where nothing is.
        """
        if self._end is None:
            return seconds
        left = self._end - time.monotonic()
        if left <= 0:
            raise OutOfTime(stage)
        return min(seconds, left)

    def around(self, seconds: float) -> float:
        """The same for what has begun and cannot be given up: a second at least."""
        return min(seconds, max(1.0, self.left()))

    def left(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()
