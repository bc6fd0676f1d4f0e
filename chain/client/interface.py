"""Calls and answers of the contracts, encoded and decoded by their ABI."""

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

from eth_abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils import (
    is_hex_address,
    keccak,
    to_checksum_address,
)
from eth_utils.abi import collapse_if_tuple

from chain.client.errors import InvalidAddress, InvalidValue
from chain.contracts import artifact

ZERO_ADDRESS = "0x" + "00" * 20
ERROR_SELECTOR = bytes.fromhex("08c379a0")
PANIC_SELECTOR = bytes.fromhex("4e487b71")


class Undecodable(Exception):
    """The bytes are not what the ABI promises: mostly, there is no such contract at the address."""


class Interface:
    """One contract's ABI. Tuples are Python tuples in the ABI's field order; addresses come out with their checksum."""

    def __init__(self, name: str, abi: Sequence[dict[str, Any]]) -> None:
        self.name = name
        self._abi = abi

    @cached_property
    def _functions(self) -> dict[str, tuple[bytes, list[str], list[str]]]:
        return {
            entry["name"]: (_selector(entry), _types(entry["inputs"]), _types(entry["outputs"]))
            for entry in self._abi
            if entry["type"] == "function"
        }

    @cached_property
    def _events(self) -> dict[str, tuple[str, list[dict[str, Any]]]]:
        return {
            entry["name"]: ("0x" + keccak(text=_signature(entry)).hex(), entry["inputs"])
            for entry in self._abi
            if entry["type"] == "event"
        }

    def encode(self, function: str, *arguments: Any) -> str:
        """The call's data, with 0x. Raises `InvalidValue` for what does not fit the types."""
        selector, inputs, _ = self._functions[function]
        try:
            return "0x" + (selector + encode(inputs, arguments)).hex()
        except (EncodingError, TypeError, ValueError, OverflowError) as error:
            raise InvalidValue(f"{self.name}.{function}: {error}") from None

    def decode(self, function: str, data: Any) -> Any:
        """What the function returned: one value alone, several as a tuple. Raises `Undecodable`."""
        outputs = self._functions[function][2]
        try:
            found = _values(outputs, bytes.fromhex(data[2:]))
        except (DecodingError, ValueError, TypeError) as error:
            raise Undecodable(f"{self.name}.{function}") from error
        return found[0] if len(found) == 1 else found

    def topic(self, event: str) -> str:
        return self._events[event][0]

    def event(self, event: str, log: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a log, indexed or not, by name. Raises `Undecodable`."""
        topic, inputs = self._events[event]
        topics = list(log["topics"])
        if not topics or topics[0] != topic:
            raise Undecodable(event)
        plain = [entry for entry in inputs if not entry.get("indexed")]
        indexed = [entry for entry in inputs if entry.get("indexed")]
        try:
            values = _named(plain, bytes.fromhex(log["data"][2:]))
            for entry, found in zip(indexed, topics[1:], strict=True):
                values |= _named([entry], bytes.fromhex(found[2:]))
        except (DecodingError, ValueError) as error:
            raise Undecodable(event) from error
        return values


@cache
def interface(name: str) -> Interface:
    """`interface("Task")`: of a contract by its name."""
    return Interface(name, artifact(name).abi)


def checksum(value: Any, name: str = "address") -> str:
    """Any spelling of an address, in its one right spelling (EIP-55). Raises `InvalidAddress`."""
    if not isinstance(value, str) or not is_hex_address(value):
        raise InvalidAddress(f"{name}: {value!r} is not an address; one has 0x and 40 hexadecimal digits.")
    found = str(to_checksum_address(value))
    digits = value.removeprefix("0x")
    if digits not in (digits.lower(), digits.upper(), found[2:]):
        raise InvalidAddress(f"{name}: the checksum of {value} is wrong; a letter may be mistyped (EIP-55).")
    return found


def revert_reason(message: str, data: Any) -> str:
    """The text that a contract reverted with, from a node's error; nodes put it into `data`, `message`, or both."""
    if isinstance(data, dict):
        data = data.get("data") or data.get("result")
    if isinstance(data, str) and data.startswith("0x"):
        found = _decoded_reason(bytes.fromhex(data[2:]) if len(data) % 2 == 0 else b"")
        if found:
            return found
    for start in ("execution reverted:", "reverted with reason string", "revert:", "revert "):
        if start in message:
            return message.split(start, 1)[1].strip().strip("'\"")
    return ""


def _decoded_reason(output: bytes) -> str:
    try:
        if output[:4] == ERROR_SELECTOR:
            return str(decode(["string"], output[4:])[0])
        if output[:4] == PANIC_SELECTOR:
            return f"panic code 0x{decode(['uint256'], output[4:])[0]:02x}"
    except (DecodingError, UnicodeDecodeError):
        return ""
    return ""


def _types(parameters: Sequence[dict[str, Any]]) -> list[str]:
    return [collapse_if_tuple(entry) for entry in parameters]


def _signature(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(_types(entry['inputs']))})"


def _selector(entry: dict[str, Any]) -> bytes:
    return keccak(text=_signature(entry))[:4]


def _named(parameters: Sequence[dict[str, Any]], data: bytes) -> dict[str, Any]:
    values = _values(_types(parameters), data)
    return {entry["name"]: value for entry, value in zip(parameters, values, strict=True)}


def _values(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """Text is decoded here and not by eth_abi: what strangers have written may be no UTF-8, and must be readable."""
    plain = [kind.replace("string", "bytes") for kind in types]
    return _named_values(types, decode(plain, data))


def _named_values(types: Sequence[str], values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_value(kind, found) for kind, found in zip(types, values, strict=True))


def _value(kind: str, found: Any) -> Any:
    if kind == "string":
        return found.decode("utf-8", "replace")
    if kind == "address":
        return to_checksum_address(found)
    if kind == "address[]":
        return tuple(to_checksum_address(address) for address in found)
    if kind.startswith("(") and kind.endswith(")"):
        return _named_values(kind[1:-1].split(","), found)
    return found
