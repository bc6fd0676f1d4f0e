"""States that a training goes on from: folders of plain tensors (safetensors) and JSON.

A checkpoint may come from a stranger's machine, so nothing in it is ever unpickled, and nothing is loaded but tensors
that the model and the optimizer at hand have a place for. Files that are not named here are not looked at, and what is
said of the model's worth is measured again.

    checkpoint-STEP/weights.safetensors    the weights that are trained
                    optimizer.safetensors  the optimizer's tensors; its settings and the schedule's are in the header
                    rng-RANK.safetensors   the random generators of each process
                    trainer_state.json     step, epoch, history, as transformers has it
                    best/                  the best weights so far, and their step
                    whole.json             the size of each file, written last

A folder gets its name only when it is whole: one that was being written when the machine died is not there.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from finetune.trainer import events

WEIGHTS, OPTIMIZER, STATE, WHOLE = (
    "weights.safetensors",
    "optimizer.safetensors",
    "trainer_state.json",
    "whole.json",
)
# One that is being sent away may not vanish when the next one is written.
KEPT = 2
_ABOUT = "about"
# What a schedule counts; the rest of it comes from the parameters of the training.
_COUNTS = ("last_epoch", "_step_count")


class BadState(Exception):
    """A checkpoint is not what it should be; the training goes on from an older one, or from the start."""


# --- Folders ----------------------------------------------------------------------------------------------


class Shelf:
    """Where the checkpoints of a training are."""

    def __init__(self, work: Path, folder: Path, *, inner: str = "", offset: int = 0) -> None:
        """In `work`, in its folder `folder`. `inner` and `offset` are of a training that is a part of another one:
        its state is in that part of each checkpoint, and that many steps came before."""
        self._work, self._folder, self._inner, self._offset = work, folder, inner, offset
        self._around: Callable[[Path], None] = lambda _folder: None
        self._fits: Callable[[Path], bool] = lambda _folder: True

    def part(
        self, inner: str, *, offset: int, around: Callable[[Path], None], fits: Callable[[Path], bool]
    ) -> Shelf:
        """The same shelf for a part of the training. `around` writes what else belongs into a checkpoint; `fits` says
        whether a checkpoint is of this part."""
        found = Shelf(self._work, self._folder, inner=inner, offset=offset)
        found._around, found._fits = around, fits
        return found

    def write(self, step: int, fill: Callable[[Path], None], *, metrics: Mapping[str, float]) -> None:
        """Write a checkpoint and say so. `fill` gets the folder to write into."""
        total = step + self._offset
        making, done = self._folder / f"new-{total}", self._folder / f"checkpoint-{total}"
        shutil.rmtree(making, ignore_errors=True)
        (making / self._inner).mkdir(parents=True)
        fill(making / self._inner)
        self._around(making)
        _seal(making)
        shutil.rmtree(done, ignore_errors=True)
        making.rename(done)
        for old in list(self._whole())[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        name = done.relative_to(self._work).as_posix()
        events.say(events.CHECKPOINT, step=total, folder=name, metrics=dict(metrics))

    def newest(self) -> Path | None:
        """The newest one that is whole and holds this part of the training."""
        folder = next(self._whole(), None)
        if folder is None or not (folder / self._inner / STATE).exists() or not self._fits(folder):
            return None
        return folder / self._inner

    def newest_whole(self) -> Path | None:
        """The newest one, whichever part of a training it holds."""
        return next(self._whole(), None)

    def step(self) -> int:
        """How far the newest one is; 0 without one."""
        folder = next(self._whole(), None)
        return _step_of(folder) - self._offset if folder else 0

    def drop(self) -> None:
        """Throw the newest one away: it is no good."""
        for folder in list(self._whole())[:1]:
            shutil.rmtree(folder, ignore_errors=True)

    def _whole(self) -> Iterator[Path]:
        """All whole ones, the newest first."""
        found = (
            path
            for path in self._folder.glob("checkpoint-*")
            if re.fullmatch(r"checkpoint-\d{1,15}", path.name)
        )
        return (path for path in sorted(found, key=_step_of, reverse=True) if _is_whole(path))


def _step_of(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def _seal(folder: Path) -> None:
    """Note the size of each file, and have all of it on the disk."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_json(folder / WHOLE, sizes)


