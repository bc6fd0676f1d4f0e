"""Contracts on titanoboa's EVM: calls by name, refusals by their reason, events by their name.

What is tested is what is committed: the artifacts, not a compilation of the moment.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import boa
import pytest
from boa.contracts.abi.abi_contract import ABIContractFactory, ABIFunction
from boa.util.abi import abi_decode
from eth_utils import keccak

from chain.contracts import Artifact, artifact

NOBODY = "0x" + "00" * 20
ERROR_OF_STRINGS = keccak(text="Error(string)")[:4]


class Refused(Exception):
    """A call was reverted; the message is the reason: the string, or the name of the error."""


@dataclass(frozen=True)
class Event:
    name: str
    address: str
    arguments: dict[str, Any]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]


class Contract:
    """`contract.withdraw(5, sender=alice)`; `contract.events` are those of the last call, by whichever contract."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind, self.address = kind, str(address)
        self.events: list[Event] = []
        self._functions = functions(kind)

    def __getattr__(self, name: str) -> Any:
        function = self._functions.get(name)
        if function is None:
            raise AttributeError(f"{self.kind} has no {name}")
        return lambda *arguments, sender=None, value=0, gas=None: self._call(
            function, arguments, sender, value, gas
        )

    def _call(
        self, function: ABIFunction, arguments: tuple[Any, ...], sender: Any, value: int, gas: Any
    ) -> Any:
        data = function.prepare_calldata(*[plain(each) for each in arguments])
        output = self.send(data, sender=sender, value=value, gas=gas, is_modifying=function.is_mutable)
        values = abi_decode("(" + ",".join(function.return_type) + ")", output)
        return values[0] if len(values) == 1 else values or None

    def send(
        self,
        data: bytes = b"",
        *,
        sender: Any = None,
        value: int = 0,
        gas: Any = None,
        is_modifying: bool = True,
    ) -> bytes:
        computation = boa.env.execute_code(
            to_address=self.address,
            sender=plain(sender) if sender is not None else None,
            data=data,
            value=value,
            gas=gas,
            is_modifying=is_modifying,
        )
        if computation.is_error:
            raise Refused(reason(computation.output) or repr(computation.error))
        if is_modifying:
            self.events = [decoded(entry) for entry in sorted(computation.get_raw_log_entries())]
        return computation.output

    def event(self, name: str) -> Event:
        """The only event of that name."""
        (found,) = (event for event in self.events if event.name == name)
        return found

    def __eq__(self, other: object) -> bool:
        return self.address == plain(other)

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def balance(self) -> int:
        return boa.env.get_balance(self.address)


def plain(argument: Any) -> Any:
    return argument.address if isinstance(argument, Contract) else argument


@cache
def functions(kind: str) -> dict[str, ABIFunction]:
    factory = ABIContractFactory.from_abi_dict(abi_of(kind), name=kind)
    return {function.name: function for function in factory.functions if function.name}


def abi_of(kind: str) -> list[dict[str, Any]]:
    return SOURCES[kind].abi if kind in SOURCES else artifact(kind).abi


# Contracts of the tests themselves, compiled from their source.
SOURCES: dict[str, Artifact] = {}


@cache
def _events() -> dict[bytes, list[dict[str, Any]]]:
    found: dict[bytes, list[dict[str, Any]]] = {}
    for kind in [
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
    ]:
        for entry in artifact(kind).abi:
            if entry["type"] == "event":
                found.setdefault(topic(entry), []).append(entry)
    return found


def topic(entry: dict[str, Any]) -> bytes:
    types = ",".join(type_of(parameter) for parameter in entry["inputs"])
    return keccak(text=f"{entry['name']}({types})")


def type_of(parameter: dict[str, Any]) -> str:
    if parameter["type"].startswith("tuple"):
        return "(" + ",".join(map(type_of, parameter["components"])) + ")" + parameter["type"][5:]
    return str(parameter["type"])


