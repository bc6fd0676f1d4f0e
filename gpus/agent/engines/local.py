"""Models in this process: transformers for chat and completion, sentence-transformers for embeddings.

One thread computes. Requests take turns token by token, so that all of them stream; a token is made only when
the one before has been taken, so that a slow reader or a cancelled request costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers.utils import logging as transformers_logging

from gpus import model_files
from gpus.agent.engines import Answer, CannotHost, Engine, EngineFailed, Guest, Offer, folders
from gpus.agent.engines import embedder as embedding
from gpus.agent.engines.asked import BadRequest
from gpus.agent.engines.causal import Causal
from gpus.agent.engines.embedder import Embedder
from gpus.agent.engines.folders import EMBEDDED, Source
from gpus.agent.engines.generated import Shape, Streamed, whole
from gpus.agent.engines.guests import Guests, first_line, warm_up
from gpus.agent.options import Options, WrongOption

T = TypeVar("T")
DEFAULT_CONCURRENCY = 4
# Below this, splitting the work among cores costs more than it gains, and much more on a busy machine.
SMALL_PARAMETERS = 50_000_000


@dataclass(frozen=True, slots=True)
class _Loaded:
    offer: Offer
    model: Causal | Embedder
    folder: Path


class Local(Engine):
    """Serves the models that the provider names, or the two embedded ones."""

    def __init__(self, options: Options) -> None:
        self.title = f"transformers {transformers.__version__}, torch {torch.__version__}"
        transformers_logging.disable_progress_bar()
        self._wanted = options.models or EMBEDDED
        self._models_dir = options.models_dir
        self._concurrency = options.concurrency or DEFAULT_CONCURRENCY
        self._device = _device(options.device)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._cores = torch.get_num_threads()
        self._loaded: dict[str, _Loaded] = {}
        self._guests = Guests(device=self._device, compute=self._compute, concurrency=self._concurrency)
        self._changed: Callable[[], None] = lambda: None

    @property
    def offers(self) -> list[Offer]:
        return [each.offer for each in self._loaded.values()] + self._guests.offers

    async def start(self, changed: Callable[[], None]) -> None:
        """Load the models. Raises WrongOption where one cannot be had."""
        for model in self._wanted:
            loaded = await self._compute(lambda model=model: self._load(model))  # type: ignore[misc]
            self._loaded[loaded.offer.name] = loaded
        self._changed = changed
        changed()

    async def close(self) -> None:
        self._guests.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def open(self, path: str, body: bytes, request: dict[str, Any]) -> Answer:
        name = request["model"]
        model = self._loaded[name].model if name in self._loaded else self._guests.model(name)
        try:
            if isinstance(model, Embedder):
                return await self._embed(model, request)
            return await self._generate(model, path, request)
        except BadRequest as error:
            return error.answer()

    async def _embed(self, model: Embedder, request: dict[str, Any]) -> Answer:
        texts, tokens = await self._compute(lambda: model.prepare(request))
        batches = model.encode(texts)
        vectors: list[Any] = []
        while (batch := await self._compute(lambda: next(batches, None))) is not None:
            vectors.extend(batch)
        return embedding.answer(request, vectors, tokens)

    async def _generate(self, model: Causal, path: str, request: dict[str, Any]) -> Answer:
        ids, wanted = await self._compute(lambda: model.prepare(path, request))
        generation = model.start(ids, wanted)
        # The first token comes before the head, so that a failure up to here can go to another node.
        first = await self._compute(generation.step)
        shape = Shape(path, request["model"])
        if wanted.stream:
            return Streamed(shape, generation, wanted, self._compute, first)
        return await whole(shape, generation, self._compute, first)

    def _compute(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do it in the computing thread. Raises EngineFailed where the model breaks."""
        return _translated(asyncio.get_running_loop().run_in_executor(self._pool, work))

    def _load(self, text: str) -> _Loaded:
        # This counts per thread, so it is said in the computing one.
        torch.set_num_threads(1)
        source = folders.find(text, models_dir=self._models_dir)
        try:
            model = (Embedder if source.embeds else Causal)(source.folder, device=self._device)
        except (OSError, ValueError, KeyError) as error:
            raise WrongOption(f"The model {text} cannot be loaded: {first_line(error)}") from error
        self._use_cores(model)
        warm_up(model)
        print(f"serving {source.name} on {self._device}", flush=True)
        return _Loaded(self._offer(source, model), model, source.folder)

    def _use_cores(self, model: Causal | Embedder) -> None:
        if not _is_small(model) or any(not _is_small(each.model) for each in self._loaded.values()):
            torch.set_num_threads(self._cores)

    # --- Models of the marketplace's ---------------------------------------------------------------------
    @property
    def hosting(self) -> dict[str, Any]:
        return {
            "engine": "transformers",
            "families": [model_files.CAUSAL, model_files.EMBEDDING],
            "adapters": find_spec("peft") is not None,
            "full": True,
            "bases": [name for name, each in self._loaded.items() if isinstance(each.model, Causal)],
        }

    @property
    def untried(self) -> list[Offer]:
        return self._guests.untried

    async def has_base(self, name: str, digest: str) -> bool:
        own = self._loaded.get(name)
        if own is None or not isinstance(own.model, Causal):
            return self._guests.has(digest)
        return await self._guests.is_same(own.model, own.folder, digest) or self._guests.has(digest)

    async def host(self, guest: Guest) -> None:
        if guest.name in self._loaded:
            raise CannotHost(f"This node serves a model of its own as {guest.name}.")
        model = await self._guests.load(guest)
        await self._compute(lambda: self._use_cores(model))

    def offer_guest(self, guest: Guest) -> None:
        self._guests.offer(guest)
        self._changed()

    async def dismiss(self, guest: Guest) -> None:
        if self._guests.dismiss(guest):
            self._changed()

    def _offer(self, source: Source, model: Causal | Embedder) -> Offer:
        return Offer(
            name=source.name,
            kinds=model.kinds,
            context_length=model.context_length,
            concurrency=self._concurrency,
            revision=source.revision,
            description=source.description,
        )


async def _translated(future: asyncio.Future[T]) -> T:
    try:
        return await future
    except RuntimeError as error:  # torch's, out of memory included
        raise EngineFailed(f"The model failed: {first_line(error)}") from error


def _device(wanted: str) -> str:
    if not wanted:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise WrongOption(f"--device {wanted}: {first_line(error)}") from error
    return wanted


def _is_small(model: Causal | Embedder) -> bool:
    return bool(sum(each.numel() for each in model.model.parameters()) < SMALL_PARAMETERS)
