"""The marketplace's models in this process: loaded and let go while others answer.

Weights are read in a thread of their own. Adapters share the weights that they lie over; these stay for as long as
something uses them, an answer that has begun included.
"""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gpus import model_files
from gpus.agent.engines import CannotHost, EngineFailed, Guest, NoSuchModel, Offer
from gpus.agent.engines.causal import Causal
from gpus.agent.engines.embedder import Embedder

# What libraries raise over files that are not as they expect, out of memory included.
BROKEN = (
    *(OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ImportError, AssertionError),
    *(ArithmeticError, NotImplementedError, MemoryError, SafetensorError, EngineFailed),
)


class Guests:
    """What is hosted in this process. All methods belong to the event loop."""

    def __init__(
        self, *, device: str, compute: Callable[[Callable[[], Any]], Awaitable[Any]], concurrency: int
    ) -> None:
        self._device, self._compute, self._concurrency = device, compute, concurrency
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._models: dict[str, tuple[Offer, Causal | Embedder]] = {}  # by key, and by name once offered
        self._keys: dict[str, str] = {}  # of those that are offered, by name
        self._bases: weakref.WeakValueDictionary[str, Causal] = weakref.WeakValueDictionary()
        self._digests: dict[Path, str] = {}

    @property
    def offers(self) -> list[Offer]:
        return [self._models[name][0] for name in self._keys]

    @property
    def untried(self) -> list[Offer]:
        offered = {*self._keys, *self._keys.values()}
        return [offer for key, (offer, _) in self._models.items() if key not in offered]

    def model(self, name: str) -> Causal | Embedder:
        """Raises NoSuchModel."""
        if name not in self._models:
            raise NoSuchModel(f"This node does not serve {name!r} any more.")
        return self._models[name][1]

    def has(self, digest: str) -> bool:
        """Whether a base with this digest is here."""
        return digest in self._bases

    async def is_same(self, model: Causal, folder: Path, digest: str) -> bool:
        """Whether the provider's own model is what the marketplace knows by this digest; if so, adapters can use it."""
        if folder not in self._digests:
            loop = asyncio.get_running_loop()
            self._digests[folder] = await loop.run_in_executor(self._loading, _digest, folder)
        if self._digests[folder] == digest:
            self._bases[digest] = model
        return self._digests[folder] == digest

    async def load(self, guest: Guest) -> Causal | Embedder:
        """Have a model ready to be asked by its key. Raises CannotHost."""
        try:
            model = await asyncio.get_running_loop().run_in_executor(self._loading, self._load, guest)
            await self._compute(lambda: _prepare(model, guest))
        except BROKEN as error:
            raise CannotHost(f"It cannot be loaded: {first_line(error)}") from error
        offer = Offer(
            name=guest.key,
            kinds=model.kinds,
            context_length=model.context_length,
            concurrency=self._concurrency,
            revision=guest.label,
        )
        self._models[guest.key] = (offer, model)
        return model

    def _load(self, guest: Guest) -> Causal | Embedder:
        if guest.family == model_files.EMBEDDING:
            return Embedder(guest.folder, device=self._device)
        if not guest.is_adapter:
            model = Causal(guest.folder, device=self._device)
            self._bases[guest.digest] = model
            return model
        base = self._bases.get(guest.base_digest)
        if base is None:
            if guest.base_folder is None:
                raise ValueError(f"its base {guest.base} is not here")
            base = self._bases[guest.base_digest] = Causal(guest.base_folder, device=self._device)
        return Causal(guest.folder, device=self._device, base=base)

    def offer(self, guest: Guest) -> None:
        """Offer by its name what can be asked by its key."""
        offer, model = self._models[guest.key]
        before = self._keys.get(guest.name)
        if before is not None and before != guest.key:
            self._models.pop(before, None)
        self._keys[guest.name] = guest.key
        named = Offer(
            name=guest.name,
            kinds=offer.kinds,
            context_length=offer.context_length,
            concurrency=offer.concurrency,
            revision=offer.revision,
        )
        self._models[guest.name] = (named, model)

    def dismiss(self, guest: Guest) -> bool:
        """Let go; whether it was offered."""
        self._models.pop(guest.key, None)
        if self._keys.get(guest.name) != guest.key:
            return False
        del self._keys[guest.name], self._models[guest.name]
        return True

    def close(self) -> None:
        self._loading.shutdown(wait=False, cancel_futures=True)


def _prepare(model: Causal | Embedder, guest: Guest) -> None:
    if guest.is_adapter and isinstance(model, Causal):
        model.lay()
    warm_up(model)


def _digest(folder: Path) -> str:
    """What the marketplace would call a revision of the files in a folder."""
    files: dict[str, tuple[str, int]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.suffix not in model_files.ALLOWED or "/." in f"/{name}":
            continue
        with path.open("rb") as file:
            files[name] = (hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    return hashlib.sha256(model_files.manifest(files)).hexdigest()


def warm_up(model: Causal | Embedder) -> None:
    """The first call is slow: let it not be a consumer's."""
    if isinstance(model, Embedder):
        list(model.encode(["warm up"]))
    else:
        cache = None
        for _ in range(3):
            _, cache = model.forward([0], cache)


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]
