"""Rows to train on, and rows to measure on."""

from pathlib import Path
from typing import Any

import pytest

from finetune.trainer import rows
from finetune.trainer.errors import BadData
from tests.finetune.trainer.conftest import written


def split(
    path: Path, form: str = "text", *, held_out: float = 0.2, seed: int = 1, validation: str = ""
) -> rows.Split:
    return rows.split(str(path), validation, form=form, held_out=held_out, seed=seed)


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": str(number)} for number in range(count)]


def test_a_share_is_held_out_and_the_rest_stays_in_order(tmp_path: Path) -> None:
    found = split(written(tmp_path / "rows", texts(50)))
    assert len(found.held_out) == 10
    assert found.train == [row for row in texts(50) if row not in found.held_out]


def test_the_seed_decides_which(tmp_path: Path) -> None:
    path = written(tmp_path / "rows", texts(50))
    assert split(path) == split(path) != split(path, seed=2)


def test_equal_rows_are_on_the_same_side(tmp_path: Path) -> None:
    found = split(written(tmp_path / "rows", texts(10) * 5))
    assert not [row for row in found.held_out if row in found.train]
    assert (len(found.train), len(found.held_out)) == (40, 10)


def test_equal_questions_are_on_the_same_side(tmp_path: Path) -> None:
    pairs = [{"anchor": str(number // 2), "positive": str(number)} for number in range(20)]
    found = split(written(tmp_path / "rows", pairs), "pairs")
    assert not {row["anchor"] for row in found.held_out} & {row["anchor"] for row in found.train}


def test_given_rows_are_what_is_measured_on(tmp_path: Path) -> None:
    validation = written(tmp_path / "others", [{"text": "x"}])
    found = split(written(tmp_path / "rows", texts(5)), validation=str(validation))
    assert (found.train, found.held_out) == (texts(5), [{"text": "x"}])


def test_no_more_is_measured_on_than_makes_sense(tmp_path: Path) -> None:
    path = written(tmp_path / "rows", texts(3 * rows.MOST_MEASURED))
    assert len(split(path, held_out=0.5).held_out) == rows.MOST_MEASURED
    assert len(split(path, validation=str(path)).held_out) == rows.MOST_MEASURED


def test_a_single_row_is_on_both_sides(tmp_path: Path) -> None:
    assert split(written(tmp_path / "rows", texts(1))) == rows.Split(texts(1), texts(1))
    assert split(written(tmp_path / "rows", texts(1) * 3)) == rows.Split(texts(1) * 3, texts(1) * 3)


def test_searches_that_tell_nothing_are_for_training_only(tmp_path: Path) -> None:
    results = [{"id": "a", "text": "A"}, {"id": "b", "text": "B"}]
    searches = [
        {"query": str(number), "results": results, "clicked": clicked}
        for number, clicked in enumerate([[], ["a", "b"], ["a"], [], ["b"], []] * 5)
    ]
    found = split(written(tmp_path / "rows", searches), "clicks", held_out=0.5)
    assert {len(row["clicked"]) for row in found.held_out} == {1}
    assert len(found.train) + len(found.held_out) == len(searches)


@pytest.mark.parametrize("content", ["", "\n", "{", "[1]\n", "5\n"])
def test_a_file_of_something_else_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows"
    path.write_text(content)
    with pytest.raises(BadData):
        split(path)
