"""What may be a model: safetensors and what belongs to them, looked at without running anything of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gpus import model_files
from gpus.model_files import ALLOWED, FORBIDDEN, MOST_FILES
from inference.models import Family, RevisionKind
from marketplace.errors import InvalidRequest

__all__ = [
    "ALLOWED",
    "FORBIDDEN",
    "MOST_FILES",
    "BadWeights",
    "check",
    "check_folder",
    "check_json",
    "check_name",
    "check_paths",
    "check_safetensors",
    "kind_of",
]


class BadWeights(InvalidRequest):
    """These files are no model that can be served. The message names the file."""

    code = "bad_model_files"


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except model_files.BadFile as error:
        raise BadWeights(str(error)) from None


def check_name(name: str) -> str:
    """A path within a model's folder. Raises BadWeights for one that leads outside, or names what may not be there."""
    with _told():
        return model_files.check_name(name)


def check(name: str, file: IO[bytes], size: int) -> None:
    """Look into one file of a model, whatever it is. Raises BadWeights."""
    with _told():
        model_files.check(name, file, size)


def check_safetensors(name: str, file: IO[bytes], size: int) -> dict[str, str]:
    """Check a safetensors file's header against its size; what its `__metadata__` says. Raises BadWeights."""
    with _told():
        return model_files.check_safetensors(name, file, size)


def check_json(name: str, file: IO[bytes]) -> Any:
    """What it says. Raises BadWeights where it is no JSON, or names code that loading the model would run."""
    with _told():
        return model_files.check_json(name, file)


def kind_of(names: Iterable[str]) -> tuple[RevisionKind, Family]:
    """What these files are together. Raises BadWeights where something that is needed is missing."""
    with _told():
        kind, family = model_files.kind_of(names)
    return RevisionKind(kind), Family(family)


def check_folder(folder: Path) -> tuple[RevisionKind, Family]:
    """What the files of a folder on this machine are together. Raises BadWeights."""
    return check_paths(
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    )


def check_paths(paths: Mapping[str, Path]) -> tuple[RevisionKind, Family]:
    """What files on this machine are together, by their names in the model. Raises BadWeights."""
    with _told():
        kind, family = model_files.check_paths(paths)
    return RevisionKind(kind), Family(family)
