"""Hyper-parameters: what each method takes, what is sensible, and what "auto" comes to.

`SCHEMAS` is the published form; `resolve` fills in what was not said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AUTO = "auto"
LOSSES = ("mnr", "cosent", "triplet", "margin_ranking")
SCHEDULES = ("linear", "cosine", "constant")


class WrongParameters(Exception):
    """`fields`: what is wrong, by name."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self.fields = dict(fields)
        super().__init__("; ".join(f"{name}: {' '.join(texts)}" for name, texts in fields.items()))


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of them. `default` None: what `resolve` works out ("auto" may always be said)."""

    kind: type
    text: str
    default: Any = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""
        names = {int: "integer", float: "number", str: "string", bool: "boolean"}
        own: dict[str, Any] = {"type": names[self.kind]}
        limits = {"minimum": self.least, "maximum": self.most}
        own |= {name: limit for name, limit in limits.items() if limit is not None}
        if self.choices:
            own["enum"] = list(self.choices)
        found: dict[str, Any] = {"oneOf": [own, {"const": AUTO}], "description": self.text}
        return found | {"default": AUTO if self.default is None else self.default}

    def read(self, value: Any) -> Any:
        """The value in its type. Raises ValueError with a sentence."""
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError("Expected true or false.")
            return value
        if self.kind is str:
            if value not in self.choices:
                raise ValueError(f"Expected one of {', '.join(self.choices)}.")
            return value
        return self._number(value)

    def _number(self, value: Any) -> int | float:
        if isinstance(value, str):
            try:
                value = float(value) if self.kind is float or "." in value else int(value)
            except ValueError:
                raise ValueError(self._expected()) from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(self._expected())
        if self.kind is int and value != int(value):
            raise ValueError(self._expected())
        if (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
            raise ValueError(self._expected())
        return self.kind(value)

    def _expected(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        return f'Expected {noun} from {self.least:g} to {self.most:g}, or "auto".'


_COMMON: dict[str, Parameter] = {
    "n_epochs": Parameter(float, "How often all rows are read.", None, 0.01, 50),
    "batch_size": Parameter(int, "Rows per step.", None, 1, 1024),
    "learning_rate": Parameter(float, "Peak of the schedule.", None, 1e-8, 1.0),
    "learning_rate_multiplier": Parameter(
        float, "Of the learning rate that would be chosen otherwise, as OpenAI has it.", 1.0, 0.001, 100
    ),
    "max_steps": Parameter(int, "Stop after so many steps; -1: all epochs.", -1, -1, 10_000_000),
    "gradient_accumulation": Parameter(int, "Batches per step.", 1, 1, 256),
    "schedule": Parameter(str, "How the learning rate falls.", "linear", choices=SCHEDULES),
    "warmup_ratio": Parameter(float, "Share of the steps in which it rises.", 0.1, 0, 1),
    "weight_decay": Parameter(float, "AdamW's.", 0.0, 0, 1),
    "max_length": Parameter(
        int, "Tokens per text; longer ones are cut. By default what the model takes.", None, 8, 1_048_576
    ),
    "held_out": Parameter(
        float,
        "Share of the rows to measure on (at most 1,000), where no validation data is given.",
        0.1,
        0.01,
        0.5,
    ),
    "evaluations": Parameter(int, "Measurements on held-out rows during training.", None, 0, 100),
    "checkpoints": Parameter(int, "States to go on from, spread over the training.", None, 1, 100),
    "lora_rank": Parameter(int, "Rank of the adapter.", None, 1, 512),
    "lora_alpha": Parameter(float, "Its scale; by default twice the rank.", None, 1, 2048),
    "lora_dropout": Parameter(float, "Share of its inputs left out at random.", 0.0, 0, 0.9),
    "search_trials": Parameter(
        int, "Try so many sets of hyper-parameters (TPE) and keep the best; 0 and 1 do not search.", 0, 0, 20
    ),
}

SCHEMAS: dict[str, dict[str, Parameter]] = {
    "causal": {
        **_COMMON,
        "neftune_noise_alpha": Parameter(float, "Noise in the embeddings (NEFTune).", 0.0, 0, 100),
    },
    "embedding": {
        **_COMMON,
        "loss": Parameter(
            str, "What is learned: mnr and cosent for pairs, mnr or triplet for triplets, margin_ranking for clicks.",
            None, choices=LOSSES,
        ),
        "adapter": Parameter(bool, "Train a LoRA adapter, which is merged at the end, instead of all weights.", False),
        "margin": Parameter(float, "Of margin_ranking and triplet.", None, 0, 10),
        "scale": Parameter(float, "Of mnr and cosent.", 20.0, 1, 1000),
    },
}  # fmt: skip

# Which losses fit which rows; the first is what "auto" chooses.
LOSSES_OF: dict[str, tuple[str, ...]] = {
    "pairs": ("mnr",),
    "scored_pairs": ("cosent",),
    "triplets": ("mnr", "triplet", "margin_ranking"),
    "clicks": ("margin_ranking", "mnr", "triplet"),
}
FORMATS_OF: dict[str, tuple[str, ...]] = {
    "causal": ("chat", "completion", "instruction", "text"),
    "embedding": ("pairs", "triplets", "clicks"),
}


def json_schema(method: str) -> dict[str, Any]:
    """The published schema of a method's hyper-parameters (JSON Schema)."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: each.schema() for name, each in SCHEMAS[method].items()},
    }


def resolve(method: str, asked: Mapping[str, Any], *, rows: int, kind: str) -> dict[str, Any]:
    """All parameters for a training on so many rows.

    `kind` is the dataset's format, "scored_pairs" for pairs with scores. Raises WrongParameters.
    """
    schema, wrong = SCHEMAS[method], {}
    found: dict[str, Any] = {}
    for name, value in asked.items():
        if name not in schema:
            wrong[name] = [f"There is no such hyper-parameter; there are: {', '.join(schema)}."]
        elif value is not None and value != AUTO:
            try:
                found[name] = schema[name].read(value)
            except ValueError as error:
                wrong[name] = [str(error)]
    if method == "embedding" and "loss" in found and found["loss"] not in LOSSES_OF[kind]:
        wrong["loss"] = [f"{found['loss']} does not fit these rows; {' or '.join(LOSSES_OF[kind])} would."]
    if wrong:
        raise WrongParameters(wrong)
    defaults = {name: each.default for name, each in schema.items() if each.default is not None}
    full = {**_worked_out(method, found, rows, kind), **defaults, **found}
    if "learning_rate" not in found:
        full["learning_rate"] *= full["learning_rate_multiplier"]
    return full


def _worked_out(method: str, found: Mapping[str, Any], rows: int, kind: str) -> dict[str, Any]:
    """What "auto" comes to: small datasets are read more often and in smaller batches."""
    lora = method == "causal" or found.get("adapter", False)
    rank = found.get("lora_rank", 16)
    auto: dict[str, Any] = {
        "n_epochs": 3.0 if rows < 2000 else 2.0 if rows < 20_000 else 1.0,
        "batch_size": max(2, min(16 if method == "causal" else 32, rows // 8 or 1)),
        "learning_rate": (1e-3 if method == "causal" else 2e-4) if lora else 2e-5,
        "evaluations": 4,
        "checkpoints": 4,
        "lora_rank": rank,
        "lora_alpha": 2.0 * rank,
        "max_length": 0,
    }
    if method == "embedding":
        loss = found.get("loss", LOSSES_OF[kind][0])
        auto |= {"loss": loss, "margin": 0.025 if loss == "margin_ranking" else 0.5}
    return auto
