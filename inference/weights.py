"""What may be a model: safetensors and what belongs to them, looked at without running anything of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from inference.models import Family, RevisionKind
from marketplace.errors import InvalidRequest

# Reading a pickle can run code; so may Python files that a model brings with it.
FORBIDDEN = (
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".joblib",
    ".py",
    ".so",
    ".dll",
    ".exe",
)
ALLOWED = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md")
MOST_FILES = 500
_MAX_HEADER = 100 * 1024 * 1024
_MAX_JSON = 64 * 1024 * 1024
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1,
    "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


class BadWeights(InvalidRequest):
    """These files are no model that can be served. The message names the file."""

    code = "bad_model_files"


def check_name(name: str) -> str:
    """A path within a model's folder. Raises BadWeights for one that leads outside, or names what may not be there."""
    parts = name.split("/")
    if not name or len(name) > 255 or name.startswith("/") or "\\" in name or not name.isprintable():
        raise BadWeights(f"{name[:100]!r} is no path of a file in a model.")
    if any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        raise BadWeights(f"{name!r} is no path of a file in a model.")
    ending = Path(name).suffix.lower()
    if ending in FORBIDDEN:
        raise BadWeights(
            f"{name}: {ending} files can run code when they are loaded. Save the weights as safetensors instead."
        )
    if ending not in ALLOWED:
        raise BadWeights(f"{name}: a model consists of {', '.join(ALLOWED)} files.")
    return name


def check_safetensors(name: str, file: IO[bytes], size: int) -> dict[str, str]:
    """Check a safetensors file's header against its size; what its `__metadata__` says. Raises BadWeights."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
        raise BadWeights(f"{name} is no safetensors file: its header does not fit into it.")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise BadWeights(f"{name} is no safetensors file: its header is not JSON.") from None
    if not isinstance(header, dict):
        raise BadWeights(f"{name} is no safetensors file: its header is not an object.")
    metadata = header.pop("__metadata__", {})
    end = max((_end_of(name, tensor, about) for tensor, about in header.items()), default=0)
    if end != size - 8 - length:
        raise BadWeights(
            f"{name} is not complete: its tensors need {end} bytes, {size - 8 - length} are there."
        )
    return metadata if isinstance(metadata, dict) else {}


def _end_of(name: str, tensor: str, about: Any) -> int:
    try:
        start, end = about["data_offsets"]
        needed = math.prod(about["shape"]) * _BYTES[about["dtype"]]
        good = 0 <= start <= end and end - start == needed
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise BadWeights(f"{name}: the tensor {tensor[:100]} is not described as it should be.")
    return int(end)


def check_json(name: str, file: IO[bytes]) -> Any:
    """Raises BadWeights where it is no JSON."""
    try:
        return json.loads(file.read(_MAX_JSON))
    except (ValueError, RecursionError):
        raise BadWeights(f"{name} is not valid JSON.") from None


def kind_of(names: Iterable[str]) -> tuple[RevisionKind, Family]:
    """What these files are together. Raises BadWeights where something that is needed is missing."""
    there = set(names)
    if len(there) > MOST_FILES:
        raise BadWeights(f"A model has at most {MOST_FILES} files.")
    if not any(name.endswith(".safetensors") for name in there):
        raise BadWeights("The weights are missing: there is no .safetensors file.")
    if "adapter_config.json" in there:
        if "adapter_model.safetensors" not in there:
            raise BadWeights("adapter_model.safetensors is missing beside adapter_config.json.")
        return RevisionKind.ADAPTER, Family.CAUSAL
    if "config.json" not in there and "modules.json" not in there:
        raise BadWeights("config.json is missing.")
    if not there & {"tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json"}:
        raise BadWeights("The tokenizer is missing: tokenizer.json, or vocab.txt and the like.")
    return RevisionKind.FULL, Family.EMBEDDING if "modules.json" in there else Family.CAUSAL


def check_folder(folder: Path) -> tuple[RevisionKind, Family]:
    """What the files of a folder on this machine are together. Raises BadWeights."""
    return check_paths(
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    )


def check_paths(paths: Mapping[str, Path]) -> tuple[RevisionKind, Family]:
    """What files on this machine are together, by their names in the model. Raises BadWeights."""
    for name, path in sorted(paths.items()):
        check_name(name)
        with path.open("rb") as file:
            if name.endswith(".safetensors"):
                check_safetensors(name, file, path.stat().st_size)
            elif name.endswith(".json"):
                check_json(name, file)
    return kind_of(paths)
