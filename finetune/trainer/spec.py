"""What a trainer is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import orjson

CHECKPOINTS, RESULT = "checkpoints", "result"


class WrongSpec(Exception):
    """The specification cannot be read."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One training. Paths are of folders and files on this machine.

    `base` is a folder as transformers or sentence-transformers save it; `adapter` a LoRA adapter over it to go on
    from. `rows` and `validation` are JSON lines in the form of `format` (`finetune.formats`). Checkpoints, the result
    and whatever is needed in between go into `folder`.
    """

    method: str
    base: str
    rows: str
    format: str
    parameters: dict[str, Any]
    seed: int
    folder: str
    adapter: str = ""
    validation: str = ""
    device: str = ""
    title: str = ""
    labels: dict[str, str] = field(default_factory=dict)  # for the model card
    most_tokens: int = 0  # that the rows may come to; 0: any number

    @property
    def checkpoints(self) -> Path:
        return Path(self.folder) / CHECKPOINTS

    @property
    def result(self) -> Path:
        return Path(self.folder) / RESULT

    def write(self, path: Path) -> None:
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))


def read(path: Path) -> Spec:
    """Raises WrongSpec."""
    try:
        said = orjson.loads(path.read_bytes())
        known = {each.name for each in fields(Spec)}
        return Spec(**{name: value for name, value in said.items() if name in known})
    except (OSError, orjson.JSONDecodeError, TypeError, AttributeError) as error:
        raise WrongSpec(f"{path} is no specification of a training: {error}") from error
