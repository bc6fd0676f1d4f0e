"""What a task on a chain can ask of a model: functions by name, what each takes, and how that becomes a request to the
marketplace's own API and its reply an answer.

The usual ones are here. An operator may define others for a source:
    {"analyze_sentiment": {"kind": "chat", "prompt": "Positive or negative? {text}", "schema": {…JSON schema…}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry

from inference.metering import text_of
from inference.models import Kind
from marketplace.errors import InvalidRequest

# Either of the two, whichever the model does.
TEXT = "text"
TRAINING = "training"
CUSTOM_KINDS = (Kind.CHAT.value, Kind.COMPLETION.value, Kind.EMBEDDING.value, TEXT)
# How long an answer may be where the task does not say: what it can cost must be known before.
USUAL_TOKENS = 256
MOST_TOKENS = 1_000_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SHOWN = 300
# Of the errors in a stranger's data the best of so many is told: a megabyte can hold half a million.
_MOST_ERRORS = 100
_OWN_KEYS = {"kind", "prompt", "system", "schema", "parameters", "description"}


class UnknownFunction(InvalidRequest):
    code = "unknown_function"


class BadInput(InvalidRequest):
    """The task's data are not what its function takes. The sentence names the field."""

    code = "invalid_input"


class BadDefinition(InvalidRequest):
    """An operator's definition of a function is wrong."""

    code = "invalid_function"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """`schema`: of its input, JSON Schema 2020-12. `prompt` and `system` with {places} for fields of the input."""

    name: str
    kind: str
    description: str
    schema: Mapping[str, Any]
    prompt: str = ""
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What the marketplace's API is to be asked."""

    kind: Kind
    body: dict[str, Any]


_COUNT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": MOST_TOKENS, "default": USUAL_TOKENS}
# No `anyOf` about what a stranger may make long: all errors of all its branches are kept, kilobytes for each item.
_STOP: dict[str, Any] = {"type": ["string", "null", "array"], "items": {"type": "string"}, "maxItems": 16}
_SAMPLING: dict[str, Any] = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {"type": "integer"},
    "stop": _STOP,
}
_OPENAI: dict[str, Any] = {
    **_SAMPLING,
    "model": {"type": "string", "minLength": 1, "maxLength": 255},
    "max_tokens": _COUNT,
    "n": {"type": "integer", "minimum": 1, "maximum": 16},
    "stream": {"const": False},
}
_CHAT: dict[str, Any] = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        **_OPENAI,
        "max_completion_tokens": _COUNT,
        "messages": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1000,
            "items": {
                "type": "object",
                "required": ["role"],
                "properties": {"role": {"type": "string", "minLength": 1, "maxLength": 20}},
            },
        },
    },
}
_COMPLETION: dict[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "properties": {**_OPENAI, "prompt": {"type": "string", "minLength": 1}},
}
_TEXTS: dict[str, Any] = {
    "type": ["string", "array"],
    "minLength": 1,
    "minItems": 1,
    "maxItems": 2048,
    "items": {"type": "string", "minLength": 1},
}
_EMBEDDING: dict[str, Any] = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "model": _OPENAI["model"],
        "input": _TEXTS,
        "dimensions": {"type": "integer", "minimum": 1},
        "encoding_format": {"enum": ["float", "base64"]},
    },
}
_INFERENCE: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "model": _OPENAI["model"],
        "inputs": {"type": "string", "minLength": 1},
        "parameters": {
            "type": "object",
            "properties": {
                **_SAMPLING,
                "max_new_tokens": _COUNT,
                "stop_sequences": _STOP,
                "do_sample": {"type": "boolean"},
            },
        },
    },
}
_TRAINING: dict[str, Any] = {
    "type": "object",
    "required": ["training_data"],
    "additionalProperties": False,
    "properties": {
        "model": _OPENAI["model"],
        "training_data": {
            "description": "The rows themselves, or a link to a file of them.",
            "type": ["string", "array"],
            "minLength": 1,
            "maxLength": 4096,
            "minItems": 2,
            "items": {"type": "object"},
        },
        "suffix": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        "hyperparameters": {
            "type": "object",
            "additionalProperties": {"type": ["number", "string", "boolean"]},
        },
    },
}


