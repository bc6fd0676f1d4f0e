"""How many tokens an answer used: the engine's own report, else the model's tokenizer, else an estimate."""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gpus.agent.engines import SSE_TYPE, Usage, token_counts

logger = logging.getLogger(__name__)

# English text in the tokenizers of today's models.
CHARACTERS_PER_TOKEN = 4
# What the usual chat templates put around a message.
TOKENS_PER_MESSAGE = 4
# A cancelled request must be answered within a second, counting included.
COUNT_TIMEOUT_S = 0.5
# How much of a stream is kept as it came before it is reduced to its text.
_FOLD_BYTES = 1024 * 1024
_DECODER = json.JSONDecoder()
_JSON = {"Content-Type": "application/json"}


class Tokenizer(ABC):
    """Counts tokens as the model would."""

    @abstractmethod
    async def count(self, text: str, *, model: str) -> int | None:
        """How many tokens a text has; None if that cannot be found out now."""


class FileTokenizer(Tokenizer):
    """A `tokenizer.json`, or a folder that holds one."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Loaded  # noqa: PLC0415 - optional, comes with the local engine

        self._tokenizer = Loaded.from_file(str(path / "tokenizer.json" if path.is_dir() else path))

    async def count(self, text: str, *, model: str) -> int | None:
        encoded = await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=False)
        return len(encoded.ids)


class ServerTokenizer(Tokenizer):
    """The upstream's own `/tokenize`, in the dialects of vLLM, llama.cpp (C++ and Python) and TGI."""

    def __init__(self, session: aiohttp.ClientSession, base: URL) -> None:
        self._session = session
        self._urls = [base.join(URL(path)) for path in ("tokenize", "extras/tokenize/count")]

    async def count(self, text: str, *, model: str) -> int | None:
        # One body for all: vLLM reads `prompt`, llama.cpp `content`, its Python server `input`, TGI `inputs`.
        named = dict.fromkeys(("prompt", "content", "input", "inputs"), text)
        body = orjson.dumps({"model": model, "add_special_tokens": False, **named})
        while self._urls:
            try:
                async with self._session.post(self._urls[0], data=body, headers=_JSON) as response:
                    if response.status not in (404, 405):
                        return self._counted(orjson.loads(await response.read()), response.status)
            except (aiohttp.ClientError, OSError, ValueError):
                return None
            del self._urls[0]
        return None

    @staticmethod
    def _counted(reply: Any, status: int) -> int | None:
        if status != 200:
            return None
        if isinstance(reply, dict):
            reply = reply.get("count", reply.get("tokens"))
        return len(reply) if isinstance(reply, list) else reply if isinstance(reply, int) else None


class Meter:
    """Watches the bytes of one answer go by, and does the work of reading them only if it must."""

    __slots__ = ("_chunks", "_report", "_size", "_streamed", "_text")

    def __init__(self, content_type: str) -> None:
        self._streamed = content_type.startswith(SSE_TYPE)
        self._chunks: list[bytes] = []
        self._size = 0
        self._text: list[str] = []
        self._report: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._streamed and self._size > _FOLD_BYTES:
            self._fold()

    def done(self) -> bool:
        """Whether the stream has said its last word (`data: [DONE]`)."""
        return b"[DONE]" in b"".join(self._chunks[-3:])[-64:]

    def report(self) -> dict[str, Any] | None:
        """The engine's own usage, where it has said so."""
        return _reported(b"".join(self._chunks)) or self._report

    async def usage(self, request: dict[str, Any], tokenizer: Tokenizer | None) -> Usage:
        """What the answer has used so far, for the request that it answers."""
        if (report := self.report()) is not None:
            return Usage(report, "engine")
        prompt, completion = prompt_text(request), self._delivered()
        overhead = TOKENS_PER_MESSAGE * len(request.get("messages") or ())
        if tokenizer is not None:
            counts = await _counts(tokenizer, prompt, completion, str(request.get("model", "")))
            if counts is not None:
                return Usage(token_counts(counts[0] + overhead, counts[1]), "tokenizer")
        # An event of a stream holds a token at least.
        written = max(estimate(completion), sum(map(bool, self._text)))
        return Usage(token_counts(estimate(prompt) + overhead, written), "estimate")

    def _delivered(self) -> str:
        if self._streamed:
            self._fold()
            return "".join(self._text)
        try:
            return "".join(_texts(orjson.loads(b"".join(self._chunks))))
        except orjson.JSONDecodeError:
            return ""

    def _fold(self) -> None:
        """Reduce the stream so far to its text; the line that is still incomplete stays."""
        whole = b"".join(self._chunks)
        cut = whole.rfind(b"\n") + 1
        self._report = _reported(whole[:cut]) or self._report
        for line in whole[:cut].splitlines():
            if line.startswith(b"data:"):
                self._text.extend(_event_texts(line[5:]))
        self._chunks, self._size = [whole[cut:]], len(whole) - cut


def estimate(text: str) -> int:
    return -(-len(text.encode()) // CHARACTERS_PER_TOKEN)


def prompt_text(request: dict[str, Any]) -> str:
    """All text of a request that a model reads."""
    prompt = request.get("prompt", request.get("input", ""))
    parts = prompt if isinstance(prompt, list) else [prompt]
    texts = [part for part in parts if isinstance(part, str) and part]
    for message in request.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            texts.extend(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return "\n".join(texts)


async def _counts(tokenizer: Tokenizer, prompt: str, completion: str, model: str) -> tuple[int, int] | None:
    try:
        async with asyncio.timeout(COUNT_TIMEOUT_S):
            first = await tokenizer.count(prompt, model=model)
            second = await tokenizer.count(completion, model=model)
    except TimeoutError:
        return None
    return None if first is None or second is None else (first, second)


def _reported(body: bytes) -> dict[str, Any] | None:
    """The last usage object in a body, without reading the rest of it.

    Inside a JSON string the quotes would be escaped, so `"usage"` can only be a key.
    """
    at = body.rfind(b'"usage"')
    while at >= 0:
        rest = body[at + 7 : at + 4096].lstrip(b" \t\r\n:")
        if rest.startswith(b"{"):
            try:
                usage, _ = _DECODER.raw_decode(rest.decode("utf-8", "replace"))
            except ValueError:
                return None
            return usage if isinstance(usage.get("prompt_tokens"), int) else None
        at = body.rfind(b'"usage"', 0, at)
    return None


def _event_texts(data: bytes) -> Iterator[str]:
    try:
        yield from _texts(orjson.loads(data))
    except orjson.JSONDecodeError:
        return


def _texts(reply: Any) -> Iterator[str]:
    """What a model wrote, in a whole reply or one event of a stream: text, reasoning and tool calls."""
    for choice in (reply.get("choices") or ()) if isinstance(reply, dict) else ():
        said = choice.get("delta") or choice.get("message") or choice
        for key in ("content", "reasoning_content", "reasoning", "text", "refusal"):
            if isinstance(said.get(key), str):
                yield said[key]
        for call in said.get("tool_calls") or ():
            function = call.get("function") or {}
            yield f"{function.get('name') or ''}{function.get('arguments') or ''}"
