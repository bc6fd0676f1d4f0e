"""What the rows of a dataset may look like, and the one form in which trainers read each kind.

| format | rows as trainers read them | also understood |
| --- | --- | --- |
| chat | {"messages": [{"role", "content", "weight"?}]} | "conversations", also ShareGPT's [{"from", "value"}] |
| completion | {"prompt", "completion"} | "response" for "completion" |
| instruction | {"instruction", "input"?, "output"} | "response" for "output", "context" for "input" |
| text | {"text"} | "content", or nothing but a string |
| pairs | {"anchor", "positive", "score"?} | the usual names of two texts and a score, see `_PAIRS` and `_SCORES` |
| triplets | {"anchor", "positive", "negative"} | "query" for "anchor" |
| clicks | {"query", "results": [{"id", "text"}], "clicked": [id]} | sessions as the task-management API takes them |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from finetune.models import Format

Row: TypeAlias = dict[str, Any]
Value: TypeAlias = Mapping[str, Any] | str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong with a row. `field` as in `messages[2].role`; empty: the row as a whole."""

    field: str
    message: str
    fix: str


class WrongRow(Exception):
    """A row is not what its format says. `faults` are all that were found."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("; ".join(fault.message for fault in faults))


_PAIRS = (
    ("anchor", "positive"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("query", "document"),
    ("query", "passage"),
    ("query", "positive"),
    ("premise", "hypothesis"),
)
# Read as these only where the format is named: they may as well be meant otherwise.
_TOLD_PAIRS = (("question", "answer"), ("query", "answer"), ("prompt", "completion"))
_TRIPLETS = (("anchor", "positive", "negative"), ("query", "positive", "negative"))
_INSTRUCTIONS = (("instruction", "output"), ("instruction", "response"))
_INPUTS = ("input", "context")
_TOLD_INSTRUCTIONS = (("question", "answer"), ("prompt", "completion"), ("prompt", "response"))
_COMPLETIONS = (("prompt", "completion"), ("prompt", "response"))
_TOLD_COMPLETIONS = (("question", "answer"), ("instruction", "output"))
_TEXTS = (("text",), ("content",))
_SCORES = ("score", "label", "similarity", "similarity_score", "relevance")
_CHATS = ("messages", "conversations")
_QUERIES = ("query", "search_query")
_RESULTS = ("results", "search_results")
_CLICKED = ("clicked", "events")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_RESULT_TEXTS = ("text", "title", "name", "content", "description")
MAX_SCORE = 1e6

KNOWN = (
    "messages; prompt and completion; instruction and output; text; anchor and positive (and negative); "
    "sentence1, sentence2 and score; query, results and clicked"
)


def recognise(value: Value) -> Format | None:
    """Which format a row is in, by the names of its fields; None where it is none of them."""
    if isinstance(value, str):
        return Format.TEXT
    if any(name in value for name in _CHATS):
        return Format.CHAT
    if any(name in value for name in _RESULTS) and any(name in value for name in _QUERIES):
        return Format.CLICKS
    by_names = (
        (Format.TRIPLETS, _TRIPLETS),
        (Format.PAIRS, _PAIRS),
        (Format.INSTRUCTION, _INSTRUCTIONS),
        (Format.COMPLETION, _COMPLETIONS),
        (Format.TEXT, _TEXTS),
    )
    return next((form for form, ways in by_names if _way(value, ways) is not None), None)


def unknown(value: Value) -> Fault:
    """What is wrong with a row in no format that is known."""
    names = ", ".join(repr(name[:40]) for name in list(value)[:10])
    return Fault(
        "",
        f"None of the known formats has the fields {names or 'of an empty object'}.",
        f"Name the fields as one of the formats does: {KNOWN}.",
    )


def canonical(form: Format, value: Value) -> Row:
    """A row in the form that trainers read. Raises WrongRow."""
    if isinstance(value, str):
        if form is not Format.TEXT:
            raise WrongRow(Fault("", "This is a string, not an object.", "Write an object: {…}."))
        value = {"text": value}
    return _READERS[form](value)


def is_scored(form: Format, row: Row) -> bool:
    """Whether a row in its canonical form carries a score."""
    return form is Format.PAIRS and "score" in row


def texts(row: Row) -> Iterator[str]:
    """All texts of a canonical row."""
    for value in row.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, dict):
                    yield from (text for name, text in each.items() if name in ("content", "text"))


def _way(value: Mapping[str, Any], ways: tuple[tuple[str, ...], ...]) -> tuple[str, ...] | None:
    """The first set of names that are all there."""
    return next((way for way in ways if all(name in value for name in way)), None)


def _names(value: Mapping[str, Any], ways: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """The set of names that fits best: where some are missing, the one that most are there of."""
    return max(ways, key=lambda way: (sum(name in value for name in way), -ways.index(way)))


def _fields(
    value: Mapping[str, Any], ways: tuple[tuple[str, ...], ...], canon: tuple[str, ...], empty: str = ""
) -> Row:
    """These texts under their canonical names. Of `empty` an empty one is taken, too. Raises WrongRow."""
    names, row, faults = _names(value, ways), {}, []
    for name, final in zip(names, canon, strict=True):
        fault = _text_fault(value, name, may_be_empty=final == empty)
        if fault is not None:
            faults.append(fault)
        else:
            row[final] = value[name]
    if faults:
        raise WrongRow(*faults)
    return row


def _text_fault(value: Mapping[str, Any], name: str, *, may_be_empty: bool = False) -> Fault | None:
    if name not in value:
        return Fault(name, f"{name} is missing.", f'Add "{name}" to this row.')
    said = value[name]
    if not isinstance(said, str):
        return Fault(name, f"{name} is {_kind(said)}, not a text.", 'Write it as a string: "…".')
    if not may_be_empty and not said.strip():
        return Fault(name, f"{name} is empty.", "Fill it in, or take the row out.")
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    return {int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text"}.get(
        type(value), f"of the type {type(value).__name__}"
    )


def _text(value: Mapping[str, Any]) -> Row:
    return _fields(value, _TEXTS, ("text",))


def _completion(value: Mapping[str, Any]) -> Row:
    return _fields(value, _COMPLETIONS + _TOLD_COMPLETIONS, ("prompt", "completion"), empty="prompt")


def _instruction(value: Mapping[str, Any]) -> Row:
    row = _fields(value, _INSTRUCTIONS + _TOLD_INSTRUCTIONS, ("instruction", "output"))
    name = next((name for name in _INPUTS if name in value), "input")
    said = value.get(name)
    if said is not None and not isinstance(said, str):
        raise WrongRow(
            Fault(name, f"{name} is {_kind(said)}, not a text.", "Write a string, or leave it out.")
        )
    if said:
        return {"instruction": row["instruction"], "input": said, "output": row["output"]}
    return row


def _triplet(value: Mapping[str, Any]) -> Row:
    return _fields(value, _TRIPLETS, ("anchor", "positive", "negative"))


def _pair(value: Mapping[str, Any]) -> Row:
    row = _fields(value, _PAIRS + _TOLD_PAIRS, ("anchor", "positive"))
    name = next((name for name in _SCORES if name in value), None)
    if name is not None and value[name] is not None:
        row["score"] = _score(value[name], name)
    return row


def _score(said: Any, name: str) -> float:
    """A score, also one that is written as a text (as in CSV)."""
    try:
        found = math.nan if isinstance(said, bool) else float(said)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= MAX_SCORE:
        raise WrongRow(
            Fault(
                name, f"{name} is no number that can be a score.",
                "Write a number, such as 0.8: the more alike the two texts are, the higher. Or leave it out.",
            )
        )  # fmt: skip
    return found


def _chat(value: Mapping[str, Any]) -> Row:
    name = next((name for name in _CHATS if name in value), "messages")
    said = value.get(name)
    if not isinstance(said, list) or not said:
        what = (
            "is missing" if name not in value else "is not a list of messages" if said != [] else "is empty"
        )
        raise WrongRow(Fault(name, f"{name} {what}.", 'Write a list: [{"role": "user", "content": "…"}, …].'))
    messages: list[Row] = []
    faults: list[Fault] = []
    for index, each in enumerate(said):
        try:
            messages.append(_reader(name, each)(each, f"{name}[{index}]"))
        except WrongRow as error:
            faults += error.faults
    if not faults and not any(each["role"] == "assistant" and each.get("weight", 1) for each in messages):
        faults.append(
            Fault(
                name, "There is no answer of the assistant to learn from.",
                'Add a message with the role "assistant" (and a weight that is not 0).',
            )
        )  # fmt: skip
    if faults:
        raise WrongRow(*faults)
    return {"messages": messages}


def _reader(name: str, said: Any) -> Callable[[Any, str], Row]:
    """How a message is read: under the same name some have OpenAI's fields, and others ShareGPT's."""
    is_sharegpt = name != "messages" and not (isinstance(said, dict) and "role" in said)
    return _sharegpt if is_sharegpt else _message


def _message(said: Any, at: str) -> Row:
    if not isinstance(said, dict):
        raise WrongRow(
            Fault(at, f"{at} is {_kind(said)}, not a message.", '{"role": "user", "content": "…"}')
        )
    role = said.get("role")
    faults: list[Fault] = []
    if said.get("tool_calls") or said.get("function_call") or role in ("tool", "function"):
        raise WrongRow(
            Fault(at, "Calls of tools cannot be learned here.", "Take the calls and their results out.")
        )
    if not isinstance(role, str) or role not in _ROLES:
        shown = repr(role)[:50] if "role" in said else "missing"
        faults.append(Fault(f"{at}.role", f"The role is {shown}.", f"Use one of {', '.join(_ROLES)}."))
    content = _content(said.get("content"), f"{at}.content", faults)
    weight = said.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1) or role != "assistant"):
        faults.append(
            Fault(
                f"{at}.weight",
                "A weight is 0 or 1, on messages of the assistant.",
                "Correct it, or leave it out.",
            )
        )
    if faults:
        raise WrongRow(*faults)
    row: Row = {"role": _ROLES[str(role)], "content": content}
    return row if weight is None else {**row, "weight": int(weight)}


def _content(said: Any, at: str, faults: list[Fault]) -> str:
    """The text of a message, also where it is given in parts."""
    if isinstance(said, list) and said:
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            for part in said
        ]
        if not all(isinstance(part, str) for part in parts):
            faults.append(Fault(at, "Only text can be learned here.", "Leave out images, sound and files."))
            return ""
        said = "".join(map(str, parts))
    if not isinstance(said, str):
        what = "missing" if said is None else _kind(said) + ", not a text"
        faults.append(Fault(at, f"The content is {what}.", 'Write it as a string: "…".'))
        return ""
    if not said.strip():
        faults.append(Fault(at, "The content is empty.", "Fill it in, or take the message out."))
    return said


def _sharegpt(said: Any, at: str) -> Row:
    if not isinstance(said, dict):
        raise WrongRow(Fault(at, f"{at} is {_kind(said)}, not a message.", '{"from": "human", "value": "…"}'))
    role = said.get("from")
    faults: list[Fault] = []
    if not isinstance(role, str) or role not in _SHAREGPT:
        shown = repr(role)[:50] if "from" in said else "missing"
        faults.append(Fault(f"{at}.from", f"The sender is {shown}.", f"Use one of {', '.join(_SHAREGPT)}."))
    content = _content(said.get("value"), f"{at}.value", faults)
    if faults:
        raise WrongRow(*faults)
    return {"role": _SHAREGPT[str(role)], "content": content}


def _clicks(value: Mapping[str, Any]) -> Row:
    query = next((name for name in _QUERIES if name in value), "query")
    name = next((name for name in _RESULTS if name in value), "results")
    fault = _text_fault(value, query)
    faults = [fault] if fault else []
    results = _results(value.get(name), name, faults)
    ids = {each["id"] for each in results}
    if len(ids) < len(results):
        faults.append(Fault(name, "Two results have the same id.", "Give each result an id of its own."))
    clicked = _clicked(value, results, faults)
    if not faults and not set(clicked) <= ids:
        there = next(each for each in clicked if each not in ids)
        faults.append(
            Fault(
                _click_name(value),
                f"{there[:100]!r} was clicked, but is none of the results.",
                f"Add it to {name}.",
            )
        )
    if faults:
        raise WrongRow(*faults)
    return {"query": value[query], "results": results, "clicked": clicked}


def _click_name(value: Mapping[str, Any]) -> str:
    return next((name for name in _CLICKED if name in value), "clicked")


def _results(said: Any, name: str, faults: list[Fault]) -> list[Row]:
    if not isinstance(said, list) or not said:
        faults.append(
            Fault(name, f"{name} is not a list of results.", 'Write [{"id": "…", "text": "…"}, …].')
        )
        return []
    found = []
    for index, each in enumerate(said):
        row = _result(each, index)
        if row is None:
            faults.append(
                Fault(
                    f"{name}[{index}]", "The result has no id, or no text.", 'Write {"id": "…", "text": "…"}.'
                )
            )
        else:
            found.append(row)
    return found


def _result(said: Any, index: int) -> Row | None:
    """A result's id and text. Of one that is only a text, its place is the id."""
    if isinstance(said, str):
        return {"id": str(index), "text": said} if said.strip() else None
    if not isinstance(said, dict):
        return None
    number = _id(said.get("id", said.get("object_id")))
    text = _result_text(said) or _result_text(said.get("meta")) or _result_text(said.get("payload"))
    return {"id": number, "text": text} if number and text else None


