"""What there is to compute on, and how its memory is used well."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "accelerate", "optuna")
# Bytes that a layer keeps of each number of a token's state until the backward pass, in half precision and with the
# attention never written out as a whole (Korthikanti et al. 2022, section 4: 34).
_KEPT_BYTES = 34
# Of a vocabulary's scores: in half precision, in full, and their gradient.
_SCORE_BYTES = 10
_USABLE = 0.8


def has_gpu(device: str) -> bool:
    return device != "cpu" and torch.cuda.is_available()


def device(wanted: str) -> torch.device:
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if has_gpu(wanted)
        else torch.device("cpu")
    )


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def precision(wanted: str) -> dict[str, Any]:
    """TrainingArguments' half precision: bfloat16 on GPUs that know it, else float16; on CPUs none."""
    if not has_gpu(wanted):
        return {}
    return {"bf16": True} if torch.cuda.is_bf16_supported() else {"fp16": True}


def weights_type(wanted: str) -> torch.dtype:
    """How weights that are not trained are held."""
    half = precision(wanted)
    return torch.bfloat16 if "bf16" in half else torch.float16 if half else torch.float32


def autocast(wanted: str) -> torch.autocast:
    """The same precision for measuring."""
    half = precision(wanted)
    return torch.autocast(
        "cuda" if half else "cpu", dtype=weights_type(wanted) if half else None, enabled=bool(half)
    )


def should_recompute(config: Any, *, rows: int, length: int, free_bytes: int | None = None) -> bool:
    """Whether what a step keeps for its backward pass would not fit, so that it had better be computed twice.

    `config` is the model's; `free_bytes` is what is free beside its weights, by default the GPU's.
    """
    if free_bytes is None:
        if not torch.cuda.is_available():
            return False
        free_bytes = torch.cuda.mem_get_info()[0]
    config = config.get_text_config()
    tokens = rows * length
    kept = tokens * config.hidden_size * config.num_hidden_layers * _KEPT_BYTES
    return bool(kept + tokens * config.vocab_size * _SCORE_BYTES > _USABLE * free_bytes)


def is_out_of_memory(error: BaseException) -> bool:
    """torch has an exception for GPUs, and sentences for the rest."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        part in text for part in ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
    )


def empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def hardware(wanted: str) -> dict[str, Any]:
    """What `started` says."""
    cpu = f"{os.cpu_count()} CPU cores"
    if not has_gpu(wanted):
        return {"device": "cpu", "name": cpu, "count": torch.get_num_threads()}
    about = torch.cuda.get_device_properties(0)
    return {
        "device": "cuda", "name": about.name, "count": process_count(), "memory_mib": int(about.total_memory / 2**20),
        "cpu": cpu,
    }  # fmt: skip


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:500]
