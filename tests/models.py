"""Small models for tests that only look at files: right in form, and of no use."""

import io
import json
import struct
import zipfile
from typing import Any

CONFIG = json.dumps({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1}).encode()
TOKENIZER = json.dumps({"version": "1.0", "model": {}}).encode()


def safetensors(names: tuple[str, ...] = ("weight",), fill: int = 0) -> bytes:
    """A file with one F32 tensor of two numbers for each name."""
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * at, 8 * at + 8]}
        for at, name in enumerate(names)
    }
    said = json.dumps(header).encode()
    return struct.pack("<Q", len(said)) + said + bytes([fill]) * 8 * len(names)


def full(fill: int = 0) -> dict[str, bytes]:
    return {"config.json": CONFIG, "tokenizer.json": TOKENIZER, "model.safetensors": safetensors(fill=fill)}


def adapter(base: str, **config: Any) -> dict[str, bytes]:
    said = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": base, **config}
    names = ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight")
    return {"adapter_config.json": json.dumps(said).encode(), "adapter_model.safetensors": safetensors(names)}


def embedding() -> dict[str, bytes]:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    return full() | {"modules.json": json.dumps(modules).encode(), "1_Pooling/config.json": b"{}"}


def zipped(files: dict[str, bytes], *, folder: str = "") -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{folder}{name}", content)
    return found.getvalue()
