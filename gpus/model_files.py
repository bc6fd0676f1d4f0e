"""What may be among the files of a model, looked at without running anything of it. Without Django: agents check too.

Whoever loads a model with transformers, PEFT or sentence-transformers runs what its files say: pickles, Python beside
the weights, and classes that its JSON names. Here is what may be there so that loading it is only reading it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

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
ADAPTER, FULL = "adapter", "full"
CAUSAL, EMBEDDING = "causal", "embedding"
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json"}
_MAX_HEADER = 100 * 1024 * 1024
_MAX_JSON = 64 * 1024 * 1024
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1,
    "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
# sentence-transformers imports whatever class modules.json names; these only compute.
_MODULE = re.compile(
    r"sentence_transformers\.[A-Za-z_.]*\.(Transformer|Pooling|Normalize|Dense|Dropout|LayerNorm)"
)
# An adapter's other tensors would be written over those of the base, which others use as well.
_LORA = re.compile(r".*\.lora_((A|B)\.weight|embedding_(A|B)|magnitude_vector(\.weight)?)")
# What lets an adapter change its base, or be larger than its weights, when it is loaded.
_ONLY_PLAIN = (
    "modules_to_save",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
)
_MOST_RANK = 1024
# No language model is larger in any of these; a configuration that says so would only fill the memory.
_MOST_OF_ANYTHING = 2**24
_MOST_LAYERS = 4096
_SIZE = re.compile(r"size|layers|heads|experts|dim|position")
# The function that a Dense module names is imported and called.
_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation|linear)\.[A-Za-z]+")


class BadFile(ValueError):
    """A file, or what files are together, is no model that can be served. The message names the file."""


def check_name(name: str) -> str:
    """A path within a model's folder. Raises BadFile for one that leads outside, or names what may not be there."""
    parts = name.split("/")
    if not name or len(name) > 255 or name.startswith("/") or "\\" in name or not name.isprintable():
        raise BadFile(f"{name[:100]!r} is no path of a file in a model.")
    if any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        raise BadFile(f"{name!r} is no path of a file in a model.")
    ending = Path(name).suffix.lower()
    if ending in FORBIDDEN:
        raise BadFile(
            f"{name}: {ending} files can run code when they are loaded. Save the weights as safetensors instead."
        )
    if ending not in ALLOWED:
        raise BadFile(f"{name}: a model consists of {', '.join(ALLOWED)} files.")
    return name


def check(name: str, file: IO[bytes], size: int) -> None:
    """Look into one file of a model, at its beginning, whatever it is. Raises BadFile."""
    if name.endswith(".safetensors"):
        check_safetensors(name, file, size)
    elif name.endswith(".json"):
        check_json(name, file)


