"""A wallet, and what its owner's client signs in the broker's API."""

from __future__ import annotations

import itertools
from typing import Any

from eth_account import Account as Signer
from eth_account.messages import encode_defunct

from finetune import signatures

# The first two keys of every hardhat network, which everybody knows.
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ADDRESS = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
OTHER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
TASKS = f"/v1/user/{ADDRESS}/task"
PARAMETERS = (
    '{"num_train_epochs": 1, "per_device_train_batch_size": 2, "learning_rate": 0.0002, "max_steps": -1}\n'
)

_nonces = itertools.count(17_400_000_000_000_040, 10_000)


def sign(inner: bytes, key: str = KEY) -> str:
    return "0x" + bytes(Signer.sign_message(encode_defunct(inner), key).signature).hex()


def task(
    *,
    model_hash: str,
    dataset_hash: str,
    fee: int = 10**24,
    covers_fee: bool = True,
    key: str = KEY,
    **said: Any,
) -> dict[str, Any]:
    """The body of a new task, signed as clients of 2025 do it, or (without the fee) those of 2026."""
    address = said.pop("userAddress", Signer.from_key(key).address)
    nonce = said.pop("nonce", None) or next(_nonces)
    inner = signatures.task_hash(
        address=address, nonce=nonce, dataset_hash=dataset_hash, fee=fee if covers_fee else None
    )
    return {
        "userAddress": address,
        "preTrainedModelHash": model_hash,
        "datasetHash": dataset_hash,
        "trainingParams": PARAMETERS,
        "fee": str(fee),
        "nonce": str(nonce),
        "signature": sign(inner, key),
    } | said


def error(reply: Any) -> str:
    """The error of the broker's API, which is one text and nothing else."""
    assert list(reply.json()) == ["error"]
    return str(reply.json()["error"])
