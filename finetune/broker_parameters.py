"""`trainingParams` of the broker's API: the names of the transformers library, in the trainer's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from finetune.trainer import parameters as trainer
from finetune.trainer.parameters import WrongParameters
from marketplace.errors import InvalidRequest

MOST_BYTES = 64 * 1024
NAMES = {
    "num_train_epochs": "n_epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "lr_scheduler_type": "schedule",
    "lora_r": "lora_rank",
    "r": "lora_rank",
}
WARMUP_STEPS, SEED = "warmup_steps", "seed"
MOST_WARMUP = 10_000_000


class WrongTrainingParams(InvalidRequest):
    code = "invalid_training_params"


@dataclass(frozen=True, slots=True)
class Read:
    """What was asked in the trainer's names; `said_as`: how each was called; `ignored`: what means nothing here."""

    asked: dict[str, Any]
    said_as: dict[str, str]
    ignored: list[str]
    seed: int | None = None


def read(text: str, *, method: str, rows: int, kind: str) -> Read:
    """Understand the JSON text for a training on so many rows. Raises WrongTrainingParams."""
    said = _object(text)
    asked, said_as, ignored = {}, {}, []
    for name, value in said.items():
        own = NAMES.get(name, name)
        if own in trainer.SCHEMAS[method] and own not in asked:
            asked[own], said_as[own] = value, name
        elif name not in (WARMUP_STEPS, SEED):
            ignored.append(name[:60])
    found = Read(asked, said_as, ignored, _whole(said, SEED, 2**31 - 1))
    warmup = _whole(said, WARMUP_STEPS, MOST_WARMUP)
    full = check(found, method=method, rows=rows, kind=kind)
    if warmup is not None and "warmup_ratio" not in asked:
        asked["warmup_ratio"] = round(min(1.0, warmup / _steps(full, rows)), 6)
    return found


def check(found: Read, *, method: str, rows: int, kind: str) -> dict[str, Any]:
    """All hyper-parameters. Raises WrongTrainingParams with the names that were said."""
    try:
        return trainer.resolve(method, found.asked, rows=rows, kind=kind)
    except WrongParameters as error:
        fields = {found.said_as.get(name, name): texts for name, texts in error.fields.items()}
        raise WrongTrainingParams(fields={"trainingParams": fields}) from None


def _object(text: str) -> dict[str, Any]:
    if len(text.encode()) > MOST_BYTES:
        raise WrongTrainingParams(
            f"trainingParams is longer than {MOST_BYTES} bytes.", param="trainingParams"
        )
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise WrongTrainingParams(
            f"trainingParams must be a text that holds a JSON object: {error}.", param="trainingParams"
        ) from None
    if not isinstance(said, dict):
        raise WrongTrainingParams(
            'trainingParams must be a text that holds a JSON object, such as {"num_train_epochs": 3}.',
            param="trainingParams",
        )
    return said


def _whole(said: Mapping[str, Any], name: str, most: int) -> int | None:
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise WrongTrainingParams(
            fields={"trainingParams": {name: [f"Expected a whole number from 0 to {most}."]}}
        )
    return value


def _steps(full: Mapping[str, Any], rows: int) -> int:
    if full["max_steps"] > 0:
        return int(full["max_steps"])
    per_epoch = math.ceil(
        rows * (1 - full["held_out"]) / (full["batch_size"] * full["gradient_accumulation"])
    )
    return max(1, math.ceil(per_epoch * full["n_epochs"]))