def _is_whole(folder: Path) -> bool:
    try:
        sizes = read_json(folder / WHOLE)
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (BadState, OSError, AttributeError, TypeError, ValueError):
        return False


def link(folder: Path, into: Path) -> None:
    """The same files in another folder, without copying them where the disk can do that."""
    into.mkdir(parents=True, exist_ok=True)
    for path in folder.rglob("*"):
        target = into / path.relative_to(folder)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def write_json(path: Path, value: Any) -> None:
    """What is no number becomes null."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2))
    new.replace(path)


def read_json(path: Path) -> Any:
    """Raises BadState. (Python's own parser can be made to crash by brackets in brackets.)"""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadState(f"{path.name} cannot be read: {error}") from error


# --- Tensors ----------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: Any = None) -> None:
    """Tensors by name, and something that is JSON beside them."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    new = path.with_name(f"{path.name}.new")
    save_file(plain, new, metadata={"format": "pt", _ABOUT: orjson.dumps(about).decode()})
    new.replace(path)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Raises BadState."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return tensors, orjson.loads((file.metadata() or {}).get(_ABOUT, "null"))
    except (OSError, ValueError, SafetensorError) as error:
        raise BadState(f"{path.name} cannot be read: {error}") from error


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What is trained of a model, by name."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def put_weights(model: torch.nn.Module, path: Path) -> None:
    """Set what is trained of a model. Raises BadState where the names, shapes or types are not its own."""
    found, _ = read_tensors(path)
    own = weights(model)
    if found.keys() != own.keys() or any(found[name].shape != tensor.shape for name, tensor in own.items()):
        raise BadState(f"{path.name} holds the weights of another model.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])


def write_optimizer(path: Path, optimizer: Any, schedule: Any, scaler: Any = None) -> None:
    """What an optimizer and its schedule remember."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, memory in state["state"].items():
        for name, value in memory.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    now = schedule.state_dict()
    about = {
        "rates": [group["lr"] for group in state["param_groups"]],
        "numbers": numbers,
        "schedule": {name: now[name] for name in _COUNTS},
    }
    if scaler is not None:
        about["scaler"] = scaler.state_dict()
    write_tensors(path, tensors, about)


def put_optimizer(path: Path, optimizer: Any, schedule: Any, scaler: Any = None) -> None:
    """Raises BadState. What the parameters of the training decide stays as it is."""
    tensors, about = read_tensors(path)
    try:
        own = optimizer.state_dict()
        rates = [float(rate) for rate in about["rates"]]
        for group, rate in zip(own["param_groups"], rates, strict=True):
            group["lr"] = rate
        optimizer.load_state_dict(own | {"state": _memories(tensors, about["numbers"], optimizer)})
        counts = {name: int(about["schedule"][name]) for name in _COUNTS}
        schedule.load_state_dict(schedule.state_dict() | counts | {"_last_lr": rates})
        if scaler is not None:
            scaler.load_state_dict(about["scaler"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadState(f"{path.name} is of another training: {error}") from error


def _memories(
    tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, float], optimizer: Any
) -> dict[int, dict[str, Any]]:
    """What an optimizer remembers of each weight. Raises ValueError where it is of another shape."""
    shapes = [weight.shape for group in optimizer.param_groups for weight in group["params"]]
    found: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *numbers.items()):
        index, _, name = key.partition(".")
        if isinstance(value, torch.Tensor) and value.dim() and value.shape != shapes[int(index)]:
            raise ValueError(f"{key} has the shape {tuple(value.shape)}")
        found.setdefault(int(index), {})[name] = value
    return found


def write_rng(path: Path) -> None:
    """The state of all random generators of this process."""
    name, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    about = {
        "python": random.getstate(),
        "numpy": [name, [int(key) for key in keys], position, has_gauss, gauss],
    }
    write_tensors(path, tensors, about)


def put_rng(path: Path) -> None:
    """Raises BadState."""
    tensors, about = read_tensors(path)
    try:
        version, inner, gauss = about["python"]
        random.setstate((version, tuple(inner), gauss))
        name, keys, *rest = about["numpy"]
        numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
        torch.set_rng_state(tensors["torch"])
        if "cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["cuda"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadState(f"{path.name} holds no random state: {error}") from error
