"""A training from its base to its result, whatever is trained: measured, trained, the best weights kept."""

from __future__ import annotations

import gc
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from finetune.trainer import cards, devices, events, states, stopping
from finetune.trainer.errors import NotFinite, OutOfMemory, Stopped
from finetune.trainer.lessons import Best, Course, measured
from finetune.trainer.spec import Spec
from finetune.trainer.states import BadState, Shelf
from finetune.trainer.telling import Telling

# How often the batch is made smaller, in several batches per step instead, before a training fails for memory.
_SMALLER = 2


def shelf_of(spec: Spec) -> Shelf:
    spec.checkpoints.mkdir(parents=True, exist_ok=True)
    return Shelf(Path(spec.folder), spec.checkpoints)


def train(spec: Spec, shelf: Shelf, *, part: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """Train; what `finished` says. The model is in the result's folder.

    `part`: how many trainings of the same length came before, and of how many, all told as one. Raises TrainingError,
    Stopped.
    """
    began, smaller = time.monotonic(), 0
    while True:
        problem: str
        try:
            return _Attempt(spec, shelf, part, recompute=smaller > 0).run(began)
        except BadState as error:
            events.say(events.MESSAGE, level="warn", text=f"A checkpoint was thrown away: {error}")
            shelf.drop()
            continue
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            problem = devices.first_line(error)
        # Only outside of the block above nothing holds the tensors any more.
        gc.collect()
        devices.empty_cache()
        smaller += 1
        spec = _smaller(spec, problem, smaller)


def _smaller(spec: Spec, problem: str, times: int) -> Spec:
    """The same steps in smaller batches. Raises OutOfMemory."""
    size = int(spec.parameters["batch_size"])
    # With several processes the others could not know.
    if times > _SMALLER or size == 1 or devices.process_count() > 1:
        raise OutOfMemory(f"There is not enough memory, also for {size} rows at once: {problem}")
    less = max(each for each in range(1, size // 2 + 1) if size % each == 0)
    more = int(spec.parameters["gradient_accumulation"]) * size // less
    text = f"Out of memory with {size} rows at once; now {less}, and {more} batches per step."
    events.say(events.MESSAGE, level="warn", text=text)
    return replace(spec, parameters=spec.parameters | {"batch_size": less, "gradient_accumulation": more})


class _Attempt:
    """One go at a training."""

    def __init__(self, spec: Spec, shelf: Shelf, part: tuple[int, int], *, recompute: bool) -> None:
        self._spec, self._shelf, self._number = spec, shelf, part[0]
        self._course = course_of(spec, recompute=recompute)
        stopping.check()
        self._best = Best(Path(spec.folder) / "best", self._course)
        self._telling = Telling(self._course.tokens, part)
        self._trainer = self._course.trainer(arguments(spec, self._course.count))
        self._trainer.prepare(self._course, shelf, self._best, self._telling)

    def run(self, began: float) -> dict[str, Any]:
        trainer, resume = self._trainer, self._shelf.newest()
        try:
            self._begin(resume)
            stopping.check()
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except NotFinite as error:
            if resume is None:
                raise
            raise BadState(f"What came of it is no good: {error}") from error
        if self._telling.is_stopping:
            raise Stopped
        if trainer.last_measured != trainer.state.global_step:
            trainer.evaluate()
        return self._finish(began)

    def _begin(self, resume: Path | None) -> None:
        self._before = measured(self._course, 0)
        if self._number == 0:
            events.say(events.EVALUATED, when="before", step=0, metrics=self._before)
        if resume is not None:
            _check_state(resume / states.STATE, self._shelf.step())
            self._best.restore(resume)

    def _finish(self, began: float) -> dict[str, Any]:
        course, best, trainer, spec = self._course, self._best, self._trainer, self._spec
        best.put()
        before, after = self._before, course.compared(self._before, best.metrics)
        steps = int(trainer.state.global_step)
        total = best.step + self._number * steps
        events.say(events.EVALUATED, when="after", step=total, metrics=after)
        said = {
            "folder": spec.result.name, "main": course.main, "higher_is_better": course.higher_is_better,
            "before": before, "after": after, "is_better": course.is_better(after, before), "kind": course.kind,
            "step": best.step, "steps": steps, "tokens": round(course.tokens * float(trainer.state.epoch or 0)),
            "seconds": time.monotonic() - began,
        }  # fmt: skip
        if events.is_speaker():
            shutil.rmtree(spec.result, ignore_errors=True)
            course.save(spec.result)
            cards.write(spec, said, history=trainer.state.log_history)
        trainer.accelerator.wait_for_everyone()
        return said


def _check_state(path: Path, step: int) -> None:
    """transformers reads it by itself, and takes what it says. Raises BadState."""
    try:
        state = TrainerState(**states.read_json(path))
    except TypeError as error:
        raise BadState(f"{path.name} is not as it should be: {error}") from error
    if state.global_step != step or not all(isinstance(each, dict) for each in state.log_history):
        raise BadState(f"{path.name} is of another step than {step}.")


def course_of(spec: Spec, *, recompute: bool = False) -> Course:
    """Load the base and the rows. Raises TrainingError."""
    torch.manual_seed(spec.seed)
    # Each of them loads libraries that the other one does not need, and builds on this module.
    if spec.method == "causal":
        from finetune.trainer.causal import Causal  # noqa: PLC0415 - see above

        return Causal(spec, recompute=recompute)
    from finetune.trainer.embedding import Embedding  # noqa: PLC0415 - see above

    return Embedding(spec, recompute=recompute)


def arguments(spec: Spec, count: int) -> dict[str, Any]:
    """transformers' TrainingArguments for so many examples."""
    parameters, several = spec.parameters, devices.process_count()
    per_device = max(1, parameters["batch_size"] // several)
    per_epoch = math.ceil(count / (per_device * several * parameters["gradient_accumulation"]))
    steps, limit = math.ceil(per_epoch * parameters["n_epochs"]), parameters["max_steps"]
    if limit > 0:
        # For transformers a limit is what is to be reached, however few epochs were paid for.
        steps = limit = min(limit, steps)
    each = max(1, steps // 200)
    # Not at the very end: there the result is.
    save = math.ceil(steps / (parameters["checkpoints"] + 1))
    return {
        "output_dir": str(Path(spec.folder) / "trainer"),
        "num_train_epochs": parameters["n_epochs"],
        "max_steps": limit,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "gradient_accumulation_steps": parameters["gradient_accumulation"],
        "learning_rate": parameters["learning_rate"],
        "lr_scheduler_type": parameters["schedule"],
        "warmup_steps": round(steps * parameters["warmup_ratio"]),
        "weight_decay": parameters["weight_decay"],
        "logging_steps": each,
        # A loss that is no number any more ends the training.
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if parameters["evaluations"] else "no",
        "eval_steps": max(1, math.ceil(steps / max(1, parameters["evaluations"]))),
        "save_strategy": "steps",
        # After a restart the losses are told for the same steps.
        "save_steps": math.ceil(save / each) * each,
        "seed": spec.seed,
        "data_seed": spec.seed,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": devices.has_gpu(spec.device),
        "use_cpu": not devices.has_gpu(spec.device),
        "remove_unused_columns": False,
        **devices.precision(spec.device),
    }
