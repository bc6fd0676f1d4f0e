"""What is trained and measured (a course), and how transformers' trainer goes through it (a lesson)."""

from __future__ import annotations

import math
import shutil
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback

from finetune.trainer import events, states
from finetune.trainer.errors import NotFinite
from finetune.trainer.states import BadState, Shelf
from finetune.trainer.telling import Telling

Metrics = dict[str, float]
_STEP = "step.json"


class Course(ABC):
    """What is trained, on what, and how it is measured. Made anew for each attempt."""

    main: str
    higher_is_better: bool
    kind: str
    # What is trained; `model` is what is saved.
    learner: torch.nn.Module
    tokens: int  # of all training rows, once
    count: int  # examples to train on

    @abstractmethod
    def trainer(self, arguments: dict[str, Any]) -> Lesson:
        """transformers' trainer for it. `arguments` are those of its TrainingArguments."""

    @abstractmethod
    def measure(self) -> Metrics:
        """What it is worth on the rows held out. Draws no random number."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model into the result's folder."""

    def compared(self, before: Metrics, after: Metrics) -> Metrics:
        """What else can be said after the training."""
        return after

    def is_better(self, one: Metrics, other: Metrics) -> bool:
        if self.higher_is_better:
            return one[self.main] > other[self.main]
        return one[self.main] < other[self.main]


class Best:
    """The best weights so far, in a folder that goes along with the checkpoints."""

    def __init__(self, folder: Path, course: Course) -> None:
        self._folder, self._course = folder, course
        self.step, self.metrics = -1, Metrics()

    def restore(self, checkpoint: Path | None) -> None:
        """Go on from what a checkpoint holds; the model has those weights afterwards. Raises BadState, NotFinite."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if checkpoint is None or not (checkpoint / "best").exists():
            return
        states.link(checkpoint / "best", self._folder)
        said = states.read_json(self._folder / _STEP)
        if not isinstance(said, int):
            raise BadState(f"{_STEP} is no number.")
        self.put()
        self.step, self.metrics = said, measured(self._course, said)

    def consider(self, step: int, metrics: Metrics) -> None:
        if self.step >= 0 and not self._course.is_better(metrics, self.metrics):
            return
        self.step, self.metrics = step, metrics
        if events.is_speaker():
            self._folder.mkdir(parents=True, exist_ok=True)
            states.write_tensors(self._folder / states.WEIGHTS, states.weights(self._course.learner))
            states.write_json(self._folder / _STEP, step)

    def link(self, into: Path) -> None:
        if self._folder.exists():
            states.link(self._folder, into / "best")

    def put(self) -> None:
        states.put_weights(self._course.learner, self._folder / states.WEIGHTS)


class Lesson(Trainer):
    """transformers' trainer, which measures as its course says and keeps its states on a shelf."""

    def prepare(self, course: Course, shelf: Shelf, best: Best, telling: Telling) -> None:
        self.course, self.shelf, self.best = course, shelf, best
        self.last_measured = 0
        self.add_callback(telling)
        # It prints on standard output.
        self.remove_callback(PrinterCallback)

    def evaluate(self, *_args: Any, **_kwargs: Any) -> Metrics:
        """Measure, and remember the weights if they are the best so far. Raises NotFinite."""
        step = int(self.state.global_step)
        metrics = measured(self.course, step)
        self.last_measured = step
        self.best.consider(step, metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        several = self.args.world_size > 1
        if several:
            self._save_for_all()
        elif self.args.should_save:
            self.shelf.write(int(self.state.global_step), self._fill, metrics=self._last_loss())

    def _save_for_all(self) -> None:
        """Each process has random generators of its own; the first one collects them."""
        beside = _folder(self.args) / "rng"
        beside.mkdir(parents=True, exist_ok=True)
        states.write_rng(beside / f"rng-{self.args.process_index}.safetensors")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.shelf.write(int(self.state.global_step), self._fill, metrics=self._last_loss())
        self.accelerator.wait_for_everyone()

    def _fill(self, folder: Path) -> None:
        states.write_tensors(folder / states.WEIGHTS, states.weights(self.course.learner))
        states.write_optimizer(
            folder / states.OPTIMIZER, self.optimizer, self.lr_scheduler, self.accelerator.scaler
        )
        if self.args.world_size > 1:
            states.link(_folder(self.args) / "rng", folder)
        else:
            states.write_rng(folder / "rng-0.safetensors")
        self.best.link(folder)
        states.write_json(folder / states.STATE, asdict(self.state))

    def _last_loss(self) -> Metrics:
        losses = [float(each["loss"]) for each in self.state.log_history if "loss" in each]
        return {"train_loss": losses[-1]} if losses else {}

    # What transformers would load otherwise, partly by unpickling.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        states.put_weights(self.course.learner, Path(resume_from_checkpoint) / states.WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            states.put_optimizer(
                Path(checkpoint) / states.OPTIMIZER,
                self.optimizer,
                self.lr_scheduler,
                self.accelerator.scaler,
            )

    def _load_scaler(self, checkpoint: str | None) -> None:
        """It is beside the optimizer's state."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        path = Path(checkpoint) / f"rng-{self.args.process_index}.safetensors" if checkpoint else None
        if path is not None and path.exists():  # fewer processes may have written it
            states.put_rng(path)


def _folder(args: Any) -> Path:
    return Path(args.output_dir)


def measured(course: Course, step: int) -> Metrics:
    """Raises NotFinite."""
    metrics = course.measure()
    if not all(math.isfinite(value) for value in metrics.values()):
        raise NotFinite(f"At step {step} the loss on held-out rows is no number.")
    return metrics
