"""A dataset's rows as a trainer takes them: read, split, and for language models turned into tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

Row = dict[str, Any]
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Split:
    train: list[Row]
    held_out: list[Row]


def read(path: str) -> list[Row]:
    """All rows of a file of JSON lines."""
    with Path(path).open("rb") as file:
        return [orjson.loads(line) for line in file if line.strip()]


def split(rows: str, validation: str, *, held_out: float, seed: int) -> Split:
    """Rows to train on, and rows to measure on: given, or a share taken out by chance; at least one of each."""
    train = read(rows)
    if validation:
        return Split(train, read(validation))
    order = list(range(len(train)))
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    count = min(max(1, round(len(train) * held_out)), max(1, len(train) - 1))
    chosen = set(order[:count])
    kept = [row for index, row in enumerate(train) if index not in chosen]
    return Split(kept or train, [train[index] for index in sorted(chosen)])


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and the same as labels where something is to be learned (IGNORED elsewhere)."""

    ids: list[int]
    labels: list[int]


class Tokens:
    """Turns rows into examples: only answers are learned; plain texts as a whole."""

    def __init__(self, tokenizer: Any, *, form: str, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._example = {
            "chat": self._chat,
            "completion": self._completion,
            "instruction": self._instruction,
            "text": self._text,
        }[form]
        self.cut = 0

    def examples(self, rows: Sequence[Row]) -> Iterator[Example]:
        """An example per row that has something to learn in it."""
        for row in rows:
            found = self._example(row)
            if len(found.ids) > self._max_length:
                self.cut += 1
                found = Example(found.ids[: self._max_length], found.labels[: self._max_length])
            if any(label != IGNORED for label in found.labels[1:]):
                yield found

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _end(self) -> list[int]:
        return [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]

    def _text(self, row: Row) -> Example:
        ids = self._encode(row["text"]) + self._end()
        return Example(ids, list(ids))

    def _completion(self, row: Row) -> Example:
        return _joined(
            (self._encode(row["prompt"]), False), (self._encode(row["completion"]) + self._end(), True)
        )

    def _instruction(self, row: Row) -> Example:
        asked = "\n\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
        if self._tokenizer.chat_template:
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
            return self._chat({"messages": messages})
        prompt = f"### Instruction:\n{asked}\n\n### Response:\n"
        return self._completion({"prompt": prompt, "completion": row["output"]})

    def _chat(self, row: Row) -> Example:
        """What the assistant says is learned; a message with `weight` 0 is not (OpenAI)."""
        messages, done = row["messages"], ""
        parts: list[tuple[str, bool]] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._rendered(messages[:index], asks=True)
            after = self._rendered(messages[: index + 1], asks=False)
            if not (before.startswith(done) and after.startswith(before)):
                # A template that rewrites what came before: the last answer alone can be told apart.
                before, done, parts = before, "", []
            parts += [(before[len(done) :], False), (after[len(before) :], message.get("weight", 1) != 0)]
            done = after
        return _joined(*((self._encode(text), learned) for text, learned in parts))

    def _rendered(self, messages: Sequence[Row], *, asks: bool) -> str:
        plain = [{name: value for name, value in each.items() if name != "weight"} for each in messages]
        if not self._tokenizer.chat_template:
            lines = "".join(f"{each['role']}: {each['content']}\n" for each in plain)
            return lines + ("assistant: " if asks else "")
        text: str = self._tokenizer.apply_chat_template(plain, add_generation_prompt=asks, tokenize=False)
        return text


def _joined(*parts: tuple[list[int], bool]) -> Example:
    ids = [each for piece, _ in parts for each in piece]
    labels = [each if learned else IGNORED for piece, learned in parts for each in piece]
    return Example(ids, labels)
