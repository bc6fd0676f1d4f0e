"""Reading the ABI's packing: the same as eth_abi reads, and nothing that breaks on what strangers write."""

import eth_abi
import pytest
from eth_utils import to_checksum_address
from hypothesis import example, given
from hypothesis import strategies as st

from chain import decoding
from chain.contracts import artifact
from tests.chain.fake import CONTRACTS, type_of

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: str(to_checksum_address(raw)))
UINTS = st.integers(0, 2**256 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
VALUES = {
    "address": ADDRESSES,
    "uint256": UINTS,
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
    "string": TEXTS,
}


def outputs(contract: str, function: str) -> list[dict]:
    return next(one["outputs"] for one in artifact(contract).abi if one.get("name") == function)


def values_of(entry: dict) -> st.SearchStrategy:
    if entry["type"] == "tuple":
        return st.tuples(*map(values_of, entry["components"]))
    return VALUES[entry["type"]]


GETTERS = [
    ("Source", "getSourceParams"),
    ("Task", "taskParams"),
    ("Response", "getResponseParams"),
    ("Task", "getDeliveryMethod"),
]


@pytest.mark.parametrize(("contract", "function"), GETTERS)
@given(data=st.data())
def test_what_contracts_answer_is_read_as_eth_abi_packs_it(
    contract: str, function: str, data: st.DataObject
) -> None:
    entries = outputs(contract, function)
    values = data.draw(st.tuples(*map(values_of, entries)))
    packed = eth_abi.encode([type_of(entry) for entry in entries], list(values))
    _, kinds = decoding.answers(contract, function)
    found = decoding.unpacked(kinds, packed)
    expected = list(values[0]) if entries[0]["type"] == "tuple" else list(values)
    inner = found[""] if entries[0]["type"] == "tuple" else found
    assert list(inner.values()) == expected


@given(ADDRESSES)
def test_addresses_have_their_checksum(address: str) -> None:
    assert decoding.checksummed(address[2:].lower()) == address


@given(st.binary(max_size=400))
@example(b"\xff" * 320)
@example(b"\x00" * 320)
def test_bytes_that_are_nothing_are_refused_or_read_and_never_worse(raw: bytes) -> None:
    for contract, function in GETTERS:
        _, kinds = decoding.answers(contract, function)
        try:
            decoding.unpacked(kinds, raw)
        except decoding.Undecodable:
            continue


def test_all_events_of_all_followed_contracts_are_known() -> None:
    shapes = decoding.shapes(CONTRACTS)
    assert len(shapes) == 6
    for name, address in CONTRACTS.items():
        events = {
            entry["name"] for entry in artifact(decoding.FOLLOWED[name]).abi if entry["type"] == "event"
        }
        known = {shape.name for shape in shapes[address.lower()].values()}
        assert known == events - decoding.UNWANTED
        assert all(len(event) <= 40 for event in known)


def test_integers_are_kept_as_text_and_truth_as_truth() -> None:
    assert decoding.plain({"a": 2**255, "b": True, "c": {"d": 0, "e": "x"}}) == {
        "a": str(2**255),
        "b": True,
        "c": {"d": "0", "e": "x"},
    }