def _result_text(said: Any) -> str | None:
    if isinstance(said, str):
        return said if said.strip() else None
    if not isinstance(said, dict):
        return None
    found = (said.get(name) for name in _RESULT_TEXTS)
    return next((text for text in found if isinstance(text, str) and text.strip()), None)


def _id(said: Any) -> str | None:
    if isinstance(said, bool) or not isinstance(said, str | int):
        return None
    return str(said) or None


def _clicked(value: Mapping[str, Any], results: list[Row], faults: list[Fault]) -> list[str]:
    """The ids that were clicked, each once. A session without any is one whose results were all irrelevant."""
    name = _click_name(value)
    said = value.get(name)
    if said is None and value.get("is_irrelevant") is True:
        return []
    if not isinstance(said, list):
        faults.append(
            Fault(name, f"{name} is not a list of ids.", f'Write the ids of the {name} results: ["…"].')
        )
        return []
    found: dict[str, None] = {}
    for index, each in enumerate(said):
        number = _id(each.get("object_id", each.get("id")) if isinstance(each, dict) else each)
        if number is None:
            faults.append(
                Fault(f"{name}[{index}]", "This is no id of a result.", "Name the result by its id.")
            )
        elif not isinstance(each, dict) or each.get("event_type", "click") == "click":
            found[number] = None
    return list(found)


_READERS: dict[Format, Callable[[Mapping[str, Any]], Row]] = {
    Format.CHAT: _chat,
    Format.COMPLETION: _completion,
    Format.INSTRUCTION: _instruction,
    Format.TEXT: _text,
    Format.PAIRS: _pair,
    Format.TRIPLETS: _triplet,
    Format.CLICKS: _clicks,
}
