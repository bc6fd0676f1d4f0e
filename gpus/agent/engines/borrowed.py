"""LoRA adapters on a vLLM server, which loads and unloads them while it serves: where the provider gives it a folder to
read them from.

vLLM's endpoints (there with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1):

    POST /v1/load_lora_adapter    {"lora_name", "lora_path"}    200, or an error with a message
    POST /v1/unload_lora_adapter  {"lora_name"}                 200, or 404

and each adapter is listed at /v1/models with its `root` (the path) and its `parent` (the base).
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gpus import model_files
from gpus.agent.engines import CannotHost, Guest, Offer

logger = logging.getLogger(__name__)

LOAD_TIMEOUT = aiohttp.ClientTimeout(total=300)
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)
_ALREADY = re.compile("already", re.IGNORECASE)


class Borrowed:
    """The adapters of the marketplace's on one server. `folder`: what the server reads them from, at the same path."""

    def __init__(self, base: URL, folder: Path) -> None:
        self._url, self._folder = base, folder
        self._loaded: dict[str, Offer] = {}  # by key, which is what the server calls them
        self._keys: dict[str, str] = {}  # of those that are offered, by name

    @property
    def offers(self) -> list[Offer]:
        return [replace(self._loaded[key], name=name) for name, key in self._keys.items()]

    @property
    def untried(self) -> list[Offer]:
        offered = set(self._keys.values())
        return [offer for key, offer in self._loaded.items() if key not in offered]

    def own_name(self, name: str) -> str | None:
        """What the server calls it; None for what is not hosted."""
        return self._keys.get(name) or (name if name in self._loaded else None)

    def is_ours(self, own: str, root: Any) -> bool:
        """Whether what the server lists is an adapter that this node has put there, now or in an earlier life."""
        return own in self._loaded or (isinstance(root, str) and Path(root).is_relative_to(self._folder))

    async def load(self, session: aiohttp.ClientSession, guest: Guest, base: Offer) -> None:
        """Raises CannotHost."""
        if not guest.is_adapter or guest.family != model_files.CAUSAL:
            raise CannotHost("This node hosts LoRA adapters of language models only.")
        folder = self._folder / guest.digest
        try:
            await asyncio.to_thread(_copy, guest.folder, folder)
        except OSError as error:
            raise CannotHost(f"Its files cannot be given to the server: {error}") from error
        said = {"lora_name": guest.key, "lora_path": str(folder)}
        status, text = await self._post(session, "v1/load_lora_adapter", said)
        if status == 400 and _ALREADY.search(text):
            # Of an earlier life of this agent: the name says which revision it is, but not that it is whole.
            await self._post(session, "v1/unload_lora_adapter", {"lora_name": guest.key})
            status, text = await self._post(session, "v1/load_lora_adapter", said)
        if status != 200:
            raise CannotHost(f"The server does not load it: {_message(text) or f'status {status}'}")
        self._loaded[guest.key] = replace(base, name=guest.key, revision=guest.label, description="")

    def offer(self, guest: Guest) -> None:
        self._keys[guest.name] = guest.key

    async def unload(self, session: aiohttp.ClientSession, guest: Guest) -> None:
        if self._keys.get(guest.name) == guest.key:
            del self._keys[guest.name]
        if self._loaded.pop(guest.key, None) is None:
            return
        try:
            await self._post(session, "v1/unload_lora_adapter", {"lora_name": guest.key})
        except CannotHost as error:
            logger.warning("%s stays loaded: %s", guest.key, error)
        await asyncio.to_thread(shutil.rmtree, self._folder / guest.digest, ignore_errors=True)

    @property
    def loaded(self) -> set[str]:
        """What is loaded, as far as is known."""
        return set(self._loaded)

    def forget(self, lost: set[str]) -> bool:
        """The server was started anew without these. Whether there were any."""
        lost = lost & self._loaded.keys()
        for key in lost:
            del self._loaded[key]
        self._keys = {name: key for name, key in self._keys.items() if key in self._loaded}
        return bool(lost)

    async def _post(self, session: aiohttp.ClientSession, path: str, said: dict[str, str]) -> tuple[int, str]:
        try:
            async with session.post(
                self._url.join(URL(path)), data=orjson.dumps(said), timeout=LOAD_TIMEOUT
            ) as response:
                return response.status, (await response.read())[:2000].decode(errors="replace")
        except _BROKEN as error:
            raise CannotHost(f"The server cannot be reached: {error or type(error).__name__}") from error


def _copy(source: Path, target: Path) -> None:
    """Give a model's files to another program, which may run as another user."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _message(text: str) -> str:
    """The sentence in an error of vLLM's, of either shape that its versions have."""
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text[:300]
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        said = said["error"]
    return (
        str(said.get("message") or said.get("detail") or text)[:300] if isinstance(said, dict) else text[:300]
    )
