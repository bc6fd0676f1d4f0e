"""A training's curves, drawn here as SVG: nothing is loaded from anywhere, and the page's own colours are used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.db.models import F, IntegerField, Window
from django.db.models.functions import Mod, RowNumber
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from finetune.models import Job
from finetune.trainer import events

# So many points are drawn of a line, however many there are.
MOST_POINTS = 400
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640.0, 220.0, 56.0, 28.0, 14.0
# They stand out on white and on black.
VIOLET, AMBER, TEAL = "#8b5cf6", "#d97706", "#0d9488"

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """Points by step. `dotted`: each is shown, because there are few."""

    name: str
    colour: str
    points: Sequence[Point]
    dotted: bool = False


def trained(job: Job) -> list[Point]:
    """The loss on the training rows by step, in the present run; every n-th of them where there are many."""
    found = job.events.filter(kind=events.PROGRESS, attempt__run=job.run).order_by()
    every = math.ceil(found.count() / MOST_POINTS) or 1
    numbered = found.annotate(number=Window(RowNumber(), order_by=F("id").desc())).order_by("id")
    if every > 1:
        numbered = numbered.annotate(left=Mod(F("number"), every, output_field=IntegerField())).filter(left=1)
    return _points(numbered.values_list("data__step", "data__loss"))


def held_out(job: Job) -> dict[str, list[Point]]:
    """What was measured on held-out rows by step, in the present run, by the metric's name."""
    found: dict[str, list[Point]] = {}
    rows = job.events.filter(kind=events.EVALUATED, attempt__run=job.run).order_by("-id")
    measured = [
        data for data in rows.values_list("data", flat=True)[:MOST_POINTS] if data.get("when") != "after"
    ]
    for data in reversed(measured):
        metrics = data.get("metrics")
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            found.setdefault(name, []).extend(_points([(data.get("step"), value)]))
    return {name: sorted(dict(points).items()) for name, points in found.items() if points}


def _points(pairs: object) -> list[Point]:
    """By step; where a step was done again after a loss, the last counts. What nodes say may be anything."""
    steps: dict[float, float] = {}
    for step, value in pairs:  # type: ignore[attr-defined]
        if _is_number(step) and _is_number(value):
            steps[float(step)] = float(value)
    return sorted(steps.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def chart(title: str, lines: Sequence[Line]) -> str:
    """A chart with these lines, for the page; empty where there is nothing to draw."""
    shown = [line for line in lines if line.points]
    if not shown:
        return ""
    every = [point for line in shown for point in line.points]
    scale = _Scale.of(every)
    drawn = [*scale.axes(), *(part for line in shown for part in _drawn(line, scale))]
    return format_html(
        '<figure style="margin:0 0 1rem" aria-label="{}"><figcaption style="display:flex;flex-wrap:wrap;'
        'gap:.25rem 1rem;margin-bottom:.25rem"><strong>{}</strong>{}</figcaption>'
        '<div style="overflow-x:auto;max-width:calc(100vw - 4.5rem)">'
        '<svg viewBox="0 0 {} {}" role="img" width="100%" style="min-width:26rem;max-width:{}px;font-size:11px" '
        'fill="none" stroke-linejoin="round">'
        "<title>{}</title>{}</svg></div></figure>",
        title, title, _legend(shown), int(_WIDTH), int(_HEIGHT), int(_WIDTH), title, _joined(drawn),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Scale:
    """From steps and values to the drawing's coordinates."""

    first: float
    last: float
    least: float
    most: float
    unit: float

    @classmethod
    def of(cls, points: Sequence[Point]) -> _Scale:
        steps, values = [step for step, _ in points], [value for _, value in points]
        unit = _round_unit((max(values) - min(values)) or abs(max(values)) or 1.0)
        least, most = math.floor(min(values) / unit) * unit, math.ceil(max(values) / unit) * unit
        return cls(min(0.0, *steps), max(1.0, *steps), least, most if most > least else least + unit, unit)

    def x(self, step: float) -> float:
        return _LEFT + (step - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - 8)

    def y(self, value: float) -> float:
        height = _HEIGHT - _BOTTOM - _TOP
        return _TOP + (self.most - value) / (self.most - self.least) * height

    def axes(self) -> Iterator[SafeString]:
        for number in range(round((self.most - self.least) / self.unit) + 1):
            value = self.least + number * self.unit
            y = self.y(value)
            yield _svg(
                f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
                f'stroke-opacity="0.15"/>' + _text(_LEFT - 6, y + 4, f"{value:.6g}", "end")
            )
        for step in sorted({self.first, (self.first + self.last) // 2}):
            yield _svg(_text(self.x(step), _HEIGHT - 8, f"{step:g}", "middle"))
        yield _svg(_text(_WIDTH - 8, _HEIGHT - 8, f"step {self.last:g}", "end"))


def _round_unit(span: float) -> float:
    """A round distance of lines, of which about four fit."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next((times * power for times in (1, 2, 5) if span / (times * power) <= 5), 10 * power)


def _drawn(line: Line, scale: _Scale) -> Iterator[SafeString]:
    where = [(scale.x(step), scale.y(value)) for step, value in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
    yield _svg(f'<polyline points="{path}" stroke="{line.colour}" stroke-width="2"/>')
    if line.dotted or len(where) == 1:
        for x, y in where:
            yield _svg(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{line.colour}"/>')


def _legend(lines: Sequence[Line]) -> SafeString:
    return _joined(
        format_html(
            '<span><span style="color:{}">●</span> {} (last: {})</span>', line.colour, line.name,
            f"{line.points[-1][1]:.4g}",
        )
        for line in lines
    )  # fmt: skip


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" fill-opacity="0.7">'
        f"{escape(text)}</text>"
    )


def _svg(markup: str) -> SafeString:
    # Numbers and our own words only; texts are escaped before.
    return mark_safe(markup)  # noqa: S308


def _joined(parts: Sequence[SafeString] | Iterator[SafeString]) -> SafeString:
    return mark_safe("".join(parts))  # noqa: S308 - each of them is safe