def _usual(kind: str, schema: dict[str, Any], description: str, *names: str) -> dict[str, Function]:
    return {name: Function(name=name, kind=kind, schema=schema, description=description) for name in names}


USUAL: dict[str, Function] = {
    **_usual(Kind.CHAT, _CHAT, "An answer to messages, as OpenAI's API has it.", "chat", "chat_completion"),
    **_usual(Kind.COMPLETION, _COMPLETION, "How a text goes on, as OpenAI's API has it.", "completion"),
    **_usual(
        Kind.EMBEDDING, _EMBEDDING, "Vectors of texts, as OpenAI's API has it.", "embedding", "embeddings"
    ),
    **_usual(TEXT, _INFERENCE, "A text for a text.", "inference", "generate"),
    **_usual(TRAINING, _TRAINING, "A model, fine-tuned on rows of yours.", "fine_tune", "fine_tuning"),
}


def of(defined: Mapping[str, Any]) -> dict[str, Function]:
    """The usual functions, and those that an operator has defined, which come first. Raises BadDefinition."""
    return USUAL | {name: _own(name, said) for name, said in defined.items()}


def find(name: Any, defined: Mapping[str, Any]) -> Function:
    """Raises UnknownFunction."""
    known = of(defined)
    if not isinstance(name, str) or name not in known:
        shown = repr(name)[:100]
        raise UnknownFunction(f"There is no function {shown}. There are {', '.join(sorted(known))}.")
    return known[name]


def check(function: Function, data: Any) -> None:
    """Raise BadInput, with the field that is wrong, unless `data` are what a function takes."""
    found = Draft202012Validator(function.schema, registry=Registry()).iter_errors(data)
    error = best_match(islice(found, _MOST_ERRORS))
    if error is None:
        return
    said = error.message if len(error.message) <= _SHOWN else error.message[:_SHOWN] + "…"
    raise BadInput(f"{error.json_path.replace('$', 'data', 1)[:_SHOWN]}: {said}")


def model_of(data: Any) -> str:
    """The model that a task names itself; empty where it names none."""
    named = data.get("model") if isinstance(data, dict) else None
    return named if isinstance(named, str) else ""


def request(function: Function, data: Mapping[str, Any], *, model: str, kinds: Collection[str]) -> Request:
    """What to ask for a task whose data were checked. `kinds`: what the model does."""
    if function.prompt:
        kind = _text_kind(kinds) if function.kind == TEXT else Kind(function.kind)
        return _of_prompt(function, kind, data, model)
    if function.kind == TEXT:
        return _of_inputs(_text_kind(kinds), data, model)
    kind = Kind(function.kind)
    body = {name: value for name, value in data.items() if name not in ("stream", "stream_options")}
    if kind is not Kind.EMBEDDING and "max_completion_tokens" not in body:
        body.setdefault("max_tokens", USUAL_TOKENS)
    return Request(kind, {**body, "model": model})


def result(function: Function, kind: Kind, reply: dict[str, Any]) -> dict[str, Any]:
    """What the answer says, from the API's reply."""
    if kind is Kind.EMBEDDING or not (function.prompt or function.kind == TEXT):
        return reply
    about: dict[str, Any] = {name: reply[name] for name in ("model", "usage") if name in reply}
    return {"result" if function.prompt else "generated_text": text_of(reply), **about}


def described(defined: Mapping[str, Any], kinds: Collection[str]) -> dict[str, Any]:
    """Functions for documents: those that a model of these kinds can do."""
    texts = {Kind.CHAT.value, Kind.COMPLETION.value}
    return {
        name: {"kind": each.kind, "description": each.description, "input": each.schema}
        for name, each in of(defined).items()
        if each.kind in kinds or (each.kind == TEXT and texts & set(kinds))
    }


