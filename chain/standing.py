"""How an address stands on a chain, and what has become of its transactions, in one round trip where they are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chain import wire
from chain.ethereum import Ethereum, Fault, Head, NodeAway

GWEI = 10**9
# Nodes answer so many questions at once; hardly ever there are more.
AT_ONCE = 50
_MOST_AMOUNT = 2**256 - 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """What has become of a transaction in a block. `gas_price`: base units per gas that were paid."""

    block_number: int
    block_hash: str
    has_succeeded: bool
    gas_used: int
    gas_price: int


@dataclass(frozen=True, slots=True)
class Standing:
    """As one node says at one moment; amounts in base units.

    `nonce` counts the address's transactions in blocks, `pending_nonce` also those that wait, `final_nonce` those up to
    the block that was asked about (None where the node does not know that state any more).
    """

    chain_id: int
    head: Head
    balance: int
    nonce: int
    pending_nonce: int
    final_nonce: int | None
    priority_fee: int
    receipts: dict[str, Receipt]


def ask(node: Ethereum, address: str, hashes: Sequence[str], *, final_block: int) -> Standing:
    """Of an address, with the receipts of those of these transactions that are in blocks. Raises NodeAway."""
    asked: list[tuple[str, list[Any]]] = [
        ("eth_chainId", []),
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_getBalance", [address, "latest"]),
        ("eth_getTransactionCount", [address, "latest"]),
        ("eth_getTransactionCount", [address, "pending"]),
        ("eth_getTransactionCount", [address, hex(max(final_block, 0))]),
        ("eth_maxPriorityFeePerGas", []),
        *(("eth_getTransactionReceipt", [each]) for each in hashes),
    ]
    said: list[Any] = []
    for start in range(0, len(asked), AT_ONCE):
        said += node.ask(asked[start : start + AT_ONCE])
    fault = next((each for each in said[:5] + said[7:] if isinstance(each, Fault)), None)
    if fault is not None:
        raise NodeAway(f"The chain's node does not answer sensibly: {fault.message}")
    try:
        return _standing(said, hashes)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NodeAway("The chain's node does not answer sensibly.") from None


def _standing(said: list[Any], hashes: Sequence[str]) -> Standing:
    found = {each: _receipt(answer) for each, answer in zip(hashes, said[7:], strict=True)}
    return Standing(
        chain_id=wire.number(said[0]),
        head=_head(said[1]),
        balance=wire.number(said[2], most=_MOST_AMOUNT),
        nonce=wire.number(said[3]),
        pending_nonce=wire.number(said[4]),
        final_nonce=None if isinstance(said[5], Fault) else wire.number(said[5]),
        # Where a node does not know what is usual, so much is.
        priority_fee=GWEI if isinstance(said[6], Fault) else wire.number(said[6], most=_MOST_AMOUNT),
        receipts={each: receipt for each, receipt in found.items() if receipt is not None},
    )


def _receipt(said: Any) -> Receipt | None:
    # A node that has just heard of a block may have its transactions without its number.
    if not said or said.get("blockNumber") is None:
        return None
    return Receipt(
        block_number=wire.number(said["blockNumber"]),
        block_hash=wire.digest(said["blockHash"]),
        # Without one it is not known, and what is taken for refused frees its money.
        has_succeeded=wire.number(said["status"]) == 1,
        gas_used=wire.number(said["gasUsed"]),
        gas_price=wire.number(said.get("effectiveGasPrice") or "0x0", most=_MOST_AMOUNT),
    )


def _head(said: Any) -> Head:
    return Head(
        number=wire.number(said["number"]),
        hash=wire.digest(said["hash"]),
        parent_hash=wire.digest(said["parentHash"]),
        timestamp=wire.number(said["timestamp"]),
        base_fee=wire.number(said.get("baseFeePerGas") or "0x0", most=_MOST_AMOUNT),
    )
