"""What a job's events add up to: the table of its steps, and the log file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from finetune.models import Event, Job, JobStatus
from finetune.trainer import events as said

COLUMNS = ("step", "train_loss", "learning_rate", "epoch", "tokens", "tokens_per_s")


def steps(job: Job) -> list[dict[str, Any]]:
    """What was measured in the job's last run, by step: training loss and rate, and held-out metrics as `valid_…`.

    Steps that were repeated after an interruption appear once, as they came out last.
    """
    found: dict[int, dict[str, Any]] = {}
    rows = job.events.filter(attempt__run=job.run, kind__in=(said.PROGRESS, said.EVALUATED))
    for kind, data in rows.values_list("kind", "data"):
        if not isinstance(data.get("step"), int):
            continue
        row = found.setdefault(data["step"], {"step": data["step"]})
        if kind == said.EVALUATED:
            row |= valid(data.get("metrics"))
        else:
            row |= {"train_loss": data.get("loss")}
            row |= {name: data.get(name) for name in COLUMNS[2:]}
    return [found[step] for step in sorted(found)]


def valid(metrics: Any) -> dict[str, float]:
    """Held-out metrics under the names that tables have for them: `valid_loss` and so on."""
    if not isinstance(metrics, dict):
        return {}
    return {
        f"valid_{name.removeprefix('eval_')}": value
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


def table(job: Job) -> str:
    """The steps as CSV, a line each."""
    rows = steps(job)
    more = sorted({name for row in rows for name in row} - set(COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *more], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def log(job: Job) -> str:
    """All that has happened to a job, a line each, in the manner of the broker's progress.log."""
    lines = ["creating task...."]
    for event in job.events.order_by("id").iterator():
        lines.extend(_lines(event))
    if job.status == JobStatus.SUCCEEDED:
        lines.append(f"Training model for task {job.uid} completed successfully")
    elif job.has_ended:
        lines.append(f"Error executing task: {job.reason}")
    return "\n".join(lines) + "\n"


def _lines(event: Event) -> Iterator[str]:
    at = stamp(event.at)
    prefix = "" if event.level == "info" else f"[{event.level.upper()}] "
    for line in event.message.splitlines() or [""]:
        yield f"[{at}] {prefix}{line}"
    if event.kind == said.PROGRESS:
        shown = {name: value for name, value in event.data.items() if name not in ("step", "steps")}
        yield f"Step: {event.data.get('step')}, Logs: {shown}"


def stamp(at: datetime) -> str:
    """RFC 3339 in milliseconds: 2025-03-11T01:20:07.644Z."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
