"""What happened to a job, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from finetune.models import Attempt, Event, Job
from finetune.trainer import events as said

MESSAGE, METRICS = "message", "metrics"


def note(
    job: Job,
    message: str,
    *,
    now: datetime,
    kind: str = MESSAGE,
    level: str = "info",
    attempt: Attempt | None = None,
    data: dict[str, Any] | None = None,
) -> Event:
    return Event.objects.create(
        job=job, attempt=attempt, at=now, kind=kind, level=level, message=message[:2000], data=data or {}
    )


def sentence(kind: str, event: Mapping[str, Any]) -> str:
    """What a trainer's event says, for people. An event that is not as it should be is shown as it is."""
    try:
        return str(_SENTENCES[kind](event)) if kind in _SENTENCES else str(event.get("text") or kind)
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{kind}: {dict(event)}"


def _numbers(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    said.STARTED: lambda e: (
        f"The trainer has started on {e['hardware'].get('name') or e['hardware']['device']}."
    ),
    said.DATA: lambda e: (
        f"{e['rows']} rows to train on, {e['held_out']} held out; {e['tokens']} tokens per epoch."
    ),
    said.EVALUATED: lambda e: f"On held-out rows, {e['when']} (step {e['step']}): {_numbers(e['metrics'])}.",
    said.PROGRESS: lambda e: f"Step {e['step']}/{e['steps']}: training loss={e['loss']:.4f}",
    said.CHECKPOINT: lambda e: f"A checkpoint was written at step {e['step']}.",
    said.TRIAL: lambda e: f"Trial {e['number']} of {e['trials']}: {e['score']:.4g} with {e['parameters']}.",
    said.FINISHED: lambda e: f"The training has finished after {e['seconds']:.0f} s.",
    said.FAILED: lambda e: str(e["text"]),
}
