"""How lists are read in parts: params._page"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.chain.contracts.evm import Contract, create_from_source
from tests.chain.contracts.world import person

PAGER = """
# pragma version 0.4.3
import params

@external
@pure
def page(lower: uint256, upper: uint256, count: uint256) -> (uint256, uint256):
    return params._page(lower, upper, count)
"""
MOST = 1024
NUMBERS = st.one_of(st.integers(0, 20), st.integers(0, 5000), st.integers(2**256 - 3, 2**256 - 1))


@pytest.fixture(scope="module")
def pager() -> Contract:
    return create_from_source("Pager", PAGER, sender=person("pager"))


@given(lower=NUMBERS, upper=NUMBERS, count=st.integers(0, 5000))
@example(lower=0, upper=1000, count=0)
@example(lower=0, upper=1000, count=1)
@example(lower=1, upper=1, count=1)
@example(lower=0, upper=MOST, count=2 * MOST)
@example(lower=0, upper=2**256 - 1, count=5)
@example(lower=2, upper=1, count=5)
def test_both_bounds_are_included_and_what_lies_beyond_is_left_out(
    pager: Contract, lower: int, upper: int, count: int
) -> None:
    items = list(range(count))
    start, end = pager.page(lower, upper, count)
    assert items[start:end] == items[lower : upper + 1][:MOST]
