"""Every leaf of a tree proves that it is in it; nothing else does."""

from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from inference import merkle
from inference.verification import leaf, parent, root_of

leaf_lists = st.integers(1, 70).map(lambda count: [leaf(b"%d" % number) for number in range(count)])


@given(leaf_lists)
def test_every_leaf_verifies(leaves: list[bytes]) -> None:
    root = merkle.root(leaves)

    assert all(root_of(each, merkle.proof(leaves, index)) == root for index, each in enumerate(leaves))


@given(leaf_lists, st.data())
def test_nothing_else_verifies(leaves: list[bytes], data: st.DataObject) -> None:
    root = merkle.root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle.proof(leaves, index)
    other = data.draw(st.binary(min_size=32, max_size=32).filter(lambda each: each != leaves[index]))

    assert root_of(other, proof) != root
    assert root_of(leaf(leaves[index]), proof) != root
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        assert root_of(leaves[index], [*proof[:place], *proof[place + 1 :]]) != root
        changed = data.draw(st.binary(min_size=32, max_size=32).filter(lambda each: each != proof[place]))
        assert root_of(leaves[index], [*proof[:place], changed, *proof[place + 1 :]]) != root


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=30, unique=True), st.data())
def test_the_root_binds_every_leaf(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    changed = data.draw(st.binary(min_size=32, max_size=32).filter(lambda each: each not in leaves))

    assert merkle.root([*leaves[:index], changed, *leaves[index + 1 :]]) != merkle.root(leaves)


def test_pairs_are_hashed_as_openzeppelin_does() -> None:
    # MerkleProof._hashPair: keccak256(abi.encode(min, max)), without anything before it.
    low, high = b"\x01" * 32, b"\x02" * 32

    assert parent(low, high) == parent(high, low) == keccak(low + high)
    assert merkle.root([high, low]) == keccak(low + high)
    assert merkle.root([low]) == low
    assert merkle.proof([low], 0) == []


def test_a_leaf_is_told_apart_from_a_node() -> None:
    assert leaf(b"x" * 64) == keccak(b"\0" + b"x" * 64)
