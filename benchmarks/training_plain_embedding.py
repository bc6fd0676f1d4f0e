"""All weights of an embedding model, measured as a search: plain sentence-transformers."""

import math
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.training_args import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback, set_seed

from benchmarks.training_plain import arguments, read, run, steps_of


class Measuring(TrainerCallback):
    """Measures every so many steps. (The trainer's own way draws random numbers, so that dropout would differ.)"""

    def __init__(self, measure: Callable[[], Any], every: int) -> None:
        self._measure, self._every = measure, every

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        if state.global_step % self._every == 0:
            self._measure()


def make(spec: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    set_seed(spec["seed"])
    model = SentenceTransformer(spec["base"], device="cpu")
    train, held_out = read(spec["rows"]), read(spec["validation"])
    corpus = list(dict.fromkeys(row["positive"] for row in (*held_out, *train)))[:500]
    evaluator = InformationRetrievalEvaluator(
        queries={str(index): row["anchor"] for index, row in enumerate(held_out)},
        corpus={str(index): text for index, text in enumerate(corpus)},
        relevant_docs={
            str(index): {str(corpus.index(row["positive"]))} for index, row in enumerate(held_out)
        },
        batch_size=64,
    )
    made = SentenceTransformerTrainingArguments(
        **arguments(spec, len(train)), batch_sampler=BatchSamplers.NO_DUPLICATES
    )

    def measure() -> Any:
        return evaluator(model)

    every = math.ceil(steps_of(spec, len(train)) / spec["parameters"]["evaluations"])
    trainer = SentenceTransformerTrainer(
        model=model,
        args=made,
        train_dataset=Dataset.from_list(train),
        loss=MultipleNegativesRankingLoss(model, scale=spec["parameters"]["scale"]),
        callbacks=[Measuring(measure, every)],
    )
    return trainer, measure


if __name__ == "__main__":
    run(make)
