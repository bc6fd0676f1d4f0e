"""The threads of one process that work on fulfilments, so that slow ones do not hold others up.

They outlive the task that has begun them, and die with the process; what they held is taken on by others when its lease
runs out. While they work, a thread of its own prolongs the leases of this process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from functools import partial
from uuid import UUID

from django.db import close_old_connections, connections
from django.utils import timezone

from chain.fulfilment import rows

logger = logging.getLogger(__name__)

SIZE = 16
KEEP_EVERY_S = 8.0

Work = Callable[[], object]


class Crew:
    """At most `size` pieces of work at the same time, each known by a key: the token of a fulfilment that is held."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._busy: set[Hashable] = set()
        self._keeper: threading.Thread | None = None
        self.closing = threading.Event()

    @property
    def free(self) -> int:
        """How much more can be begun."""
        with self._lock:
            return 0 if self.closing.is_set() else self._size - len(self._busy)

    def begin(self, key: Hashable, work: Work) -> bool:
        """Do something in a thread of its own; False where that, or too much else, is being done."""
        with self._lock:
            if self.closing.is_set() or key in self._busy or len(self._busy) >= self._size:
                return False
            self._busy.add(key)
            if self._keeper is None or not self._keeper.is_alive():
                self._keeper = threading.Thread(target=self._keep, name="fulfilments-keep", daemon=True)
                self._keeper.start()
        threading.Thread(target=partial(self._do, key, work), name=f"fulfilments-{key}", daemon=True).start()
        return True

    def _do(self, key: Hashable, work: Work) -> None:
        try:
            close_old_connections()
            work()
        except Exception:
            logger.exception("Unforeseen error at %s", key)
        finally:
            connections.close_all()
            with self._lock:
                self._busy.discard(key)

    def _keep(self) -> None:
        """Until nothing is being done any more."""
        try:
            while True:
                if self.closing.wait(KEEP_EVERY_S):
                    return
                with self._lock:
                    tokens = [key for key in self._busy if isinstance(key, UUID)]
                    if not self._busy:
                        self._keeper = None
                        return
                self._prolong(tokens)
        finally:
            connections.close_all()

    @staticmethod
    def _prolong(tokens: list[UUID]) -> None:
        try:
            close_old_connections()
            rows.keep(tokens, now=timezone.now())
        except Exception:
            # The next time may be in time still.
            logger.exception("Leases could not be prolonged")
