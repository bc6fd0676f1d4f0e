from typing import Any

import pytest

from gpus import offers
from gpus.offers import ModelSpec
from marketplace.errors import InvalidRequest


def test_names_and_objects_are_taken() -> None:
    found = offers.parse(
        [
            "toy",
            {"name": "bare"},
            {
                "id": "mini",
                "kinds": ["embedding"],
                "context_length": "512",
                "concurrency": 4,
                "revision": None,
            },
        ]
    )

    assert found == [
        "toy",
        "bare",
        ModelSpec("mini", kinds=("embedding",), context_length=512, concurrency=4),
    ]


def test_the_last_of_a_name_counts() -> None:
    assert offers.parse(["toy", {"name": "toy", "concurrency": 2}]) == [ModelSpec("toy", concurrency=2)]


@pytest.mark.parametrize(
    "models",
    [
        None,
        "toy",
        {"name": "toy"},
        [1],
        [None],
        [""],
        ["  "],
        ["a\0b"],
        ["x" * 256],
        [{"concurrency": 2}],
        [{"name": "toy", "concurrency": 0}],
        [{"name": "toy", "concurrency": True}],
        [{"name": "toy", "concurrency": 2**31}],
        [{"name": "toy", "concurrency": 10**30}],
        [{"name": "toy", "kinds": ["painting"]}],
        [{"name": "toy", "kinds": "chat"}],
        [{"name": "toy", "kinds": [{}]}],
        [{"name": "toy", "description": "a\0b"}],
        [{"name": "toy", "context_length": 1.5}],
        ["toy"] * 501,
    ],
)
def test_what_is_no_list_of_models_is_refused(models: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        offers.parse(models)

    assert isinstance(refused.value.fields, dict)
    assert "models" in refused.value.fields
