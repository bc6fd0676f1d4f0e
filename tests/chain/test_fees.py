"""Fees are enough for the next blocks, and a replacement's are high enough to be one."""

from hypothesis import given
from hypothesis import strategies as st

from chain import fees
from chain.fees import Fees

AMOUNTS = st.integers(0, 10**13)


@given(AMOUNTS, AMOUNTS, AMOUNTS)
def test_they_cover_the_base_fee_and_stay_within_the_limit(base: int, tip: int, limit: int) -> None:
    found = fees.usual(base_fee=base, tip=tip, limit=limit)
    if found is None:
        assert base > limit
    else:
        assert base <= found.max_fee <= limit
        assert 0 <= found.priority_fee <= found.max_fee


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_a_replacement_raises_both_by_an_eighth(
    max_fee: int, part: int, base: int, tip: int, limit: int
) -> None:
    before = Fees(max_fee, min(part, max_fee))
    found = fees.raised(before, base_fee=base, tip=tip, limit=limit)
    if found is None:
        assert limit * 8 < max_fee * 9 or limit <= max_fee
        return
    assert found.max_fee <= limit
    for old, new in ((before.max_fee, found.max_fee), (before.priority_fee, found.priority_fee)):
        assert new > old
        assert new * 8 >= old * 9
    assert found.priority_fee <= found.max_fee


def test_a_plain_sending_gets_no_more_gas_than_it_uses() -> None:
    assert fees.gas_limit(21_000) == 21_000
    assert fees.gas_limit(100_000) == 135_000
