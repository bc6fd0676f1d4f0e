"""One node of one chain, as the marketplace asks it: the only place where web3 meets the network.

All that goes wrong on the way is `NodeAway` (ask again later) or `Refused` (the chain has an answer, and it is no).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from django.conf import settings
from eth_utils import ValidationError
from hexbytes import HexBytes
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.exceptions import (
    BadFunctionCallOutput,
    BlockNotFound,
    ContractLogicError,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.types import BlockIdentifier, FilterParams, LogReceipt, RPCEndpoint, TxParams, TxReceipt

from chain import networks, wire
from chain.contracts import artifact
from chain.models import Network
from marketplace.errors import MarketplaceError, Unavailable

# Of one round trip; nodes allow between a few and a thousand. How those answer that speak HTTP to it.
QUESTIONS_AT_ONCE = 500
TOO_LARGE = (400, 413, 422)


class NodeAway(Unavailable):
    """The chain's node does not answer, or not sensibly. Ask again later."""

    code, message = "chain_unavailable", "The chain's node does not answer at the moment."


class Refused(MarketplaceError):
    """The chain refuses this: `reason` is the contract's revert string, or (not `by_contract`) the node's own words."""

    code, status = "chain_refused", 409

    def __init__(self, reason: str, *, by_contract: bool = True) -> None:
        super().__init__(reason or "The contract refused it without saying why.")
        self.reason = reason
        self.by_contract = by_contract


@dataclass(frozen=True, slots=True)
class Head:
    """A block. `timestamp` in seconds since 1970; `base_fee` in base units per gas."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    base_fee: int
    # Of its events (`chain.blooms`).
    bloom: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What a node says instead of an answer."""

    message: str
    is_revert: bool


