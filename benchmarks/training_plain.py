"""What the two plain scripts have in common: `training_plain_causal.py`, `training_plain_embedding.py`.

The same trainings as somebody writes them who has no marketplace, with evaluations and checkpoints as often as a job
makes them. They are started with what a job's trainer gets, and print one line of JSON: seconds of the training proper,
its steps and its last loss.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def steps_of(spec: dict[str, Any], rows: int) -> int:
    asked = spec["parameters"]
    return math.ceil(math.ceil(rows / asked["batch_size"]) * asked["n_epochs"])


def arguments(spec: dict[str, Any], rows: int) -> dict[str, Any]:
    """TrainingArguments' that both have."""
    asked, steps = spec["parameters"], steps_of(spec, rows)
    return {
        "output_dir": spec["folder"],
        "num_train_epochs": asked["n_epochs"],
        "per_device_train_batch_size": asked["batch_size"],
        "learning_rate": asked["learning_rate"],
        "warmup_steps": round(steps * asked["warmup_ratio"]),
        "save_steps": math.ceil(steps / (asked["checkpoints"] + 1)),
        "save_total_limit": 2,
        "logging_steps": max(1, steps // 200),
        "seed": spec["seed"],
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }


def run(make: Callable[[dict[str, Any]], tuple[Any, Callable[[], Any]]]) -> None:
    """Measure, train, measure, save. `make` gets the specification; it returns a trainer, and what measures."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    trainer, measure = make(spec)
    measure()
    began = time.perf_counter()
    trainer.train()
    took = time.perf_counter() - began
    trainer.model.save_pretrained(spec["folder"] + "/result")
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    print(json.dumps({"seconds": took, "steps": trainer.state.global_step, "loss": losses[-1]}))
