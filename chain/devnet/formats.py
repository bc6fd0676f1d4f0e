"""The JSON forms of Ethereum's API, both ways (https://ethereum.github.io/execution-apis/)."""

from typing import Any

import rlp
from eth_utils import keccak, to_checksum_address

from chain.devnet.errors import invalid

ZERO_HASH = "0x" + "00" * 32


def quantity(value: int) -> str:
    return hex(value)


def data(value: bytes) -> str:
    return "0x" + value.hex()


def parse_quantity(value: Any, name: str = "quantity") -> int:
    """A number as "0x1f"; plain JSON numbers are accepted as well, as most nodes do for their own methods."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise invalid(f"invalid argument: {name} must be a hex string")
    try:
        found = value if isinstance(value, int) else int(value, 16 if value.startswith("0x") else 10)
    except ValueError as error:
        raise invalid(f"invalid argument: {name} is not a hex number") from error
    if not 0 <= found < 2**256:
        raise invalid(f"invalid argument: {name} is not a number of 256 bits")
    return found


def parse_data(value: Any, name: str = "data", length: int | None = None) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise invalid(f"invalid argument: {name} must be a hex string with 0x prefix")
    try:
        found = bytes.fromhex(value[2:])
    except ValueError as error:
        raise invalid(f"invalid argument: {name} is not hexadecimal") from error
    if length is not None and len(found) != length:
        raise invalid(f"invalid argument: {name} must be {length} bytes long, and has {len(found)}")
    return found


def parse_address(value: Any, name: str = "address") -> bytes:
    return parse_data(value, name, length=20)


def block_json(header: Any, transactions: list[str], size: int) -> dict[str, Any]:
    """The header and the hashes of the transactions."""
    return {
        "number": quantity(header.block_number),
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce),
        "mixHash": data(header.mix_hash),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": data(header.transaction_root),
        "stateRoot": data(header.state_root),
        "receiptsRoot": data(header.receipt_root),
        "miner": to_checksum_address(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": data(header.extra_data),
        "size": quantity(size),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "requestsHash": data(header.requests_hash),
        "withdrawalsRoot": data(header.withdrawals_root),
        "withdrawals": [],
        "uncles": [],
        "transactions": transactions,
    }


def transaction_json(transaction: Any, sender: bytes, chain_id: int) -> dict[str, Any]:
    """Without the block that it stands in."""
    kind = transaction.type_id or 0
    found: dict[str, Any] = {
        "hash": data(transaction.hash),
        "type": quantity(kind),
        "from": to_checksum_address(sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "nonce": quantity(transaction.nonce),
        "gas": quantity(transaction.gas),
        "value": quantity(transaction.value),
        "input": data(transaction.data),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
    }
    if kind == 0:
        return (
            found
            | {"gasPrice": quantity(transaction.gas_price), "v": quantity(transaction.v)}
            | _protected(transaction, chain_id)
        )
    found |= {
        "chainId": quantity(chain_id),
        "v": quantity(transaction.y_parity),
        "yParity": quantity(transaction.y_parity),
        "accessList": [
            {
                "address": to_checksum_address(address),
                "storageKeys": [data(key.to_bytes(32, "big")) for key in keys],
            }
            for address, keys in transaction.access_list
        ],
    }
    if kind == 1:
        return found | {"gasPrice": quantity(transaction.gas_price)}
    return found | {
        "gasPrice": quantity(transaction.max_fee_per_gas),
        "maxFeePerGas": quantity(transaction.max_fee_per_gas),
        "maxPriorityFeePerGas": quantity(transaction.max_priority_fee_per_gas),
    }


def _protected(transaction: Any, chain_id: int) -> dict[str, Any]:
    """Legacy transactions name the chain only since EIP-155."""
    return {"chainId": quantity(chain_id)} if transaction.v >= 35 else {}


def placed(transaction: dict[str, Any], header: Any, position: int) -> dict[str, Any]:
    """The same transaction, now in a block."""
    price = transaction["gasPrice"]
    if "maxFeePerGas" in transaction:
        price = quantity(effective_price(transaction, header.base_fee_per_gas))
    return transaction | {
        "blockHash": data(header.hash),
        "blockNumber": quantity(header.block_number),
        "transactionIndex": quantity(position),
        "gasPrice": price,
    }


def effective_price(transaction: dict[str, Any], base_fee: int) -> int:
    """What a unit of gas costs the sender, EIP-1559."""
    if "maxFeePerGas" not in transaction:
        return int(transaction["gasPrice"], 16)
    highest, tip = int(transaction["maxFeePerGas"], 16), int(transaction["maxPriorityFeePerGas"], 16)
    return min(highest, base_fee + tip)


def created_address(transaction: Any) -> bytes:
    """The address of the contract that a transaction creates: of its sender and nonce."""
    return keccak(rlp.encode([transaction.sender, transaction.nonce]))[12:]