class Ethereum:
    """Asks one node. Made by `of`; one per network and process, safe for several threads."""

    def __init__(self, rpc_url: str, *, timeout_s: float) -> None:
        self._at_once = QUESTIONS_AT_ONCE
        self._provider = HTTPProvider(
            rpc_url,
            request_kwargs={"timeout": timeout_s},
            session=wire.session(total_s=2 * timeout_s),
            exception_retry_configuration=None,
        )
        self.web3 = Web3(self._provider)

    def ask(self, questions: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """What the node's JSON-RPC answers to (method, parameters), in as few round trips as it takes.

        Where it refuses one of them, there is a `Fault` in its place. Raises NodeAway.
        """
        found: list[Any] = []
        while len(found) < len(questions):
            part = questions[len(found) : len(found) + self._at_once]
            answers = self._batch(part)
            if answers is None:
                self._at_once = max(len(part) // 4, 1)
            else:
                found += answers
        return found

    def _batch(self, questions: Sequence[tuple[str, Sequence[Any]]]) -> list[Any] | None:
        """None where the node does not take so many at once."""
        asked = [(RPCEndpoint(method), list(params)) for method, params in questions]
        with _translated():
            try:
                said = self._provider.make_batch_request(asked)
            except requests.HTTPError as error:
                if len(asked) > 1 and error.response.status_code in TOO_LARGE:
                    return None
                raise
            if isinstance(said, list) and len(said) == len(asked):
                return [_result(one) for one in said]
            if len(asked) > 1:
                return None
            raise ValueError("No answer.")

    def chain_id(self) -> int:
        with _translated():
            return int(self.web3.eth.chain_id)

    def head(self) -> Head:
        """The newest block."""
        found = self.block("latest")
        if found is None:
            raise NodeAway
        return found

    def block(self, which: BlockIdentifier) -> Head | None:
        """None where there is no such block (yet, or any more)."""
        with _translated():
            try:
                return _head(self.web3.eth.get_block(which))
            except BlockNotFound:
                return None

    def blocks(self, numbers: Sequence[int]) -> list[Head]:
        """Several blocks in one round trip. Raises NodeAway where one of them is missing."""
        if not numbers:
            return []
        with _translated(), self.web3.batch_requests() as batch:
            for number in numbers:
                batch.add(self.web3.eth.get_block(number))
            return [_head(said) for said in batch.execute()]

    def logs(self, *, from_block: int, to_block: int, addresses: Sequence[str]) -> list[LogReceipt]:
        """All events of these contracts in these blocks, both included, in the chain's order."""
        asked: FilterParams = {
            "fromBlock": from_block,
            "toBlock": to_block,
            "address": [Web3.to_checksum_address(address) for address in addresses],
        }
        with _translated():
            return list(self.web3.eth.get_logs(asked))

    def contract(self, name: str, address: str) -> Contract:
        """A contract of ours by the name of its artifact, such as "Nexus"."""
        found: Contract = self.web3.eth.contract(
            address=Web3.to_checksum_address(address), abi=artifact(name).abi
        )
        return found

    def read(self, calls: Sequence[Any], *, block: BlockIdentifier = "latest") -> list[Any]:
        """The results of several calls (`contract.functions.name(…)`) in one round trip.

        Raises Refused where one reverts, NodeAway where there is no such contract (yet).
        """
        if not calls:
            return []
        with _translated(), self.web3.batch_requests() as batch:
            for call in calls:
                batch.add(call.call(block_identifier=block) if block != "latest" else call)
            return list(batch.execute())

    def balance(self, address: str, *, block: BlockIdentifier = "latest") -> int:
        with _translated():
            return int(self.web3.eth.get_balance(Web3.to_checksum_address(address), block))

    def nonce(self, address: str, *, pending: bool = False) -> int:
        """How many transactions of this address are in blocks (or wait to be)."""
        with _translated():
            return int(
                self.web3.eth.get_transaction_count(
                    Web3.to_checksum_address(address), "pending" if pending else "latest"
                )
            )

    def estimate(self, transaction: TxParams) -> int:
        """The gas that a transaction would use now. Raises Refused with the reason if it would fail."""
        with _translated():
            return int(self.web3.eth.estimate_gas(transaction))

    def priority_fee(self) -> int:
        """What validators are usually given per gas."""
        with _translated():
            return int(self.web3.eth.max_priority_fee)

    def call(self, transaction: TxParams, *, block: BlockIdentifier = "latest") -> bytes:
        """What a transaction would return after a block, without sending it. Raises Refused with the reason."""
        with _translated():
            return bytes(self.web3.eth.call(transaction, block))

    def send(self, raw: bytes) -> None:
        """Hand in a signed transaction; one that the node knows already is no error.

        Raises Refused with the node's own words, of which each kind of node has others, and NodeAway.
        """
        with _translated():
            answer = self._provider.make_request(RPCEndpoint("eth_sendRawTransaction"), [hexed(raw)])
            error = answer.get("error")
        if error is None:
            return
        message = str(error.get("message", error)) if isinstance(error, dict) else str(error)
        if not _is_known(message):
            raise Refused(message, by_contract=False)

    def receipt(self, transaction_hash: str) -> TxReceipt | None:
        """None while it is in no block."""
        with _translated():
            try:
                return self.web3.eth.get_transaction_receipt(HexBytes(transaction_hash))
            except TransactionNotFound:
                return None


def of(network: Network) -> Ethereum:
    """The node of a network. Raises UnknownNetwork."""
    return _node(networks.manifest_of(network).rpc_url, settings.CHAIN_TIMEOUT_S)


@functools.lru_cache(maxsize=32)
def _node(rpc_url: str, timeout_s: float) -> Ethereum:
    return Ethereum(rpc_url, timeout_s=timeout_s)


def encoded(contract: str, function: str, *arguments: Any) -> str:
    """The data of a call, as 0x and hexadecimal digits; `contract` is the name of an artifact, such as "Nexus"."""
    return str(_offline(contract).encode_abi(function, args=list(arguments)))


@functools.lru_cache(maxsize=32)
def _offline(contract: str) -> Contract:
    found: Contract = Web3().eth.contract(abi=artifact(contract).abi)  # type: ignore[assignment]
    return found


def _result(said: Any) -> Any:
    if not isinstance(said, dict) or not {"result", "error"} & set(said):
        raise ValueError("No answer.")
    error = said.get("error")
    if error is None:
        return said["result"]
    message = str(error.get("message", "")) if isinstance(error, dict) else str(error)
    is_revert = "revert" in message or (isinstance(error, dict) and error.get("code") == 3)
    return Fault(message[:200], is_revert)


def _head(said: Any) -> Head:
    return Head(
        number=int(said["number"]),
        hash=hexed(said["hash"]),
        parent_hash=hexed(said["parentHash"]),
        timestamp=int(said["timestamp"]),
        base_fee=int(said.get("baseFeePerGas") or 0),
    )


def hexed(value: Any) -> str:
    """Bytes as 0x and hexadecimal digits in lower case."""
    return "0x" + bytes(value).hex()


# What comes of reading an answer that is something else than it should be.
_NONSENSE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    RecursionError,
)
_KNOWN = ("already known", "known transaction", "already imported", "transaction already in mempool")


def _is_known(reason: str) -> bool:
    return any(words in reason.lower() for words in _KNOWN)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ContractLogicError as error:
        raise Refused(revert_reason(error)) from None
    except BadFunctionCallOutput:
        raise NodeAway("There is no such contract on the chain, or not yet.") from None
    except Web3RPCError as error:
        raise _from_rpc(error) from None
    except (requests.RequestException, Web3Exception, ValidationError, OSError, *_NONSENSE) as error:
        # The URL may hold a secret, so what requests says is not repeated.
        raise NodeAway(f"The chain's node does not answer: {type(error).__name__}.") from None


def revert_reason(error: ContractLogicError) -> str:
    """What the contract said, without what nodes put before it."""
    said = str(error.message or "")
    return said.removeprefix("execution reverted").removeprefix(":").strip()


def _from_rpc(error: Web3RPCError) -> MarketplaceError:
    said = error.rpc_response.get("error", {}) if isinstance(error.rpc_response, dict) else {}
    message = str(said.get("message", error)) if isinstance(said, dict) else str(error)
    if isinstance(said, dict) and (said.get("code") == 3 or "revert" in message):
        return Refused(message.removeprefix("execution reverted").removeprefix(":").strip())
    if isinstance(said, dict) and said.get("code") == -32000:
        return Refused(message, by_contract=False)
    return NodeAway(f"The chain's node does not answer sensibly: {message[:200]}")
