"""For what fails in the same way at every look: logged once, and again when it fails otherwise, or after a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable

AGAIN_S = 600.0
_MOST = 10_000
_lock = threading.Lock()
# What was said last about something, and when (monotonic seconds).
_said: dict[Hashable, tuple[str, float]] = {}


def is_news(about: Hashable, said: object) -> bool:
    """Whether this is to be logged now: this process has not said it of `about` within the last ten minutes."""
    text, now = f"{type(said).__name__}: {said}", time.monotonic()
    with _lock:
        before = _said.get(about)
        if before is not None and before[0] == text and now - before[1] < AGAIN_S:
            return False
        if len(_said) >= _MOST:
            _said.clear()
        _said[about] = (text, now)
    return True
