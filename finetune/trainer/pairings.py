"""Rows for embedding models as columns of texts, as their losses take them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from datasets import Dataset

from finetune.trainer.rows import Row

# Of the results of a search that nobody clicked on, so many are set against each that somebody did.
NEGATIVES = 4


@dataclass(slots=True)
class Columns:
    """Texts by column, the order of which matters to the losses; and a label per row where the loss takes one."""

    texts: dict[str, list[str]]
    labels: list[float] | None = None
    skipped: int = 0
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(next(iter(self.texts.values())))

    def dataset(self) -> Dataset:
        labels = {} if self.labels is None else {"label": self.labels}
        return Dataset.from_dict({**self.texts, **labels})

    def all_texts(self) -> list[str]:
        return [text for column in self.texts.values() for text in column]

    def batches(self, size: int) -> Iterator[tuple[list[list[str]], list[float] | None]]:
        for start in range(0, self.count, size):
            part = slice(start, start + size)
            yield [column[part] for column in self.texts.values()], self.labels[part] if self.labels else None


def columns(rows: Sequence[Row], form: str, loss: str, *, seed: int) -> Columns:
    """Raises KeyError or TypeError for rows that are not in their form."""
    if form == "pairs":
        return _pairs(rows, scored=loss == "cosent")
    if form == "triplets":
        return _named(
            ("anchor", "positive", "negative"), [(r["anchor"], r["positive"], r["negative"]) for r in rows]
        )
    return _clicks(rows, contrasts=loss == "margin_ranking", seed=seed)


def _named(names: Sequence[str], found: Sequence[Sequence[str]], skipped: int = 0) -> Columns:
    texts = {name: [str(each[index]) for each in found] for index, name in enumerate(names)}
    return Columns(texts, skipped=skipped)


def _pairs(rows: Sequence[Row], *, scored: bool) -> Columns:
    if not scored:
        return _named(("anchor", "positive"), [(row["anchor"], row["positive"]) for row in rows])
    kept = [row for row in rows if row.get("score") is not None]
    found = _named(
        ("anchor", "positive"), [(row["anchor"], row["positive"]) for row in kept], len(rows) - len(kept)
    )
    found.labels = [float(row["score"]) for row in kept]
    return found


def _clicks(rows: Sequence[Row], *, contrasts: bool, seed: int) -> Columns:
    """Each clicked result against some that were not clicked on.

    With `contrasts` also against the results of searches without any click, by turns, as the document has it. Those
    have a query of their own, so that all rows get a fourth column then.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    found, ignored = [], []
    skipped = 0
    for row in rows:
        clicked, rejected = of_search(row)
        if not clicked:
            ignored += [(row["query"], text) for text in rejected]
            skipped += not (contrasts and rejected)
            continue
        if not rejected:
            skipped += 1
        for text in clicked:
            some = chance.sample(rejected, min(NEGATIVES, len(rejected)))
            found += [(row["query"], text, row["query"], each) for each in some]
    if not (contrasts and ignored):
        return _named(
            ("query", "clicked", "rejected"), [(query, text, each) for query, text, _, each in found], skipped
        )
    liked = list(dict.fromkeys((query, text) for query, text, *_ in found))
    found += [(*pair, *ignored[index % len(ignored)]) for index, pair in enumerate(liked)]
    return _named(("query", "clicked", "contrast", "rejected"), found, skipped)


def of_search(row: Row) -> tuple[list[str], list[str]]:
    """The texts of the results that were clicked on, and of those that were not."""
    clicked = {str(each) for each in row["clicked"]}
    both: tuple[list[str], list[str]] = ([], [])
    for result in row["results"]:
        both[str(result["id"]) not in clicked].append(str(result["text"]))
    return both
