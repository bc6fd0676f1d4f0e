"""Reading what the EVM's ABI has packed: events, and what contracts answer. Nothing that a stranger writes breaks it.

eth_abi can do the same and more; for the few types of our contracts this is twenty times quicker, which is most of
what catching up takes. Text that is no UTF-8 is read as far as it can be; text without end is cut.
Source: https://docs.soliditylang.org/en/latest/abi-spec.html
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak

from chain.contracts import artifact

# Characters; whatever is longer is no link, and nobody's sensible answer.
TEXT_MOST = 65_536
WORD = 32

# What a contract of a network is called in its manifest, and in `chain.contracts`.
FOLLOWED = {
    "NEXUS": "Nexus",
    "CONTROLLER": "Controller",
    "TERMINAL": "Terminal",
    "VAULT": "Vault",
    "TREASURY": "Treasury",
    "RECEIPTS": "Receipts",
}
# Providers' signs of life: many, and nothing that the marketplace goes by.
UNWANTED = {"LiveDataUpdated", "BaseDataUpdated"}


class Undecodable(ValueError):
    """These bytes are not what the ABI says they are."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of the ABI, with its name where it has one. `read` takes all bytes and the place where it is."""

    name: str
    is_dynamic: bool
    read: Callable[[bytes, int], Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """An event as its ABI describes it."""

    name: str
    indexed: tuple[Kind, ...]
    packed: tuple[Kind, ...]
    order: tuple[str, ...]

    def read(self, topics: Sequence[str], data: bytes) -> dict[str, Any]:
        """Its arguments by name, in the ABI's order. Raises Undecodable."""
        if len(topics) != len(self.indexed) + 1:
            raise Undecodable(f"{self.name} has {len(topics)} topics.")
        found = {
            kind.name: kind.read(bytes.fromhex(topic[2:]), 0)
            for kind, topic in zip(self.indexed, topics[1:], strict=True)
        }
        found.update(unpacked(self.packed, data))
        return {name: found[name] for name in self.order}


def unpacked(kinds: Iterable[Kind], data: bytes, start: int = 0) -> dict[str, Any]:
    """Values by name: addresses with their checksum, integers, booleans, text, other bytes as 0x…, tuples as dicts.

    Raises Undecodable.
    """
    found = {}
    place = start
    for kind in kinds:
        at = start + _integer(data, place) if kind.is_dynamic else place
        found[kind.name] = kind.read(data, at)
        place += WORD
    return found


def plain(value: Any) -> Any:
    """As JSON keeps it without loss: integers as decimal strings."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return str(value) if type(value) is int else value


@functools.lru_cache(maxsize=65_536)
def checksummed(address: str) -> str:
    """An address with its checksum (EIP-55), from 40 hexadecimal digits in lower case."""
    digest = keccak(address.encode()).hex()
    return "0x" + "".join(
        digit.upper() if check > "7" else digit for digit, check in zip(address, digest, strict=False)
    )


def shapes(contracts: Mapping[str, str]) -> dict[str, dict[str, Shape]]:
    """The events of a network's contracts, by address in lower case and first topic."""
    return {
        address.lower(): _events(FOLLOWED[name])
        for name, address in contracts.items()
        if name in FOLLOWED and address
    }


@functools.lru_cache(maxsize=32)
def _events(contract: str) -> dict[str, Shape]:
    found = {}
    for entry in artifact(contract).abi:
        if entry["type"] == "event" and not entry.get("anonymous") and entry["name"] not in UNWANTED:
            found[_topic(entry)] = _shape(entry)
    return found


def _shape(entry: Mapping[str, Any]) -> Shape:
    inputs = entry["inputs"]
    return Shape(
        entry["name"],
        indexed=tuple(_kind(one) for one in inputs if one.get("indexed")),
        packed=tuple(_kind(one) for one in inputs if not one.get("indexed")),
        order=tuple(one["name"] for one in inputs),
    )


def _topic(entry: Mapping[str, Any]) -> str:
    return "0x" + keccak(f"{entry['name']}({','.join(map(_signature, entry['inputs']))})".encode()).hex()


def _signature(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "tuple":
        return f"({','.join(map(_signature, entry['components']))})"
    return str(entry["type"])


@functools.lru_cache(maxsize=32)
def answers(contract: str, function: str) -> tuple[str, tuple[Kind, ...]]:
    """A question without arguments: the data of the call, and what `unpacked` needs for its answer."""
    for entry in artifact(contract).abi:
        if entry["type"] == "function" and entry["name"] == function and not entry["inputs"]:
            selector = keccak(f"{function}()".encode())[:4].hex()
            return "0x" + selector, tuple(_kind(one) for one in entry["outputs"])
    raise LookupError(f"{contract} has no {function}().")


def _kind(entry: Mapping[str, Any]) -> Kind:
    type_, name = entry["type"], entry.get("name", "")
    if type_ == "tuple":
        parts = tuple(_kind(one) for one in entry["components"])
        if not any(part.is_dynamic for part in parts):
            raise NotImplementedError(f"A tuple without text takes more than a word: {name}.")
        return Kind(name, True, lambda data, place: unpacked(parts, data, place))
    if type_ in ("string", "bytes"):
        return Kind(name, True, _text if type_ == "string" else _bytes)
    if type_.startswith("bytes") and type_[5:].isdigit():
        size = int(type_[5:])
        return Kind(name, False, lambda data, place: "0x" + _word(data, place)[:size].hex())
    return Kind(name, False, _SIMPLE["uint" if type_.startswith("uint") else type_])


def _word(data: bytes, place: int) -> bytes:
    found = data[place : place + WORD]
    if len(found) != WORD:
        raise Undecodable("It ends too early.")
    return found


def _integer(data: bytes, place: int) -> int:
    return int.from_bytes(_word(data, place), "big")


def _address(data: bytes, place: int) -> str:
    return checksummed(_word(data, place)[12:].hex())


def _boolean(data: bytes, place: int) -> bool:
    return any(_word(data, place))


def _raw(data: bytes, place: int) -> bytes:
    length = _integer(data, place)
    found = data[place + WORD : place + WORD + length]
    if len(found) != length:
        raise Undecodable("It ends too early.")
    return found


def _text(data: bytes, place: int) -> str:
    # PostgreSQL keeps no NUL.
    return _raw(data, place).decode("utf-8", "replace").replace("\x00", "\ufffd")[:TEXT_MOST]


def _bytes(data: bytes, place: int) -> str:
    return "0x" + _raw(data, place).hex()[: TEXT_MOST - 2]


_SIMPLE: dict[str, Callable[[bytes, int], Any]] = {"uint": _integer, "address": _address, "bool": _boolean}