def _text_kind(kinds: Collection[str]) -> Kind:
    return next((kind for kind in (Kind.CHAT, Kind.COMPLETION, Kind.EMBEDDING) if kind in kinds), Kind.CHAT)


def _of_text(kind: Kind, text: str, options: dict[str, Any], system: str = "") -> Request:
    if kind is Kind.EMBEDDING:
        return Request(kind, {"model": options["model"], "input": text})
    if kind is Kind.COMPLETION:
        return Request(kind, {**options, "prompt": f"{system}\n\n{text}" if system else text})
    before = [{"role": "system", "content": system}] if system else []
    return Request(kind, {**options, "messages": [*before, {"role": "user", "content": text}]})


def _of_inputs(kind: Kind, data: Mapping[str, Any], model: str) -> Request:
    """As text-generation servers have it: `inputs` and `parameters`."""
    said = data.get("parameters", {})
    options = {name: said[name] for name in _SAMPLING if name in said}
    if "stop_sequences" in said:
        options["stop"] = said["stop_sequences"]
    if said.get("do_sample") is False:
        options["temperature"] = 0
    options |= {"model": model, "max_tokens": said.get("max_new_tokens", USUAL_TOKENS)}
    return _of_text(kind, data["inputs"], options)


def _of_prompt(function: Function, kind: Kind, data: Mapping[str, Any], model: str) -> Request:
    options = {"max_tokens": USUAL_TOKENS, **function.parameters, "model": model}
    return _of_text(kind, _filled(function.prompt, data), options, _filled(function.system, data))


def _filled(template: str, data: Mapping[str, Any]) -> str:
    """A template with fields of the data in its places, each once: what a field says is not read as a template."""

    def value(place: re.Match[str]) -> str:
        said = data.get(place[1], "")
        return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)

    return _PLACE.sub(value, template)


def _own(name: str, said: Any) -> Function:
    """An operator's function. Raises BadDefinition."""
    if not _NAME.fullmatch(name) or not isinstance(said, dict):
        raise BadDefinition(f"{name[:100]!r} must be a name, and lead to an object.")
    if more := said.keys() - _OWN_KEYS:
        known = ", ".join(sorted(_OWN_KEYS))
        raise BadDefinition(f"{name}: {', '.join(sorted(more))[:200]} mean nothing; there are {known}.")
    kind, prompt = said.get("kind", TEXT), said.get("prompt")
    if kind not in CUSTOM_KINDS or not isinstance(prompt, str) or not prompt:
        raise BadDefinition(f"{name}: `kind` must be one of {', '.join(CUSTOM_KINDS)}, and `prompt` a text.")
    texts = {key: said.get(key, "") for key in ("system", "description")}
    parameters = said.get("parameters", {})
    if not all(isinstance(each, str) for each in texts.values()) or not isinstance(parameters, dict):
        raise BadDefinition(f"{name}: `system` and `description` must be texts, `parameters` an object.")
    return Function(
        name=name, kind=kind, prompt=prompt, parameters=parameters, schema=_schema(name, said, prompt), **texts
    )  # fmt: skip


def _schema(name: str, said: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """Where none is given: all places of the prompt, as texts."""
    schema = said.get("schema")
    if schema is None:
        places = dict.fromkeys(_PLACE.findall(prompt))
        return {
            "type": "object",
            "required": list(places),
            "properties": {each: {"type": "string"} for each in places},
        }
    try:
        if not isinstance(schema, dict):
            raise BadDefinition(f"{name}: `schema` must be an object.")
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise BadDefinition(f"{name}: `schema` is no JSON schema: {error.message[:_SHOWN]}") from None
    return {"type": "object", **schema}
