"""What a request asks of the local engine: OpenAI's parameters, checked, or refused clearly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpus.agent.engines import Answer, openai_error

MAX_STOPS = 8
MAX_SEED = 2**63
# Parameters that would change the answer in ways that the local engine does not know: harmless values.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "dimensions": (),
}


class BadRequest(Exception):
    """The request cannot be answered as it is. Rendered as OpenAI's error object, status 400."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.param, self.code = param, code
        super().__init__(message)

    def answer(self) -> Answer:
        return openai_error(str(self), code=self.code, param=self.param)


@dataclass(frozen=True, slots=True)
class Asked:
    """How to generate. None: as the model's configuration says; `max_tokens` None: as room allows."""

    stream: bool
    include_usage: bool
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    presence_penalty: float
    frequency_penalty: float


def read(request: dict[str, Any], *, default_max_tokens: int | None) -> Asked:
    """The parameters of a chat or completion request. Raises BadRequest."""
    refuse_unsupported(request)
    options = request.get("stream_options") or {}
    seed = _number(request, "seed", -MAX_SEED, MAX_SEED, whole=True)
    return Asked(
        stream=bool(request.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        max_tokens=_max_tokens(request, default_max_tokens),
        temperature=_number(request, "temperature", 0, 2),
        top_p=_number(request, "top_p", 0, 1),
        seed=None if seed is None else int(seed),
        stop=_stops(request.get("stop")),
        presence_penalty=_number(request, "presence_penalty", -2, 2) or 0.0,
        frequency_penalty=_number(request, "frequency_penalty", -2, 2) or 0.0,
    )


def refuse_unsupported(request: dict[str, Any]) -> None:
    """Raises BadRequest for the first parameter that would be ignored."""
    for name, neutral in _NEUTRAL.items():
        value = request.get(name)
        if value is not None and value not in neutral:
            raise BadRequest(
                f"This node's engine does not support {name}.", param=name, code="unsupported_parameter"
            )


def messages(request: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation as role and text. Raises BadRequest."""
    said = request.get("messages")
    if not isinstance(said, list) or not said:
        raise BadRequest("messages must be a list with at least one message.", param="messages")
    return [_message(each, f"messages[{index}]") for index, each in enumerate(said)]


def texts(value: Any, *, param: str) -> list[str] | list[list[int]]:
    """One or many inputs, as texts or as token ids. Raises BadRequest."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return list(value)
        if _are_tokens(value):
            return [value]
        if all(isinstance(each, list) and _are_tokens(each) for each in value):
            return list(value)
    raise BadRequest(f"{param} must be a text, or a list of texts, and not be empty.", param=param)


def _are_tokens(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadRequest(f"{where} must be an object with a role and a content.", param=where)
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": _content(message.get("content"), f"{where}.content")}


def _content(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRequest(f"{where} must be a text or a list of parts.", param=where)
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest(f"{where}: this model reads text only.", param=where, code="unsupported_content")
    return "\n".join(part["text"] for part in content)


def _max_tokens(request: dict[str, Any], default: int | None) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = _number(request, name, 1, 2**31, whole=True)
        if limit is not None:
            return int(limit)
    return default


def _number(
    request: dict[str, Any], name: str, least: float, most: float, *, whole: bool = False
) -> float | None:
    value = request.get(name)
    if value is None:
        return None
    kind = "a whole number" if whole else "a number"
    if (
        isinstance(value, bool)
        or not isinstance(value, int if whole else int | float)
        or not least <= value <= most
    ):
        raise BadRequest(f"{name} must be {kind} from {least} to {most}.", param=name)
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(each, str) for each in stops)
    ):
        raise BadRequest(f"stop must be a text or a list of at most {MAX_STOPS} texts.", param="stop")
    return tuple(each for each in stops if each)
