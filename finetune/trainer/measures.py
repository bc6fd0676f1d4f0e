"""What an embedding model is worth, on rows held out.

pairs, triplets   each anchor searches among positives and negatives, of rows held out and some trained on: recall@1
                  (share of searches whose first hit is right), mrr (mean of 1 / rank of the first right one), ndcg@10;
                  mrr decides
scored pairs      spearman: the correlation of ranks between similarity and score; it decides
clicks            the results of each search, ordered anew by similarity: recall@1, mrr, ndcg@10, the last of which
                  decides; the mean similarity of a query and what was clicked on, or of one that nothing was clicked on
                  for, and by how much training has shifted it (the document's not_irrelevant_dist_shift and
                  irrelevant_dist_shift; above zero is better)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from scipy.stats import spearmanr

from finetune.trainer.pairings import of_search
from finetune.trainer.rows import Row

Vectors = Callable[[Sequence[str]], torch.Tensor]
# So many texts at least to search among, where the rows have them: among a few everybody finds the right one.
CORPUS = 500
_TOP = 10


class Yardstick(ABC):
    """`texts` are all that `measure` asks vectors of unit length for."""

    main: str
    texts: list[str]
    count: int

    @abstractmethod
    def measure(self, vectors: Vectors) -> dict[str, float]: ...

    def shifts(self, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        """How far training has moved things."""
        return {}


def yardstick(form: str, loss: str, held_out: Sequence[Row], train: Sequence[Row]) -> Yardstick:
    """What fits these rows."""
    if form == "clicks":
        return Clicks(held_out)
    if form == "pairs" and loss == "cosent":
        return Scores(held_out)
    return Search(held_out, train)


class Search(Yardstick):
    main = "mrr"

    def __init__(self, held_out: Sequence[Row], train: Sequence[Row]) -> None:
        right: dict[str, set[str]] = {}
        for row in (*held_out, *train):
            right.setdefault(row["anchor"], set()).add(row["positive"])
        self._queries = list(dict.fromkeys(row["anchor"] for row in held_out))
        corpus = dict.fromkeys(_texts(held_out))
        for text in _texts(train):
            if len(corpus) >= CORPUS:
                break
            corpus[text] = None
        place = {text: index for index, text in enumerate(corpus)}
        self._corpus, self.count = list(corpus), len(held_out)
        self._right = [[place[text] for text in right[query] if text in place] for query in self._queries]
        self.texts = [*self._queries, *self._corpus]

    def measure(self, vectors: Vectors) -> dict[str, float]:
        near = vectors(self._queries) @ vectors(self._corpus).T
        return _means([ordered(line, right) for line, right in zip(near, self._right, strict=True)])


class Scores(Yardstick):
    main = "spearman"

    def __init__(self, held_out: Sequence[Row]) -> None:
        rows = [row for row in held_out if row.get("score") is not None]
        self._one, self._other = [row["anchor"] for row in rows], [row["positive"] for row in rows]
        self._scores, self.count = [float(row["score"]) for row in rows], len(rows)
        self.texts = [*self._one, *self._other]

    def measure(self, vectors: Vectors) -> dict[str, float]:
        if len(set(self._scores)) < 2:
            return {"spearman": 0.0}
        near = (vectors(self._one) * vectors(self._other)).sum(-1).tolist()
        found = float(spearmanr(near, self._scores).statistic) if len(set(near)) > 1 else 0.0
        return {"spearman": found}


class Clicks(Yardstick):
    main = "ndcg@10"

    def __init__(self, held_out: Sequence[Row]) -> None:
        self._searches = [(str(row["query"]), *of_search(row)) for row in held_out]
        self.count = len(self._searches)
        self.texts = [text for query, one, other in self._searches for text in (query, *one, *other)]

    def measure(self, vectors: Vectors) -> dict[str, float]:
        found: list[dict[str, float]] = []
        clicked: list[float] = []
        rejected: list[float] = []
        for query, one, other in self._searches:
            if not one and not other:
                continue
            near = vectors([*one, *other]) @ vectors([query])[0]
            clicked += near[: len(one)].tolist()
            if one and other:
                found.append(ordered(near, range(len(one))))
            elif other:
                rejected += near.tolist()
        return _means(found) | _mean("similarity_clicked", clicked) | _mean("similarity_irrelevant", rejected)

    def shifts(self, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
        names = {
            "similarity_clicked": ("not_irrelevant_dist_shift", 1),
            "similarity_irrelevant": ("irrelevant_dist_shift", -1),
        }
        return {
            shift: sign * (after[name] - before[name])
            for name, (shift, sign) in names.items()
            if name in before and name in after
        }


def ordered(near: torch.Tensor, right: Sequence[int]) -> dict[str, float]:
    """One search: similarities to all there is, and which of them are right. Of equals the wrong one comes first."""
    is_right = torch.zeros(len(near), dtype=torch.bool)
    is_right[list(right)] = True
    scores = near.cpu()
    order = sorted(range(len(near)), key=lambda index: (-float(scores[index]), bool(is_right[index])))
    hits = [rank for rank, index in enumerate(order, start=1) if is_right[index]]
    gain = sum(1 / math.log2(rank + 1) for rank in hits if rank <= _TOP)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(hits), _TOP) + 1))
    return {
        "recall@1": float(hits[:1] == [1]),
        "mrr": 1 / hits[0] if hits else 0.0,
        "ndcg@10": gain / ideal if ideal else 0.0,
    }


def _texts(rows: Sequence[Row]) -> list[str]:
    return [row[name] for row in rows for name in ("positive", "negative") if name in row]


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    names = ("recall@1", "mrr", "ndcg@10")
    return {name: sum(each[name] for each in found) / max(1, len(found)) for name in names}


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: sum(values) / len(values)} if values else {}
