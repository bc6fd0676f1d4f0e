"""The methods of Ethereum's JSON-RPC that this chain answers (https://ethereum.github.io/execution-apis/)."""

from collections.abc import Callable
from typing import Any

from eth_utils import keccak

from chain.devnet.chain import Chain
from chain.devnet.control import Control
from chain.devnet.errors import INVALID_PARAMS, LIMIT_EXCEEDED, METHOD_NOT_FOUND, RpcError, invalid, refused
from chain.devnet.formats import (
    data,
    parse_address,
    parse_data,
    parse_quantity,
    quantity,
)
from chain.devnet.logs import parse_query
from chain.devnet.machine import CallRequest

VERSION = "chain.devnet/1.0"
TIP = 10**9
MOST_LOGS = 20_000
MOST_FEE_BLOCKS = 1024

Method = Callable[..., Any]


class Methods:
    """`call(name, params)` answers one request; every method is one entry of a table."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._table: dict[str, Method] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        } | Control(chain).table()

    def call(self, name: str, params: list[Any]) -> Any:
        method = self._table.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {name} does not exist/is not available")
        try:
            with self._chain.lock:
                return method(*params)
        except TypeError as error:
            # Too many or too few arguments; not an error of the method's own.
            if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            raise RpcError(INVALID_PARAMS, f"invalid arguments for {name}") from error

    # Who and where

    def do_web3_clientVersion(self) -> str:
        return VERSION

    def do_web3_sha3(self, value: str) -> str:
        return data(keccak(parse_data(value)))

    def do_net_version(self) -> str:
        return str(self._chain.machine.chain_id)

    def do_net_listening(self) -> bool:
        return True

    def do_eth_chainId(self) -> str:
        return quantity(self._chain.machine.chain_id)

    def do_eth_syncing(self) -> bool:
        return False

    def do_eth_accounts(self) -> list[str]:
        """None: this node holds no keys, and signs nothing."""
        return []

    def do_eth_blockNumber(self) -> str:
        return quantity(self._chain.head.block_number)

    # Accounts

    def do_eth_getBalance(self, address: str, block: Any = "latest") -> str:
        return quantity(self._state(block).get_balance(parse_address(address)))

    def do_eth_getCode(self, address: str, block: Any = "latest") -> str:
        return data(self._state(block).get_code(parse_address(address)))

    def do_eth_getStorageAt(self, address: str, slot: str, block: Any = "latest") -> str:
        found = self._state(block).get_storage(parse_address(address), parse_quantity(slot, "slot"))
        return data(found.to_bytes(32, "big"))

    def do_eth_getTransactionCount(self, address: str, block: Any = "latest") -> str:
        sender = parse_address(address)
        nonce = self._state(block).get_nonce(sender)
        return quantity(self._chain.pool.next_nonce(sender, nonce) if block == "pending" else nonce)

    # Calls

    def do_eth_call(self, request: dict[str, Any], block: Any = "latest", overrides: Any = None) -> str:
        if overrides:
            raise invalid("invalid argument: state overrides are not supported")
        header = self._context(block)
        ancestors = self._chain.ancestors(header.block_number)
        return data(self._chain.machine.call(header, _call_request(request), ancestors))

    def do_eth_estimateGas(self, request: dict[str, Any], block: Any = "latest") -> str:
        header = self._context(block)
        ancestors = self._chain.ancestors(header.block_number)
        return quantity(self._chain.machine.estimate(header, _call_request(request), ancestors))

    # Fees

    def do_eth_gasPrice(self) -> str:
        return quantity(self._chain.upcoming().base_fee_per_gas + TIP)

    def do_eth_maxPriorityFeePerGas(self) -> str:
        return quantity(TIP)

    def do_eth_feeHistory(
        self, count: Any, newest: Any, percentiles: list[float] | None = None
    ) -> dict[str, Any]:
        last = self._number(newest)
        count = min(parse_quantity(count, "blockCount"), MOST_FEE_BLOCKS, last + 1)
        if count < 1:
            return {"oldestBlock": "0x0", "gasUsedRatio": []}
        _check_percentiles(percentiles)
        headers = [self._chain.header_at(number) for number in range(last - count + 1, last + 1)]
        follower = self._chain.machine.successor(headers[-1], timestamp=headers[-1].timestamp)
        found = {
            "oldestBlock": quantity(headers[0].block_number),
            "baseFeePerGas": [quantity(header.base_fee_per_gas) for header in [*headers, follower]],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
        }
        if percentiles:
            found["reward"] = [self._rewards(header, percentiles) for header in headers]
        return found

    def _rewards(self, header: Any, percentiles: list[float]) -> list[str]:
        tips = sorted(
            int(receipt["effectiveGasPrice"], 16) - header.base_fee_per_gas
            for receipt in self._chain.store.receipts_of(header.block_number)
        )
        if not tips:
            return ["0x0"] * len(percentiles)
        return [quantity(tips[min(len(tips) - 1, int(len(tips) * share / 100))]) for share in percentiles]

    # Blocks

    def do_eth_getBlockByNumber(self, block: Any, full: bool = False) -> dict[str, Any] | None:
        try:
            number = self._number(block)
        except _Unknown:
            return None
        return self._block(number, full)

    def do_eth_getBlockByHash(self, block_hash: str, full: bool = False) -> dict[str, Any] | None:
        number = self._chain.store.number_of(data(parse_data(block_hash, "hash", 32)))
        return None if number is None else self._block(number, full)

    def do_eth_getBlockReceipts(self, block: Any) -> list[dict[str, Any]] | None:
        try:
            return self._chain.store.receipts_of(self._number(block))
        except _Unknown:
            return None

    def do_eth_getBlockTransactionCountByNumber(self, block: Any) -> str | None:
        found = self.do_eth_getBlockByNumber(block)
        return None if found is None else quantity(len(found["transactions"]))

    def do_eth_getBlockTransactionCountByHash(self, block_hash: str) -> str | None:
        found = self.do_eth_getBlockByHash(block_hash)
        return None if found is None else quantity(len(found["transactions"]))

    def _block(self, number: int, full: bool) -> dict[str, Any] | None:
        found = self._chain.store.block(number)
        if found is not None and full:
            found["transactions"] = self._chain.store.transactions_of(number)
        return found

    # Transactions and logs

    def do_eth_sendRawTransaction(self, raw: str) -> str:
        return self._chain.submit(parse_data(raw, "transaction"))

    def do_eth_getTransactionByHash(self, transaction_hash: str) -> dict[str, Any] | None:
        wanted = data(parse_data(transaction_hash, "hash", 32))
        waiting = self._chain.pool.get(wanted)
        return self._chain.store.transaction(wanted) if waiting is None else self._chain.waiting_json(waiting)

    def do_eth_getTransactionByBlockNumberAndIndex(self, block: Any, index: str) -> dict[str, Any] | None:
        return _nth(self.do_eth_getBlockByNumber(block, True), index)

    def do_eth_getTransactionByBlockHashAndIndex(self, block_hash: str, index: str) -> dict[str, Any] | None:
        return _nth(self.do_eth_getBlockByHash(block_hash, True), index)

    def do_eth_getTransactionReceipt(self, transaction_hash: str) -> dict[str, Any] | None:
        return self._chain.store.receipt(data(parse_data(transaction_hash, "hash", 32)))

    def do_eth_getLogs(self, criteria: dict[str, Any]) -> list[dict[str, Any]]:
        query = parse_query(criteria, number=self._number_of_tag, number_of_hash=self._chain.store.number_of)
        if query.first > query.last:
            raise invalid("invalid block range params")
        found = self._chain.store.logs(query, MOST_LOGS + 1)
        if len(found) > MOST_LOGS:
            raise RpcError(LIMIT_EXCEEDED, f"query returned more than {MOST_LOGS} results")
        return found

    # Blocks by name

    def _number(self, block: Any) -> int:
        """The number of a block that exists: a tag, a number, or an object of EIP-1898."""
        if isinstance(block, dict):
            block = self._by_object(block)
        number = self._number_of_tag(block)
        if not 0 <= number <= self._chain.head.block_number:
            raise _Unknown
        return number

    def _by_object(self, block: dict[str, Any]) -> Any:
        if "blockHash" not in block:
            return block.get("blockNumber", "latest")
        number = self._chain.store.number_of(data(parse_data(block["blockHash"], "hash", 32)))
        if number is None:
            raise _Unknown
        return quantity(number)

    def _number_of_tag(self, block: Any) -> int:
        if block in ("latest", "pending", "safe", "finalized", None):
            return int(self._chain.head.block_number)
        return 0 if block == "earliest" else parse_quantity(block, "block number")

    def _state(self, block: Any) -> Any:
        return self._chain.machine.state(self._chain.header_at(self._number(block)))

    def _context(self, block: Any) -> Any:
        """The header that a call runs under; on the newest block it is already now, though the chain may rest."""
        header = self._chain.header_at(self._number(block))
        if block in ("latest", "pending", None):
            return header.copy(timestamp=self._chain.upcoming_timestamp())
        return header


class _Unknown(RpcError):
    def __init__(self) -> None:
        super().__init__(refused("header not found").code, "header not found")


def _call_request(request: Any) -> CallRequest:
    if not isinstance(request, dict):
        raise invalid("invalid argument: the call must be an object")
    payload = request.get("input") or request.get("data") or "0x"
    gas = request.get("gas")
    return CallRequest(
        sender=parse_address(request["from"], "from") if request.get("from") else CallRequest.sender,
        to=parse_address(request["to"], "to") if request.get("to") else b"",
        value=parse_quantity(request.get("value") or "0x0", "value"),
        data=parse_data(payload, "data"),
        gas=None if gas is None else parse_quantity(gas, "gas"),
    )


def _check_percentiles(percentiles: Any) -> None:
    accepted = percentiles is None or (
        isinstance(percentiles, list)
        and all(type(share) in (int, float) and 0 <= share <= 100 for share in percentiles)
    )
    if not accepted:
        raise invalid("invalid argument: percentiles must be a list of numbers from 0 to 100")


def _nth(block: dict[str, Any] | None, index: str) -> dict[str, Any] | None:
    position = parse_quantity(index, "index")
    if block is None or position >= len(block["transactions"]):
        return None
    found: dict[str, Any] = block["transactions"][position]
    return found
