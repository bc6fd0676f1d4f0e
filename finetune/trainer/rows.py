"""A dataset's rows: read, and split into those to train on and those to measure on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from finetune.trainer.errors import BadData

Row = dict[str, Any]
# More would make measuring slower, not surer.
MOST_MEASURED = 1000


@dataclass(frozen=True, slots=True)
class Split:
    train: list[Row]
    held_out: list[Row]


def read(path: str) -> list[Row]:
    """All rows of a file of JSON lines. Raises BadData."""
    try:
        with Path(path).open("rb") as file:
            found = [orjson.loads(line) for line in file if line.strip()]
    except orjson.JSONDecodeError as error:
        raise BadData(f"The rows are no JSON lines: {error}") from error
    if not found:
        raise BadData("There are no rows.")
    if not all(isinstance(row, dict) for row in found):
        raise BadData("Each row must be a JSON object.")
    return found


def split(rows: str, validation: str, *, form: str, held_out: float, seed: int) -> Split:
    """Rows to train on, and rows to measure on: those given, or a share taken out by chance; at least one of each.

    Rows that ask the same are on the same side, so that nothing is measured by what was learned by heart. A single
    row is on both.
    """
    train = read(rows)
    if validation:
        return Split(train, _sample(read(validation), seed))
    groups: dict[bytes, list[int]] = {}
    for index, row in enumerate(train):
        groups.setdefault(_asked(row, form), []).append(index)
    order = [group for group in groups.values() if any(_can_measure(train[index], form) for index in group)]
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    wanted = min(MOST_MEASURED, max(1, round(len(train) * held_out)))
    chosen: set[int] = set()
    for group in order if len(groups) > 1 else []:
        if len(chosen) >= wanted:
            break
        if len(chosen) + len(group) < len(train):
            chosen.update(group)
    kept = [row for index, row in enumerate(train) if index not in chosen]
    return Split(kept, _sample([train[index] for index in sorted(chosen)] or train, seed))


def _sample(rows: list[Row], seed: int) -> list[Row]:
    if len(rows) <= MOST_MEASURED:
        return rows
    return random.Random(seed).sample(rows, MOST_MEASURED)  # noqa: S311 - no secret


def _asked(row: Row, form: str) -> bytes:
    """What makes rows equal for the split."""
    names: Sequence[str] = {"pairs": ("anchor",), "triplets": ("anchor",), "clicks": ("query",)}.get(
        form, tuple(row)
    )
    return orjson.dumps([row.get(name) for name in names])


def _can_measure(row: Row, form: str) -> bool:
    """A search without a click, or with nothing but clicks, does not tell a good order from a bad one."""
    if form != "clicks":
        return True
    clicked = {str(each) for each in row["clicked"]}
    return 0 < sum(str(each["id"]) in clicked for each in row["results"]) < len(row["results"])
