"""What an OpenAI-compatible server says of its models. Servers differ: anything that makes sense is accepted.

Known shapes: OpenAI and vLLM `{"data": [{"id", "max_model_len"}]}`, llama.cpp (`meta.n_ctx_train`, slots at
`/props`), Ollama (also `/api/tags`), TGI (`/info`), LM Studio (`context_length`), bare lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gpus.agent.engines import EngineUnreachable, Offer

DISCOVERY_TIMEOUT = aiohttp.ClientTimeout(total=10)
DEFAULT_CONCURRENCY = 8
# Servers that batch whatever comes have no use for a small limit.
_CONCURRENCY_OF_OWNER = {"vllm": 64, "sglang": 64}
_EMBEDDING_NAME = re.compile(r"embed|minilm|(^|[/_-])(bge|e5|gte|paraphrase)([_-]|$)", re.IGNORECASE)
_CONTEXT_KEYS = (
    "max_model_len",
    "context_length",
    "max_context_length",
    "context_window",
    "n_ctx",
    "n_ctx_train",
)
_ID_KEYS = ("id", "name", "model", "model_id")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the provider has said about the models. `names`: public name → the upstream's name; empty: all."""

    names: dict[str, str]
    kinds: tuple[str, ...] = ()
    concurrency: int | None = None


def base_url(text: str) -> URL:
    """The server's URL without a trailing `/v1`, whichever way people write it."""
    return URL(re.sub(r"(/v1)?/*$", "", text.strip()) + "/")


async def discover(
    session: aiohttp.ClientSession,
    base: URL,
    wanted: Wanted,
    is_other: Callable[[str, Any], bool] = lambda _name, _root: False,
) -> list[tuple[Offer, str]]:
    """The models to offer, each with the upstream's own name for it. Raises EngineUnreachable.

    `is_other` says, by its name and `root`, what is listed but not the provider's to offer.
    """
    entries = [each for each in await _listed(session, base) if not is_other(_name(each), each.get("root"))]
    slots = await _slots(session, base) if _is_llama_cpp(entries) else None
    found = {name: entry for entry in entries if (name := _name(entry))}
    # What the provider names is believed: `transformers serve` lists its cache, but not the folder that it serves.
    names = wanted.names or {name: name for name in found}
    return [(_offer(public, own, found.get(own, {}), wanted, slots), own) for public, own in names.items()]


async def _listed(session: aiohttp.ClientSession, base: URL) -> list[dict[str, Any]]:
    """The first list of models that the server has. Raises EngineUnreachable when it does not answer."""
    for path in ("v1/models", "models", "api/tags", "info"):
        reply = await get_json(session, base.join(URL(path)))
        if reply is not None and (entries := list(_entries(reply))):
            return entries
        if path == "v1/models" and reply is not None:
            return []  # it has a proper list, and nothing is in it
    return []


async def get_json(session: aiohttp.ClientSession, url: URL) -> Any:
    """A server's JSON; None where it has no such page. Raises EngineUnreachable."""
    try:
        async with session.get(url, timeout=DISCOVERY_TIMEOUT) as response:
            if response.status in (401, 403) or response.status >= 500:
                raise EngineUnreachable(f"{url} answers with status {response.status}.")
            return orjson.loads(await response.read()) if response.status == 200 else None
    except orjson.JSONDecodeError:
        return None
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise EngineUnreachable(f"{url} cannot be reached: {error or type(error).__name__}") from error


def _entries(reply: Any) -> Iterator[dict[str, Any]]:
    if isinstance(reply, dict):
        listed = reply.get("data") or reply.get("models") or ([reply] if "model_id" in reply else [])
    else:
        listed = reply
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, str):
            yield {"id": entry}
        elif isinstance(entry, dict):
            yield entry


def _name(entry: dict[str, Any]) -> str:
    return next((entry[key] for key in _ID_KEYS if isinstance(entry.get(key), str) and entry[key]), "")


def _is_llama_cpp(entries: Sequence[dict[str, Any]]) -> bool:
    return any(entry.get("owned_by") == "llamacpp" for entry in entries)


async def _slots(session: aiohttp.ClientSession, base: URL) -> int | None:
    """How many requests llama.cpp answers at once, if it says so."""
    try:
        reply = await get_json(session, base.join(URL("props")))
    except EngineUnreachable:
        return None
    slots = reply.get("total_slots") if isinstance(reply, dict) else None
    return slots if isinstance(slots, int) and slots > 0 else None


def _offer(public: str, own: str, entry: dict[str, Any], wanted: Wanted, slots: int | None) -> Offer:
    return Offer(
        name=public,
        kinds=wanted.kinds or kinds_of(public, own),
        context_length=_context_length(entry),
        concurrency=wanted.concurrency
        or slots
        or _CONCURRENCY_OF_OWNER.get(str(entry.get("owned_by")), DEFAULT_CONCURRENCY),
    )


def kinds_of(*names: str) -> tuple[str, ...]:
    """A guess from a model's names."""
    if any(_EMBEDDING_NAME.search(name) for name in names):
        return ("embedding",)
    return ("chat", "completion")


def _context_length(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    for source in (entry, meta if isinstance(meta, dict) else {}):
        for key in _CONTEXT_KEYS:
            value = source.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None
