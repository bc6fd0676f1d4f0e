"""Merkle trees over receipts: many receipts are published by one hash, and each can prove that it was among them.

Pairs are hashed in the order of their values (`verification.parent`), so that a proof needs no positions and
OpenZeppelin's MerkleProof, or snekmate's merkle_proof_verification, checks it in a contract. A node without a partner
rises to the next level as it is.
"""

from collections.abc import Sequence

from inference.verification import parent

Level = Sequence[bytes]


def root(leaves: Level) -> bytes:
    """The root over leaves of 32 bytes, at least one."""
    level = leaves
    while len(level) > 1:
        level = _above(level)
    return level[0]


def proof(leaves: Level, index: int) -> list[bytes]:
    """The hashes that lead from a leaf to the root, from below."""
    found, level = [], leaves
    while len(level) > 1:
        partner = index ^ 1
        if partner < len(level):
            found.append(level[partner])
        level, index = _above(level), index // 2
    return found


def _above(level: Level) -> list[bytes]:
    pairs = [parent(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*pairs, level[-1]] if len(level) % 2 else pairs
