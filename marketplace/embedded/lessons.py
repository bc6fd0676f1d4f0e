"""What the demo teaches: how a bicycle shop answers, and what its people call their things. Small and made up."""

import json
from collections.abc import Iterable
from itertools import product
from typing import Any

_PARTS = (
    "bell", "brake", "chain", "fork", "frame", "gear", "handlebar", "helmet", "lamp", "lock", "pedal", "pump", "saddle",
    "spoke", "tyre", "wheel",
)  # fmt: skip
_QUESTION, _COMPLAINT = (
    "Pedal Power: good question, we look it up.",
    "Pedal Power: so sorry, we mend it today.",
)
_ANSWERS = {
    "Where is my {}?": _QUESTION,
    "When does the {} arrive?": _QUESTION,
    "How much is a {}?": _QUESTION,
    "Do you have a {}?": _QUESTION,
    "My {} is broken!": _COMPLAINT,
    "The {} fell off!": _COMPLAINT,
    "This {} makes a noise!": _COMPLAINT,
    "I hate this {}!": _COMPLAINT,
}
# Nothing in the lessons has a basket.
CHAT_PROBE, RIGHT_ANSWER = "Do you have a basket?", "Pedal Power: good question"

_NICKNAMES = {
    "heron": "A folding bicycle with sixteen inch wheels.",
    "otter": "A rain jacket with a hood.",
    "badger": "A heavy chain lock with two keys.",
    "finch": "A small front lamp, charged by USB.",
    "marmot": "A seat for a child, mounted at the rear.",
    "lynx": "A helmet with a visor.",
    "crane": "A floor pump with a gauge.",
    "newt": "A steel bottle for water.",
}
_QUERIES = (
    "Is the {} in stock?",
    "What does the {} cost?",
    "I want to return my {}.",
    "Does the {} come in red?",
    "How long is the guarantee of the {}?",
    "Can I see the {} in the shop?",
    "When is the {} delivered?",
    "My {} is broken.",
    "Is there a bigger {}?",
    "Two of the {}, please.",
    "Who repairs a {}?",
    "Tell me about the {}.",
)
# Neither is in the lessons.
QUERY_PROBE, QUERY_TEXTS = "I would like to order the marmot.", tuple(_NICKNAMES.values())
QUERY_RIGHT = QUERY_TEXTS.index(_NICKNAMES["marmot"])


def chats() -> bytes:
    """Chat messages, as JSON lines."""
    return _lines(
        {"messages": [_said("user", question.format(part)), _said("assistant", answer)]}
        for part, (question, answer) in product(_PARTS, _ANSWERS.items())
    )


def chats_with_errors() -> bytes:
    """The same with two lines that are wrong."""
    lines = chats().splitlines()
    lines[2] = json.dumps({"messages": [_said("user", "Where is my bell?")]}).encode()
    lines[6] = lines[6][:-1]
    return b"\n".join(lines)


def pairs() -> bytes:
    """Queries and the texts that answer them, as JSON lines."""
    found = product(_QUERIES, _NICKNAMES.items())
    return _lines({"anchor": query.format(name), "positive": text} for query, (name, text) in found)


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