def check_safetensors(name: str, file: IO[bytes], size: int) -> dict[str, str]:
    """Check a safetensors file's header against its size; what its `__metadata__` says. Raises BadFile."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
        raise BadFile(f"{name} is no safetensors file: its header does not fit into it.")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        raise BadFile(f"{name} is no safetensors file: its header is not JSON.") from None
    if not isinstance(header, dict):
        raise BadFile(f"{name} is no safetensors file: its header is not an object.")
    metadata = header.pop("__metadata__", {})
    if name.rsplit("/", 1)[-1] == "adapter_model.safetensors":
        for tensor in header:
            if not _LORA.fullmatch(tensor):
                raise BadFile(f"{name}: {tensor[:200]} is no part of a LoRA adapter; only such are served.")
    end = max((_end_of(name, tensor, about) for tensor, about in header.items()), default=0)
    if end != size - 8 - length:
        raise BadFile(f"{name} is not complete: its tensors need {end} bytes, {size - 8 - length} are there.")
    return metadata if isinstance(metadata, dict) else {}


def _end_of(name: str, tensor: str, about: Any) -> int:
    try:
        start, end = about["data_offsets"]
        needed = math.prod(about["shape"]) * _BYTES[about["dtype"]]
        good = 0 <= start <= end and end - start == needed
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise BadFile(f"{name}: the tensor {tensor[:100]} is not described as it should be.")
    return int(end)


def check_json(name: str, file: IO[bytes]) -> Any:
    """What it says. Raises BadFile where it is no JSON, or names code that loading the model would run."""
    try:
        said = json.loads(file.read(_MAX_JSON))
    except (ValueError, RecursionError):
        raise BadFile(f"{name} is not valid JSON.") from None
    last = name.rsplit("/", 1)[-1]
    if last == "modules.json":
        _check_modules(name, said)
    elif last == "adapter_config.json":
        _check_adapter(name, said)
    elif last == "config.json" and isinstance(said, dict):
        _check_sizes(name, said)
        _check_activation(name, said)
    return said


def _check_modules(name: str, said: Any) -> None:
    for module in said if isinstance(said, list) else [None]:
        kind = module.get("type") if isinstance(module, dict) else None
        path = module.get("path") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not _MODULE.fullmatch(kind):
            raise BadFile(
                f"{name} names the class {str(kind)[:100]!r}. Served are Transformer, Pooling, Normalize, Dense, "
                "Dropout and LayerNorm of sentence_transformers."
            )
        if not isinstance(path, str) or path.startswith("/") or ".." in path.split("/"):
            raise BadFile(f"{name} names a folder outside of the model.")


def _check_adapter(name: str, said: Any) -> None:
    if not isinstance(said, dict) or said.get("peft_type") != "LORA":
        raise BadFile(f"{name}: only LoRA adapters are served (peft_type LORA).")
    for option in _ONLY_PLAIN:
        if said.get(option):
            raise BadFile(f"{name}: {option} is not served; a plain LoRA adapter is.")
    if said.get("bias", "none") != "none" or said.get("lora_bias"):
        raise BadFile(f"{name}: an adapter that changes biases is not served.")
    if said.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise BadFile(
            f"{name}: init_lora_weights must be true, false or gaussian; convert the adapter to plain LoRA."
        )
    patterns = said.get("rank_pattern") or {}
    ranks = [said.get("r", 8), *(patterns.values() if isinstance(patterns, dict) else [None])]
    if not all(isinstance(rank, int) and 0 < rank <= _MOST_RANK for rank in ranks):
        raise BadFile(f"{name}: its rank must be a whole number from 1 to {_MOST_RANK}.")


def _check_sizes(name: str, said: Mapping[str, Any]) -> None:
    for key, value in said.items():
        if isinstance(value, dict):
            _check_sizes(name, value)
        elif isinstance(value, int) and _SIZE.search(key) and value > _most(key):
            raise BadFile(f"{name}: {key[:100]} is {value}, more than any model has.")


def _most(key: str) -> int:
    return _MOST_LAYERS if "layers" in key or "experts" in key else _MOST_OF_ANYTHING


def _check_activation(name: str, said: Mapping[str, Any]) -> None:
    function = said.get("activation_function", "")
    # A language model's configuration has a plain word here (gelu_new); a dotted name is imported and called.
    if not isinstance(function, str) or ("." in function and not _ACTIVATION.fullmatch(function)):
        raise BadFile(f"{name} names {str(function)[:100]!r} as its activation, which is none of torch's.")


def kind_of(names: Iterable[str]) -> tuple[str, str]:
    """What these files are together: FULL or ADAPTER, CAUSAL or EMBEDDING. Raises BadFile if something is missing."""
    there = set(names)
    if len(there) > MOST_FILES:
        raise BadFile(f"A model has at most {MOST_FILES} files.")
    if not any(name.endswith(".safetensors") for name in there):
        raise BadFile("The weights are missing: there is no .safetensors file.")
    if "adapter_config.json" in there:
        if "adapter_model.safetensors" not in there:
            raise BadFile("adapter_model.safetensors is missing beside adapter_config.json.")
        return ADAPTER, CAUSAL
    if "config.json" not in there and "modules.json" not in there:
        raise BadFile("config.json is missing.")
    if not there & _TOKENIZERS and not any(name.rsplit("/", 1)[-1] in _TOKENIZERS for name in there):
        raise BadFile("The tokenizer is missing: tokenizer.json, or vocab.txt and the like.")
    return FULL, EMBEDDING if "modules.json" in there else CAUSAL


def check_paths(paths: Mapping[str, Path]) -> tuple[str, str]:
    """What files on this machine are together, by their names in the model. Raises BadFile."""
    for name, path in sorted(paths.items()):
        check_name(name)
        with path.open("rb") as file:
            check(name, file, path.stat().st_size)
    return kind_of(paths)


def manifest(files: Mapping[str, tuple[str, int]]) -> bytes:
    """A line per file (SHA-256, size, path; sorted by path), of which a revision's digest is the SHA-256.

    `files`: SHA-256 and size by path.
    """
    return "".join(f"{sha256} {size} {path}\n" for path, (sha256, size) in sorted(files.items())).encode()
