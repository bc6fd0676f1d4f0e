"""Runs transactions on the state that a header names: py-evm with Prague's rules, one rule relaxed.

Blocks may carry their parent's timestamp: a chain that mines at once would otherwise run ahead of the clock by a second
for each block.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import rlp
from eth.consensus import NoProofConsensus
from eth.constants import ZERO_ADDRESS
from eth.db.atomic import AtomicDB
from eth.db.trie import make_trie_root_and_nodes
from eth.exceptions import OutOfGas, Revert, UnrecognizedTransactionType, VMError
from eth.vm.chain_context import ChainContext
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.blocks import PragueBlockHeader
from eth.vm.spoof import SpoofTransaction
from eth_typing import BlockNumber
from eth_utils import ValidationError, keccak

from chain.devnet.errors import RpcError, refused, reverted
from chain.devnet.store import Nodes

logger = logging.getLogger(__name__)

GAS_LIMIT = 30_000_000
# What an estimate adds for calls inside that need more than they use (EIP-150's 63/64), and for the stipend of a
# transfer of value.
STIPEND = 2_300


@dataclass(frozen=True)
class CallRequest:
    """The fields of eth_call that matter here; `to` is empty for a creation."""

    sender: bytes = ZERO_ADDRESS
    to: bytes = b""
    value: int = 0
    data: bytes = b""
    gas: int | None = None


@dataclass(frozen=True)
class Applied:
    """One transaction that got into a block."""

    transaction: Any
    receipt: Any
    gas_used: int
    succeeded: bool


@dataclass(frozen=True)
class Executed:
    header: Any
    applied: list[Applied]
    # With the reason why each cannot be in any block.
    invalid: list[tuple[Any, str]]


class _Rules(PragueVM):
    consensus_class = NoProofConsensus
    ancestors: Iterable[bytes] = ()

    @property
    def previous_hashes(self) -> Iterable[bytes]:  # type: ignore[override]
        return iter(self.ancestors)


class Machine:
    def __init__(self, nodes: Nodes, chain_id: int) -> None:
        self._db = AtomicDB(nodes)
        self.chain_id = chain_id
        # The state that the last call saw, with all that it has read: the next one mostly asks the same.
        self._warm: tuple[tuple[Any, ...], Any] | None = None

    def genesis(self, balances: Mapping[bytes, int], timestamp: int) -> Any:
        empty = PragueBlockHeader(
            difficulty=0, block_number=BlockNumber(0), gas_limit=GAS_LIMIT, timestamp=timestamp
        )
        state = self._rules(empty, ()).state
        for address, balance in balances.items():
            state.set_balance(address, balance)
        state.persist()
        header = _Rules.create_genesis_header(gas_limit=GAS_LIMIT, timestamp=timestamp, difficulty=0)
        return header.copy(state_root=state.state_root)

    def successor(self, parent: Any, *, timestamp: int, mix_hash: bytes = b"\0" * 32) -> Any:
        """The header of the next block, still empty."""
        return _Rules.create_header_from_parent(
            parent, timestamp=timestamp, mix_hash=mix_hash, gas_limit=GAS_LIMIT, coinbase=ZERO_ADDRESS
        )

    def execute(self, header: Any, transactions: Sequence[Any], ancestors: Iterable[bytes]) -> Executed:
        """Fill the block; transactions that its gas does not suffice for are left out without a word."""
        rules = self._rules(header, ancestors)
        applied: list[Applied] = []
        invalid: list[tuple[Any, str]] = []
        for transaction in transactions:
            if header.gas_used + transaction.gas > header.gas_limit:
                continue
            before = rules.state.snapshot()
            try:
                receipt, computation = rules.apply_transaction(header, transaction)
            except ValidationError as error:
                invalid.append((transaction, str(error)))
                continue
            except Exception as error:
                # What py-evm cannot do must not stand in the way of all that comes after.
                logger.exception("a transaction cannot be executed")
                rules.state.revert(before)
                invalid.append((transaction, str(error)))
                continue
            gas_used = receipt.gas_used - header.gas_used
            header = rules.add_receipt_to_header(header, receipt)
            applied.append(Applied(transaction, receipt, gas_used, computation.is_success))
        rules.state.persist()
        header = header.copy(
            state_root=rules.state.state_root,
            transaction_root=make_trie_root_and_nodes([found.transaction for found in applied])[0],
            receipt_root=make_trie_root_and_nodes([found.receipt for found in applied])[0],
        )
        return Executed(header, applied, invalid)

    def state(self, header: Any) -> Any:
        """The accounts after the block of `header`; nothing done to it lasts."""
        return self._rules(header, ()).state

    def call(self, header: Any, request: CallRequest, ancestors: Iterable[bytes]) -> bytes:
        """What the call returns.

        Raises `RpcError` as geth would where it reverts or fails.
        """
        computation = self._run(header, request, request.gas or GAS_LIMIT, ancestors)
        if computation.is_error:
            raise failure(computation.error)
        return bytes(computation.output)

    def estimate(self, header: Any, request: CallRequest, ancestors: Iterable[bytes]) -> int:
        """Enough gas for the transaction, at most 1/64 and a stipend above what it used, as geth finds it."""
        ancestors = tuple(ancestors)
        most = min(request.gas or GAS_LIMIT, GAS_LIMIT)
        if request.to and not request.data and not self.state(header).get_code(request.to):
            return 21_000
        computation = self._run(header, request, most, ancestors)
        if computation.is_error:
            raise failure(computation.error)
        used = self._gas_used(computation, most)
        likely = min(most, (used + computation.get_gas_refund() + STIPEND) * 64 // 63)
        if not self._run(header, request, likely, ancestors).is_error:
            return likely
        return self._search(header, request, ancestors, low=likely, high=most)

    def _search(
        self, header: Any, request: CallRequest, ancestors: Iterable[bytes], low: int, high: int
    ) -> int:
        while (high - low) * 64 > high:
            middle = min((low + high) // 2, low * 2)
            if self._run(header, request, middle, ancestors).is_error:
                low = middle
            else:
                high = middle
        return high

    @staticmethod
    def _gas_used(computation: Any, gas: int) -> int:
        return int(gas - computation.get_gas_remaining() + getattr(computation, "data_floor_gas", 0))

    def _run(self, header: Any, request: CallRequest, gas: int, ancestors: Iterable[bytes]) -> Any:
        rules = self._rules_of_calls(header, ancestors)
        unsigned = rules.get_transaction_builder().new_unsigned_dynamic_fee_transaction(
            chain_id=self.chain_id,
            nonce=rules.state.get_nonce(request.sender),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=0,
            gas=gas,
            to=request.to,
            value=request.value,
            data=request.data,
            access_list=(),
        )
        if gas < unsigned.intrinsic_gas:
            raise refused(f"intrinsic gas too low: have {gas}, want {unsigned.intrinsic_gas}")
        if rules.state.get_balance(request.sender) < request.value:
            raise refused(
                "insufficient funds for gas * price + value: address " + "0x" + request.sender.hex()
            )
        before = rules.state.snapshot()
        try:
            return rules.state.apply_transaction(SpoofTransaction(unsigned, from_=request.sender))
        finally:
            rules.state.revert(before)

    def _rules_of_calls(self, header: Any, ancestors: Iterable[bytes]) -> Any:
        """Under which gas costs nothing, since nobody pays for a call."""
        context = (header.state_root, header.parent_hash, header.timestamp)
        if self._warm is None or self._warm[0] != context:
            self._warm = (context, self._rules(header.copy(base_fee_per_gas=0), ancestors))
        return self._warm[1]

    def decode(self, raw: bytes) -> Any:
        """The signed transaction; raises where the bytes are none."""
        try:
            found = _Rules.get_transaction_builder().decode(raw)
            found.validate()
            found.check_signature_validity()
        except UnrecognizedTransactionType as error:
            raise refused("transaction type not supported") from error
        except (rlp.exceptions.RLPException, ValidationError, ValueError, TypeError, IndexError) as error:
            raise refused(f"invalid transaction: {error}") from error
        return found

    def _rules(self, header: Any, ancestors: Iterable[bytes]) -> Any:
        found = _Rules(
            header=header,
            chaindb=SimpleNamespace(db=self._db),  # type: ignore[arg-type]
            chain_context=ChainContext(self.chain_id),
            consensus_context=None,  # type: ignore[arg-type]
        )
        found.ancestors = ancestors
        return found


def failure(error: VMError) -> RpcError:
    if isinstance(error, Revert):
        return reverted(bytes(error.args[0]) if error.args and isinstance(error.args[0], bytes) else b"")
    if isinstance(error, OutOfGas):
        return refused("out of gas")
    return refused(f"execution failed: {type(error).__name__}: {error}")


def header_from(encoded: bytes) -> Any:
    return rlp.decode(encoded, sedes=PragueBlockHeader)


def encoded_header(header: Any) -> bytes:
    return bytes(rlp.encode(header))


def raw_of(transaction: Any) -> bytes:
    return bytes(transaction.encode())


def hash_of(raw: bytes) -> str:
    """A transaction's hash is that of its bytes."""
    return "0x" + keccak(raw).hex()
