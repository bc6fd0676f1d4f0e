"""What a trainer says, one JSON object per line. Each has `event`, one of the names below, and `at` (ISO 8601).

started     hardware {device, name, count, memory_mib, cpu}, versions {package: version}, seed, resumed_step
data        rows, held_out, tokens (one epoch, training rows), longest (tokens), cut (rows longer than max_length)
evaluated   when ("before", "epoch", "after"), step, metrics {name: number}
progress    step, steps, epoch, loss, learning_rate, tokens (so far), tokens_per_s, left_s
checkpoint  step, folder (in the work folder), metrics
trial       number, trials, parameters, score: one of a search is over
message     level ("info", "warn", "error"), text
finished    folder (in the work folder), main (the name of the metric that decides), before, after {name: number},
            is_better, kind ("full" or "adapter"), tokens, seconds
failed      code, text, retry (whether the same may succeed elsewhere or later)
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import orjson

STARTED, DATA, EVALUATED, PROGRESS, CHECKPOINT = "started", "data", "evaluated", "progress", "checkpoint"
TRIAL, MESSAGE, FINISHED, FAILED = "trial", "message", "finished", "failed"
STOPPED_STATUS = 75
MAX_LINE = 256 * 1024


def say(event: str, **data: Any) -> None:
    """Tell whoever has started us."""
    line = orjson.dumps(
        {"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **data},
        option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
    )
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def heard(line: bytes) -> dict[str, Any] | None:
    """The event in a line of a trainer's output; None where it is none."""
    if len(line) > MAX_LINE:
        return None
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("event"), str) else None
