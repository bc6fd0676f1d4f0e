"""What transformers' trainers do, told as events; and how they are stopped with a checkpoint."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from finetune.trainer import events
from finetune.trainer.spec import Spec

_BEFORE = "before.json"


class Stopped(Exception):
    """Somebody wants it to rest; the state to go on from has been written."""


class Telling(TrainerCallback):
    """A callback for any of transformers' trainers. `tokens` are those of one epoch."""

    def __init__(self, spec: Spec, tokens: int) -> None:
        self._spec, self._tokens = spec, tokens
        self._began = time.monotonic()
        self._first_step = 0
        self._stop = False
        signal.signal(signal.SIGTERM, self._asked_to_stop)

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def raise_if_stopped(self) -> None:
        if self._stop:
            raise Stopped

    # What was measured before the first step goes along with the checkpoints.

    def measured_before(self, resume: Path | None) -> dict[str, float] | None:
        file = resume / _BEFORE if resume else None
        if file is None or not file.exists():
            return None
        found: dict[str, float] = json.loads(file.read_text())
        return found

    def note_before(self, metrics: dict[str, float]) -> None:
        self._before = metrics
        events.say(events.EVALUATED, when="before", step=0, metrics=metrics)

    # transformers' calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        self._began, self._first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        if self._stop:
            control.should_save = control.should_training_stop = True
        return control

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_kwargs: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        done = state.global_step - self._first_step
        took = max(time.monotonic() - self._began, 1e-6)
        per_step = self._tokens * float(state.num_train_epochs or 1) / max(1, state.max_steps)
        events.say(
            events.PROGRESS, step=state.global_step, steps=state.max_steps, epoch=round(float(state.epoch or 0), 4),
            loss=float(logs["loss"]), learning_rate=float(logs.get("learning_rate", 0)),
            tokens=int(state.global_step * per_step), tokens_per_s=round(done * per_step / took, 1),
            left_s=round((state.max_steps - state.global_step) * took / max(1, done), 1),
        )  # fmt: skip

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_kwargs: Any
    ) -> None:
        if 0 < state.global_step < state.max_steps and metrics:
            told = {name: float(value) for name, value in metrics.items() if name == "eval_loss"}
            events.say(events.EVALUATED, when="epoch", step=state.global_step, metrics=told)

    def on_save(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / _BEFORE).write_text(json.dumps(self._before))
        last = next((each["loss"] for each in reversed(state.log_history) if "loss" in each), None)
        metrics = {} if last is None else {"train_loss": last}
        name = folder.relative_to(self._spec.folder).as_posix()
        events.say(events.CHECKPOINT, step=state.global_step, folder=name, metrics=metrics)
