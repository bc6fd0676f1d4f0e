"""Answers of the local engine's language models, in OpenAI's shapes: one object, or a stream of events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from gpus.agent.engines import SSE_TYPE, Answer, Usage, Whole, token_counts
from gpus.agent.engines.asked import Asked
from gpus.agent.engines.causal import Generation

# Runs one step in the computing thread.
Compute = Callable[[Callable[[], str]], Awaitable[str]]


class Shape:
    """The fixed parts of one answer: chat or plain completion."""

    def __init__(self, path: str, model: str) -> None:
        self._chat = path.endswith("/chat/completions")
        self._object = "chat.completion" if self._chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, finish_reason: str, usage: dict[str, int]) -> bytes:
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        return orjson.dumps(self._head | {"object": self._object, "choices": [choice], "usage": usage})

    def opening(self) -> bytes:
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self._chat else b""

    def piece(self, text: str) -> bytes:
        return self._event({"delta": {"content": text}} if self._chat else {"text": text})

    def closing(self, finish_reason: str) -> bytes:
        return self._event({"delta": {}} if self._chat else {"text": ""}, finish_reason)

    def usage(self, usage: dict[str, int]) -> bytes:
        return self._line({"choices": [], "usage": usage})

    def _event(self, said: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return self._line(
            {"choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}]}
        )

    def _line(self, content: dict[str, Any]) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return b"data: " + orjson.dumps(self._head | {"object": kind} | content) + b"\n\n"


class Streamed(Answer):
    """An answer that is made while it is read."""

    status, content_type = 200, SSE_TYPE

    def __init__(
        self, shape: Shape, generation: Generation, wanted: Asked, compute: Compute, first: str
    ) -> None:
        self._shape = shape
        self._generation = generation
        self._include_usage = wanted.include_usage
        self._compute = compute
        self._first = first
        self._stopped = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        shape, generation = self._shape, self._generation
        lines, piece = shape.opening(), self._first
        while True:
            if piece:
                lines += shape.piece(piece)
            if generation.finish_reason is not None or self._stopped:
                break
            if lines:
                yield lines
                lines = b""
            piece = await self._compute(generation.step)
        yield lines + self._end()

    def _end(self) -> bytes:
        lines = self._shape.closing(self._generation.finish_reason or "stop")
        if self._include_usage:
            lines += self._shape.usage(used(self._generation))
        return lines + b"data: [DONE]\n\n"

    async def stop(self) -> None:
        self._stopped = True

    async def usage(self) -> Usage:
        return Usage(used(self._generation), "engine")


async def whole(shape: Shape, generation: Generation, compute: Compute, first: str) -> Whole:
    """The answer in full, when it is there."""
    pieces = [first]
    while generation.finish_reason is None:
        pieces.append(await compute(generation.step))
    usage = used(generation)
    return Whole(shape.whole("".join(pieces), generation.finish_reason, usage), usage=Usage(usage, "engine"))


def used(generation: Generation) -> dict[str, int]:
    return token_counts(generation.prompt_tokens, generation.completion_tokens)
