"""The marketplace's smart contracts, compiled: their ABI and bytecode. Neither Django nor a compiler is needed."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARTIFACTS = Path(__file__).parent / "artifacts"

NAMES = (
    "Nexus",
    "Controller",
    "Terminal",
    "Vault",
    "Manager",
    "Source",
    "Task",
    "Response",
    "Treasury",
    "Receipts",
)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One compiled contract.

    `abi` is the contract's JSON ABI. `bytecode` creates it; the arguments of its constructor follow. `blueprint`
    creates what other contracts copy it from (ERC-5202), for those that are created by contracts. Both are hex
    strings with 0x. `source_hash` is the compiler's checksum over all sources that went in.
    """

    name: str
    abi: list[dict[str, Any]]
    bytecode: str
    blueprint: str | None
    compiler: str
    evm_version: str
    source_hash: str


@functools.cache
def artifact(name: str) -> Artifact:
    """The contract of that name (`NAMES`) as committed. Raises `KeyError` for a name that there is not."""
    if name not in NAMES:
        raise KeyError(f"There is no contract {name!r}; there are {', '.join(NAMES)}.")
    return Artifact(**json.loads((ARTIFACTS / f"{name}.json").read_text()))
