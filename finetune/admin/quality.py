"""How far a job is and how well it went, for its page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import mark_safe
from django.utils.timesince import timeuntil

from finetune.admin import curves
from finetune.admin.curves import AMBER, TEAL, VIOLET, Line
from finetune.models import Job, JobStatus
from finetune.sayings import numbers

# What is measured in the same unit as the loss on the training rows.
HELD_OUT_LOSS = "eval_loss"


def share(job: Job) -> float | None:
    """How much of a job is done, from 0 to 1; None where nothing is known."""
    if job.status == JobStatus.SUCCEEDED:
        return 1.0
    said = numbers(job.progress)
    if not said.get("steps", 0) > 0:
        return None
    return min(1.0, max(0.0, said.get("step", 0) / said["steps"]))


def bar(job: Job) -> str:
    """How far it is, as a bar and in words."""
    done = share(job)
    if done is None:
        return "-"
    return format_html(
        '<span style="display:flex;align-items:center;gap:.5rem;white-space:nowrap"><svg width="64" height="8" '
        'role="img" aria-label="{}"><rect width="64" height="8" rx="4" fill="currentColor" fill-opacity="0.15"/>'
        '<rect width="{}" height="8" rx="4" fill="{}"/></svg>{}</span>',
        f"{done:.0%}", f"{done * 64:.1f}", VIOLET, f"{done:.0%}",
    )  # fmt: skip


def steps(job: Job) -> str:
    said = numbers(job.progress)
    return f"{said.get('step', 0):g} of {said['steps']:g}" if said.get("steps", 0) > 0 else "-"


def left(job: Job) -> str:
    """How long it may still take, as the trainer has said last."""
    seconds = numbers(job.progress).get("left_s")
    if job.status != JobStatus.RUNNING or seconds is None or not 0 <= seconds < 10**8:
        return "-"
    return "less than a minute" if seconds < 60 else timeuntil(timezone.now() + timedelta(seconds=seconds))


def comparison(job: Job) -> str:
    """Before and after, metric by metric."""
    before, after = (numbers(job.metrics.get(end)) for end in ("before", "after"))
    main = job.metrics.get("main")
    if not before and not after:
        return "-"
    body = [
        [
            f"{name} (decides)" if name == main else name,
            _number(before, name),
            _number(after, name),
            _change(before, after, name),
        ]
        for name in sorted({*before, *after}, key=lambda name: (name != main, name))
    ]
    table = {"headers": ["metric", "before", "after", "change"], "rows": body}
    verdict = {True: "The result is better than its base.", False: "The result is not better than its base."}
    said = verdict.get(job.is_better, "") if job.is_better is not None else ""
    return mark_safe(  # noqa: S308 - a template has escaped it
        format_html('<p style="margin-bottom:.5rem">{}</p>', said)
        + render_to_string("unfold/components/table.html", {"table": table})
    )


def _number(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.4g}" if name in metrics else "-"


def _change(before: Mapping[str, float], after: Mapping[str, float], name: str) -> str:
    if name not in before or name not in after:
        return "-"
    change = after[name] - before[name]
    return f"{change:+.4g}" + (f" ({change / abs(before[name]):+.1%})" if before[name] else "")


def charts(job: Job) -> str:
    """The loss by step, and beside it what else was measured on held-out rows."""
    held_out = curves.held_out(job)
    main: Any = job.metrics.get("main")
    loss = [
        Line("training", VIOLET, curves.trained(job)),
        Line("held out", AMBER, held_out.get(HELD_OUT_LOSS, ()), dotted=True),
    ]
    decides = main if main in held_out else next(iter(held_out), None)
    drawn = curves.chart("Loss", loss)
    if decides is not None and decides != HELD_OUT_LOSS:
        drawn += curves.chart(
            f"On held-out rows: {decides}", [Line(decides, TEAL, held_out[decides], dotted=True)]
        )
    return mark_safe(drawn) or "-"  # noqa: S308 - made of safe parts
