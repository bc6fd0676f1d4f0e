"""What fails again and again is logged when it is news."""

from typing import Any

import pytest

from chain import repeats


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_said", {})


def test_the_same_is_no_news() -> None:
    assert repeats.is_news(("deposit", 1), ValueError("x"))
    assert not repeats.is_news(("deposit", 1), ValueError("x"))


@pytest.mark.parametrize(
    ("about", "said"),
    [(("deposit", 1), ValueError("y")), (("deposit", 1), KeyError("x")), (("deposit", 2), ValueError("x"))],
)
def test_something_else_is(about: Any, said: Exception) -> None:
    repeats.is_news(("deposit", 1), ValueError("x"))
    assert repeats.is_news(about, said)


def test_after_a_while_it_is_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(repeats.time, "monotonic", lambda: now)
    assert repeats.is_news("a", "x")
    now += repeats.AGAIN_S - 1
    assert not repeats.is_news("a", "x")
    now += 1
    assert repeats.is_news("a", "x")


def test_it_keeps_no_more_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_MOST", 3)
    for number in range(10):
        assert repeats.is_news(number, "x")
    assert len(repeats._said) <= 3
