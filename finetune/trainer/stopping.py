"""SIGTERM asks a training to write a checkpoint and to stop. It is heeded between two steps."""

from __future__ import annotations

import signal
from types import FrameType

from finetune.trainer.errors import Stopped

_asked = False


def listen() -> None:
    """From now on SIGTERM asks, instead of ending the process."""
    signal.signal(signal.SIGTERM, _ask)


def _ask(_number: int, _frame: FrameType | None) -> None:
    global _asked
    _asked = True


def is_asked() -> bool:
    return _asked


def check() -> None:
    """Raises Stopped."""
    if _asked:
        raise Stopped
