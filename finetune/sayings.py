"""What trainers say, made safe to keep: known words, plain values, bounded in size. Nodes may say anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from finetune.trainer import events

MOST_BYTES = 16 * 1024
KINDS = frozenset(
    (
        *(events.STARTED, events.DATA, events.EVALUATED, events.PROGRESS, events.CHECKPOINT, events.TRIAL),
        *(events.MESSAGE, events.FINISHED, events.FAILED),
    )
)
LEVELS = ("info", "warn", "error")
# A progress is shown, and calculated with.
PROGRESS = ("step", "steps", "epoch", "loss", "learning_rate", "tokens", "tokens_per_s", "left_s")
_DEEP, _LONG, _MANY, _MOST = 4, 2000, 100, 1e18


def cleaned(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event that can be kept and shown. One that is too large keeps only its name."""
    kind = event.get("event")
    kind = kind if kind in KINDS else events.MESSAGE
    found = _plain({name: value for name, value in event.items() if name != "event"}, _DEEP)
    if found.get("level") not in LEVELS:
        found.pop("level", None)
    if kind == events.PROGRESS:
        found = {name: found[name] for name in PROGRESS if _is_number(found.get(name))}
    if len(orjson.dumps(found)) > MOST_BYTES:
        found = {"text": "(What was said is too long to be kept.)"}
    return {"event": kind, **found}


def numbers(said: Any, *, most: int = 50) -> dict[str, float]:
    """The numbers of an object by name; whatever else it holds is left out."""
    if not isinstance(said, Mapping):
        return {}
    found = {_text(str(name))[:100]: value for name, value in said.items() if _is_number(value)}
    return dict(list(found.items())[:most])


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _MOST and math.isfinite(value)


def _plain(value: Any, deep: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool) or _is_number(value):
        return value
    if deep and isinstance(value, Mapping):
        return {_text(str(name))[:100]: _plain(each, deep - 1) for name, each in list(value.items())[:_MANY]}
    if deep and isinstance(value, list | tuple):
        return [_plain(each, deep - 1) for each in value[:_MANY]]
    return None


def _text(value: str) -> str:
    # PostgreSQL keeps no such character, whether in a text or in JSON.
    return value[:_LONG].replace("\0", "")
