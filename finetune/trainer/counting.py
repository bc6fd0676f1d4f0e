"""Counts the tokens of rows in a process of its own: `python -m finetune.trainer.counting TOKENIZER ROWS MOST_BYTES`.

A tokenizer is whatever a stranger has sent: one that makes a book of each letter may fill this process's memory and
take its time, and nobody else's. Prints {"tokens": of the rows that were read, "bytes": how many were read}.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from finetune.trainer.child import environment

# Counting 32 MiB takes some seconds, and less than 1 GiB.
_MEMORY, _CPU_S, _WALL_S = 4 * 1024**3, 120, 60
_BATCH_BYTES = 1024 * 1024
# Roles, and the ids of results. What templates put around a message, the role included, is taken for so many tokens.
_NOT_READ, _MARKS = frozenset(("role", "name", "id", "clicked")), 4


class CannotCount(Exception):
    """The tokenizer is none, or makes too much of the rows."""


def count(tokenizer: Path, rows: Path, *, most_bytes: int) -> tuple[int, int]:
    """Tokens, and the bytes that they were counted in: all, or the first `most_bytes`. Raises CannotCount."""
    command = [sys.executable, "-m", __name__, str(tokenizer), str(rows), str(most_bytes)]
    # Each thread of a tokenizer takes memory of its own.
    env = {**environment(), "RAYON_NUM_THREADS": "4"}
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command, cwd=Path(__file__).resolve().parents[2], env=env, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=_WALL_S, check=True,
        )  # fmt: skip
        said = orjson.loads(done.stdout)
        return int(said["tokens"]), int(said["bytes"])
    except (subprocess.SubprocessError, orjson.JSONDecodeError, KeyError) as error:
        raise CannotCount from error


def _counted(tokenizer_file: Path, rows: Path, most_bytes: int) -> dict[str, int]:
    from tokenizers import Tokenizer  # noqa: PLC0415 - in the child alone

    tokenizer = Tokenizer.from_buffer(tokenizer_file.read_bytes())
    tokenizer.no_truncation()
    # Some models' tokenizers fill every text up to one length.
    tokenizer.no_padding()
    read = found = 0
    with rows.open("rb") as file:
        while read < most_bytes and (batch := file.readlines(_BATCH_BYTES)):
            rows_here = [orjson.loads(line) for line in batch]
            texts = [text for row in rows_here for text in _texts(row)]
            read_as = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            found += sum(len(each.ids) for each in read_as) + _MARKS * sum(map(_messages, rows_here))
            read += sum(map(len, batch))
    return {"tokens": found, "bytes": read}


def _texts(value: Any) -> Iterator[str]:
    """All texts in a row that a model reads."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            if name not in _NOT_READ:
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _messages(row: Mapping[str, Any]) -> int:
    """How many messages a chat template makes of a row."""
    return 2 if "instruction" in row else len(row.get("messages", ()))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.write(1, orjson.dumps(_counted(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
