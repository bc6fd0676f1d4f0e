"""Rows for language models as tokens: which are read, and which are learned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.trainer.rows import Row

IGNORED = -100
_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")

# A piece of text, and whether it is learned.
Part = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and the same as labels where something is to be learned (IGNORED elsewhere)."""

    ids: list[int]
    labels: list[int]


class Examples:
    """Turns rows into examples: only answers are learned; plain texts as a whole.

    `cut` counts those that were longer than `max_length`, `skipped` those in which nothing is left to be learned.
    """

    def __init__(self, tokenizer: Any, *, form: str, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._example = {
            "chat": self._chat,
            "completion": self._completion,
            "instruction": self._instruction,
            "text": self._text,
        }[form]
        first = tokenizer("")["input_ids"][:1]
        self._begin = first if first and first[0] == tokenizer.bos_token_id else []
        self._end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.cut = self.skipped = 0

    def of(self, rows: Sequence[Row]) -> Iterator[Example]:
        """An example per row that has something to learn in it."""
        for row in rows:
            found = self._example(row)
            if len(found.ids) > self._max_length:
                self.cut += 1
                found = Example(found.ids[: self._max_length], found.labels[: self._max_length])
            if any(label != IGNORED for label in found.labels[1:]):
                yield found
            else:
                self.skipped += 1

    def _text(self, row: Row) -> Example:
        return self._framed([(row["text"], True)])

    def _completion(self, row: Row) -> Example:
        return self._framed([(row["prompt"], False), (row["completion"], True)])

    def _instruction(self, row: Row) -> Example:
        asked = "\n\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
        if self._tokenizer.chat_template:
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
            return self._chat({"messages": messages})
        prompt = f"### Instruction:\n{asked}\n\n### Response:\n"
        return self._framed([(prompt, False), (row["output"], True)])

    def _framed(self, parts: Sequence[Part]) -> Example:
        """Between the marks of a text's begin and end, as the tokenizer has them."""
        found = self._joined(parts)
        labels = [IGNORED] * len(self._begin) + found.labels + self._end
        return Example(self._begin + found.ids + self._end, labels)

    # Conversations

    def _chat(self, row: Row) -> Example:
        """What the assistant says is learned; a message with `weight` 0 is not (as OpenAI has it)."""
        messages = row["messages"]
        template = self._tokenizer.chat_template
        if isinstance(template, str) and _MARKS_ANSWERS.search(template):
            found = self._marked(messages)
            if found is not None:
                return found
        return self._joined(self._parts(messages))

    def _marked(self, messages: Sequence[Row]) -> Example | None:
        """By the template's own marks of what the assistant says; None where they do not tell its messages apart."""
        said = self._tokenizer.apply_chat_template(
            _plain(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = list(said["input_ids"]), list(said["assistant_masks"])
        weights = [message.get("weight", 1) for message in messages if message["role"] == "assistant"]
        runs = _runs(mask)
        if len(runs) != len(weights):
            return Example(ids, _where(ids, mask)) if runs and all(weights) else None
        for (start, end), weight in zip(runs, weights, strict=True):
            if not weight:
                mask[start:end] = [0] * (end - start)
        return Example(ids, _where(ids, mask))

    def _parts(self, messages: Sequence[Row]) -> list[Part]:
        """By what the template adds when the assistant's next message is there."""
        parts: list[Part] = []
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._rendered(messages[:index], asks=True)
            after = self._rendered(messages[: index + 1], asks=False)
            if not after.startswith(before):
                # A template that has another beginning for answers that are there than for those asked for.
                before = _common(before, after)
            if not before.startswith(done):
                # One that rewrites what came before (drops thoughts, say): the last answer alone is as it will be.
                parts, done = [], ""
            parts += [(before[len(done) :], False), (after[len(before) :], message.get("weight", 1) != 0)]
            done = after
        return parts

    def _rendered(self, messages: Sequence[Row], *, asks: bool) -> str:
        plain = _plain(messages)
        if not self._tokenizer.chat_template:
            lines = "".join(f"{each['role']}: {each['content']}\n" for each in plain)
            return lines + ("assistant: " if asks else "")
        text: str = self._tokenizer.apply_chat_template(plain, add_generation_prompt=asks, tokenize=False)
        return text

    # Tokens

    def _joined(self, parts: Sequence[Part]) -> Example:
        """Tokens of the whole text; where one would lie across a border between what is learned and what is not, of
        the pieces by themselves, as the tokens of an answer follow those of a question."""
        text = "".join(piece for piece, _ in parts)
        learned: list[bool] = [is_learned for piece, is_learned in parts for _ in piece]
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = found["input_ids"], found["offset_mapping"]
        if all(len(set(learned[start:end])) <= 1 for start, end in spans):
            return Example(ids, _where(ids, [start < end and learned[start] for start, end in spans]))
        ids, mask = [], []
        for piece, is_learned in parts:
            tokens = self._tokenizer.encode(piece, add_special_tokens=False)
            ids += tokens
            mask += [is_learned] * len(tokens)
        return Example(ids, _where(ids, mask))


def _plain(messages: Sequence[Row]) -> list[Row]:
    return [{name: value for name, value in each.items() if name != "weight"} for each in messages]


def _where(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    return [token if learned else IGNORED for token, learned in zip(ids, mask, strict=True)]


def _runs(mask: Sequence[int]) -> list[tuple[int, int]]:
    """Where it is set: starts and ends."""
    edges = [
        index
        for index in range(len(mask) + 1)
        if (mask[index - 1 : index] or [0]) != (mask[index : index + 1] or [0])
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _common(one: str, other: str) -> str:
    """What both begin with."""
    length = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return one[:length]