def decoded(entry: Any) -> Event:
    _, address, topics, data = entry
    hashes = [each.to_bytes(32, "big") for each in topics]
    for abi in _events().get(hashes[0], []):
        indexed = [each for each in abi["inputs"] if each["indexed"]]
        if len(indexed) == len(hashes) - 1:
            rest = [each for each in abi["inputs"] if not each["indexed"]]
            values = dict(zip((each["name"] for each in rest), decode(rest, data), strict=True)) | {
                each["name"]: decode([each], raw)[0] for each, raw in zip(indexed, hashes[1:], strict=True)
            }
            return Event(abi["name"], boa.util.abi.Address(address), values)
    return Event("?", boa.util.abi.Address(address), {})


def decode(parameters: list[dict[str, Any]], data: bytes) -> tuple[Any, ...]:
    return abi_decode("(" + ",".join(map(type_of, parameters)) + ")", data) if parameters else ()


@cache
def _errors() -> dict[bytes, str]:
    entries = [
        entry for kind in ("Nexus", "Manager") for entry in artifact(kind).abi if entry["type"] == "error"
    ]
    return {topic(entry)[:4]: entry["name"] for entry in entries}


def reason(output: bytes) -> str:
    if output[:4] == ERROR_OF_STRINGS:
        return str(abi_decode("(string)", output[4:])[0])
    return _errors().get(output[:4], output.hex())


@contextmanager
def refused(expected: str) -> Iterator[None]:
    """The call inside is reverted for exactly this reason."""
    with pytest.raises(Refused) as caught:
        yield
    assert str(caught.value) == expected


def done(call: Callable[[], Any]) -> bool:
    """Whether it was done; a refusal has a reason."""
    try:
        call()
    except Refused as refusal:
        if "(" in str(refusal):
            raise
        return False
    return True


def create(kind: str, *arguments: Any, sender: Any, value: int = 0) -> Contract:
    found = artifact(kind)
    return _created(
        kind, bytes.fromhex(found.bytecode[2:]) + constructor(found.abi, arguments), sender, value
    )


def create_blueprint(kind: str, *, sender: Any) -> str:
    blueprint = artifact(kind).blueprint
    assert blueprint is not None
    return _created(kind, bytes.fromhex(blueprint[2:]), sender, 0).address


def constructor(abi: list[dict[str, Any]], arguments: tuple[Any, ...]) -> bytes:
    for entry in abi:
        if entry["type"] == "constructor":
            return ABIFunction(entry, "").prepare_calldata(*[plain(each) for each in arguments])
    return b""


def compile_source(kind: str, source: str) -> None:
    """Make a contract of the tests known under a name, for `create_from_source`."""
    if kind not in SOURCES:
        boa.interpret.set_search_paths(["chain/contracts"])
        output = boa.loads_partial(source, name=kind, compiler_args={"evm_version": "cancun"}).compiler_data
        SOURCES[kind] = Artifact(
            name=kind,
            abi=_abi(output),
            bytecode="0x" + output.bytecode.hex(),
            blueprint=None,
            compiler="",
            evm_version="",
            source_hash="",
        )


def _abi(output: Any) -> list[dict[str, Any]]:
    from vyper.compiler.output import build_abi_output

    return list(build_abi_output(output))


def create_from_source(kind: str, source: str, *arguments: Any, sender: Any, value: int = 0) -> Contract:
    compile_source(kind, source)
    found = SOURCES[kind]
    return _created(
        kind, bytes.fromhex(found.bytecode[2:]) + constructor(found.abi, arguments), sender, value
    )


def _created(kind: str, bytecode: bytes, sender: Any, value: int) -> Contract:
    address, computation = boa.env.deploy(bytecode=bytecode, sender=sender, value=value)
    if computation.is_error:
        raise Refused(reason(computation.output) or repr(computation.error))
    contract = Contract(kind, address)
    contract.events = [decoded(entry) for entry in sorted(computation.get_raw_log_entries())]
    return contract
