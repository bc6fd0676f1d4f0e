"""What a trainer says, one JSON object per line. Each has `event`, one of the names below, and `at` (ISO 8601).

started     hardware {device, name, count, memory_mib, cpu}, versions {package: version}, seed, resumed_step
data        rows, held_out, tokens (one epoch, training rows), longest (tokens), cut (texts longer than max_length),
            skipped (rows in which nothing is to be learned)
evaluated   when ("before", "epoch", "after"), step, metrics {name: number}; "after" repeats what was measured when the
            weights were the best, with their step
progress    step, steps, epoch, loss, learning_rate, tokens (so far), tokens_per_s, left_s
checkpoint  step, folder (in the work folder), metrics
trial       number (from 1), trials, parameters (those tried), score: one of a search is over. Steps count on from
            trial to trial, `steps` is of all of them
message     level ("info", "warn", "error"), text
finished    folder (in the work folder), main (the name of the metric that decides), higher_is_better, before, after
            {name: number}, is_better (after beats before by `main`), kind ("full" or "adapter"), step (of the weights
            that were kept), steps, tokens, seconds
failed      code, text, retry (whether the same may succeed elsewhere or later). Codes: bad_spec, bad_data, bad_model,
            loss_not_finite, out_of_memory, training_failed
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson

STARTED, DATA, EVALUATED, PROGRESS, CHECKPOINT = "started", "data", "evaluated", "progress", "checkpoint"
TRIAL, MESSAGE, FINISHED, FAILED = "trial", "message", "finished", "failed"
STOPPED_STATUS = 75
MAX_LINE = 256 * 1024

_channel: BinaryIO | None = None


def claim_stdout() -> None:
    """Keep standard output for events: what libraries print goes to standard error from now on."""
    global _channel
    sys.stdout.flush()
    _channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)


def is_speaker() -> bool:
    """With several GPUs there is a process for each, and the first one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def say(event: str, **data: Any) -> None:
    """Tell whoever has started us."""
    if not is_speaker():
        return
    line = orjson.dumps(
        {"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **data},
        option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE,
    )
    channel = _channel or sys.stdout.buffer
    channel.write(line)
    channel.flush()


def heard(line: bytes) -> dict[str, Any] | None:
    """The event in a line of a trainer's output; None where it is none."""
    if len(line) > MAX_LINE:
        return None
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("event"), str) else None
