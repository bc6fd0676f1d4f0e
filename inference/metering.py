"""What an answer used and said, read as it passes.

A streamed answer is Server-Sent Events with JSON, as OpenAI's API has them. Engines differ: some send no [DONE], some
end lines with CR LF, some report usage in every event. What goes on to the consumer is the events as they came, less
the usage report that only we asked for, and less [DONE], which is sent when the record is durable.
"""

import hashlib
import math
from typing import Any

import orjson

from inference.models import UsageSource

Usage = dict[str, int]

# Where nothing better is known: about four bytes of text make a token.
BYTES_PER_TOKEN = 4


# An event with none of these goes on unread.
_LOOK_INSIDE = (b'"usage"', b'"error"', b"[DONE]")


class StreamMeter:
    """Reads one streamed answer."""

    def __init__(self, *, pass_usage: bool, keep_text: bool) -> None:
        self.usage: Usage | None = None
        self.usage_source = UsageSource.ENGINE.value
        self.error: str | None = None
        self.events = 0  # that carried something for the consumer
        self.done = False
        self.text: list[str] = []
        self._pass_usage = pass_usage
        self._keep_text = keep_text
        self._carry = b""
        self._hash = hashlib.sha256()

    def feed(self, chunk: bytes) -> bytes:
        """What of the answer may go on to the consumer now: whole events."""
        data = self._carry + chunk if self._carry else chunk
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            self._carry = data
            return b""
        block, self._carry = data[:cut], data[cut:]
        if self._keep_text or not block.startswith(b"data:") or any(mark in block for mark in _LOOK_INSIDE):
            block = b"".join(filter(None, map(self._event, block.split(b"\n\n"))))
        else:
            self.events += block.count(b"\n\n")
        self._hash.update(block)
        return block

    def rest(self) -> bytes:
        """What came without the empty line that ends an event, at the end of the answer."""
        return self.feed(b"\n\n") if self._carry.strip() else b""

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _event(self, event: bytes) -> bytes:
        """One event, as it goes on: itself or nothing."""
        data = event.partition(b"data:")[2].strip()
        if not data:
            self._comment(event.strip())
            return b""
        if data == b"[DONE]":
            self.done = True
            return b""
        try:
            said = orjson.loads(data)
        except orjson.JSONDecodeError:
            return b""
        if not isinstance(said, dict):
            return b""
        return event.strip(b"\n") + b"\n\n" if self._goes_on(said) else b""

    def _comment(self, event: bytes) -> None:
        """What our agents add behind an engine that reports nothing: `: usage {"usage", "usage_source"}`."""
        if not event.startswith(b": usage "):
            return
        try:
            said = orjson.loads(event.removeprefix(b": usage "))
        except orjson.JSONDecodeError:
            return
        self.usage = usage_of(said) if isinstance(said, dict) else None
        if self.usage is not None and said.get("usage_source") in UsageSource.values:
            self.usage_source = said["usage_source"]

    def _goes_on(self, said: dict[str, Any]) -> bool:
        choices = said.get("choices")
        if not choices and said.get("error"):
            self.error = error_message(said)
            return False
        usage = usage_of(said)
        if usage is not None:
            self.usage = usage
        if not choices:
            return self._pass_usage and usage is not None
        self.events += 1
        if self._keep_text:
            self.text.append(text_of(said))
        return True


def usage_of(said: dict[str, Any]) -> Usage | None:
    """The engine's own report, if there is a sound one."""
    usage = said.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(key, 0) for key in ("prompt_tokens", "completion_tokens")]
    if not all(type(count) is int and 0 <= count < 2**31 for count in counts) or "prompt_tokens" not in usage:
        return None
    return {"prompt_tokens": counts[0], "completion_tokens": counts[1]}


def text_of(said: dict[str, Any]) -> str:
    """The text that an answer or a chunk of one adds, of its first choice."""
    choices = said.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    part = first.get("delta") or first.get("message") or first
    text = part.get("content") or part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


def error_message(said: dict[str, Any]) -> str:
    """What an engine's error says, whatever its shape."""
    error = said.get("error", said)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return str(error)[:500]


def estimate(*, request_bytes: int, answer_bytes: int = 0, events: int = 0) -> Usage:
    """Tokens where nobody has counted them: an event of a stream is one token, else four bytes are."""
    return {
        "prompt_tokens": math.ceil(request_bytes / BYTES_PER_TOKEN),
        "completion_tokens": events or math.ceil(answer_bytes / BYTES_PER_TOKEN),
    }
