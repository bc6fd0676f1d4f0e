"""What transformers' trainers do, told as events; and how they are stopped between two steps."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback

from finetune.trainer import events, stopping
from finetune.trainer.errors import NotFinite


class Telling(TrainerCallback):
    """A callback for any of transformers' trainers."""

    def __init__(self, tokens: int, part: tuple[int, int]) -> None:
        """`tokens` are those of one epoch. `part`: how many trainings of the same length came before, and of how many,
        all told as one."""
        self._tokens, (self._before, self._parts) = tokens, part
        self._began = time.monotonic()
        self._first_step = 0
        # Somebody wants it to rest, and all processes know.
        self.is_stopping = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        self._began, self._first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        self.is_stopping = _asked_any(args)
        if self.is_stopping:
            control.should_save = control.should_training_stop = True
        elif state.global_step >= state.max_steps:
            # What comes now is the result.
            control.should_save = False
        return control

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_kwargs: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss, step = float(logs["loss"]), state.global_step
        if not math.isfinite(loss):
            raise NotFinite(f"At step {step} the loss is no number any more; a lower learning rate may help.")
        took = max(time.monotonic() - self._began, 1e-6)
        done = step - self._first_step
        # The share of an epoch that a step is.
        per_step = self._tokens * float(state.epoch or 0) / max(1, step)
        total, steps = step + self._before * state.max_steps, state.max_steps * self._parts
        events.say(
            events.PROGRESS, step=total, steps=steps,
            epoch=round(float(state.epoch or 0), 4), loss=loss, learning_rate=float(logs.get("learning_rate", 0)),
            tokens=round(total * per_step), tokens_per_s=round(done * per_step / took, 1),
            left_s=round((steps - total) * took / max(1, done), 1),
        )  # fmt: skip

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_kwargs: Any
    ) -> None:
        step = state.global_step + self._before * state.max_steps
        events.say(events.EVALUATED, when="epoch", step=step, metrics=metrics or {})


def _asked_any(args: Any) -> bool:
    """Whether any process was asked to stop: they do it after the same step, or would wait for each other forever."""
    if args.world_size == 1:
        return stopping.is_asked()
    asked = torch.tensor([float(stopping.is_asked())], device=args.device)
    torch.distributed.all_reduce(asked)
    return bool(asked.item())
