"""A chain's node from outside, what befalls it, and a wire to it that is cut at the very moment something is sent."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import requests
import rlp
from eth_account import Account
from eth_utils import function_abi_to_4byte_selector, keccak

from chain.contracts import artifact
from tests.flows.conftest import Marketplace

TIMEOUT_S = 30
CONTRACTS = ("Nexus", "Controller", "Terminal", "Vault", "Treasury", "Receipts")


class Node:
    """Asks a chain's node, and has the development chain (or anvil) do what real chains do by themselves."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._numbers = count(1)
        self.is_anvil = "anvil" in self.rpc("web3_clientVersion")

    def rpc(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": parameters}
        said = self._session.post(self.url, json=body, timeout=TIMEOUT_S).json()
        assert "error" not in said, (method, said["error"])
        return said["result"]

    def head(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)

    def mine(self, blocks: int) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def nonce(self, address: str) -> int:
        """How many transactions of an address are in blocks."""
        return int(self.rpc("eth_getTransactionCount", address, "latest"), 16)

    def receipt(self, transaction: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.rpc("eth_getTransactionReceipt", transaction)
        return found

    def block_of(self, transaction: str) -> int:
        receipt = self.receipt(transaction)
        assert receipt is not None, f"{transaction} is in no block"
        return int(receipt["blockNumber"], 16)

    def logs(self, address: str, event: str) -> list[dict[str, Any]]:
        """All that a contract has ever told by an event such as "Claimed(address,uint256)"."""
        topic = "0x" + keccak(text=event).hex()
        asked = {"fromBlock": "0x0", "toBlock": "latest", "address": address, "topics": [topic]}
        return list(self.rpc("eth_getLogs", asked))

    def waiting(self, sender: str) -> list[dict[str, Any]]:
        """What an address has sent that is in no block."""
        said = self.rpc("txpool_content")
        theirs = [by[each] for by in said.values() for each in by if each.lower() == sender.lower()]
        return [transaction for by_nonce in theirs for transaction in by_nonce.values()]

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is sent meanwhile waits."""
        self.rpc("evm_setAutomine", False)
        try:
            yield
        finally:
            self.rpc("evm_setAutomine", True)
            self.mine(1)

    @contextmanager
    def ticking(self, every_s: float = 0.25) -> Iterator[None]:
        """Time passes on the chain, whether anybody sends something or not."""
        over = threading.Event()

        def tick() -> None:
            node = Node(self.url)
            while not over.wait(every_s):
                node.mine(1)

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join()

    def reorganise(self, depth: int, *, forget: Collection[str] | None = ()) -> None:
        """Replace so many blocks. What stood in them is mined again, but for these hashes; None: nothing of it is."""
        head = self.head()
        blocks = [
            self.rpc("eth_getBlockByNumber", hex(number), True)
            for number in range(head - depth + 1, head + 1)
        ]
        gone = [each for block in blocks for each in block["transactions"]]
        self.rpc("anvil_reorg", depth, *([[]] if self.is_anvil else []))
        for transaction in gone:
            if forget is not None and transaction["hash"] not in forget:
                self.send(raw_of(transaction))
        self.mine(1)

    def send(self, raw: bytes) -> str:
        """The hash. What the node knows already is no error."""
        with suppress(AssertionError):
            self.rpc("eth_sendRawTransaction", "0x" + raw.hex())
        return "0x" + keccak(raw).hex()

    def spend_nonce(self, key: str, nonce: int) -> None:
        """Have something else of a wallet stand where a transaction of its stood that must not come back."""
        made = {
            "type": 2,
            "chainId": int(self.rpc("eth_chainId"), 16),
            "nonce": nonce,
            "to": Account.from_key(key).address,
            "value": 0,
            "gas": 21_000,
            "maxFeePerGas": 10 * int(self.rpc("eth_gasPrice"), 16),
            "maxPriorityFeePerGas": 10**9,
        }
        self.send(bytes(Account.sign_transaction(made, key).raw_transaction))


def raw_of(transaction: dict[str, Any]) -> bytes:
    """A transaction (EIP-1559) as it was signed, from what a node tells of it."""
    assert int(transaction["type"], 16) == 2, transaction
    numbers = {name: int(transaction[name], 16) for name in (*_BEFORE, "value", "r", "s")}
    parity = int(transaction.get("yParity", transaction["v"]), 16)
    payload = [
        *(numbers[name] for name in _BEFORE),
        bytes.fromhex(transaction["to"][2:]),
        numbers["value"],
        bytes.fromhex(transaction["input"][2:]),
        [],
        parity,
        numbers["r"],
        numbers["s"],
    ]
    return b"\x02" + bytes(rlp.encode(payload))


_BEFORE = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")


def function_of(raw: str) -> str:
    """The name of what a signed transaction calls; empty for a plain sending."""
    fields: Any = rlp.decode(bytes.fromhex(raw[4:]))
    return _FUNCTIONS.get(fields[7][:4], "")


_FUNCTIONS = {
    function_abi_to_4byte_selector(entry): entry["name"]  # type: ignore[arg-type]
    for name in CONTRACTS
    for entry in artifact(name).abi
    if entry["type"] == "function"
}


class Wire:
    """Between the worker and its node. `strike` has something happen the next time that a function is called.

    What is struck "after" has reached the node, whose answer nobody gets; "before", the node has not heard of it.
    """

    def __init__(self, target: str, *, port: int = 0) -> None:
        self.target = target
        self.struck: list[tuple[str, str]] = []
        self.sent: Counter[str] = Counter()
        self._armed: dict[str, tuple[str, Callable[[str], object]]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def strike(self, function: str, when: str, what: Callable[[str], object]) -> None:
        """`what` gets the transaction's hash."""
        with self._lock:
            self._armed[function] = when, what

    def armed(self) -> set[str]:
        with self._lock:
            return set(self._armed)

    def disarm(self) -> None:
        with self._lock:
            self._armed.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def pass_on(self, body: bytes) -> bytes:
        """The node's answer. Raises Cut."""
        raws = [each["params"][0] for each in _requests(body) if each["method"] == _SEND]
        function = next((function_of(raw) for raw in raws), "")
        with self._lock:
            when, what = self._armed.pop(function, ("", None))
        if when == "before":
            self._struck(function, when, raws[0], what)
        answer = requests.post(self.target, body, headers=_JSON, timeout=TIMEOUT_S).content
        self.sent.update([function] if raws else [])
        if when == "after":
            self._struck(function, when, raws[0], what)
        return answer

    def _struck(self, function: str, when: str, raw: str, what: Callable[[str], object] | None) -> None:
        assert what is not None
        what("0x" + keccak(hexstr=raw).hex())
        self.struck.append((function, when))
        raise Cut

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                try:
                    if len(body) < length:
                        raise Cut  # who asks was killed while asking
                    answer = wire.pass_on(body)
                except (Cut, requests.RequestException):
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(answer)
                    self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle(self) -> None:
                # Who asks is killed all the time.
                with suppress(OSError):
                    super().handle()

        return Handler


class Cut(Exception):
    """The connection ends without an answer."""


_SEND, _JSON = "eth_sendRawTransaction", {"Content-Type": "application/json"}


def _requests(body: bytes) -> list[dict[str, Any]]:
    said = json.loads(body)
    return said if isinstance(said, list) else [said]


@contextmanager
def wired(marketplace: Marketplace) -> Iterator[Wire]:
    """Have the chain's worker speak to its node by way of a wire: the manifest of the home says where the node is."""
    manifest = marketplace.home / "chain" / "network.json"
    before = manifest.read_text()
    said = json.loads(before)
    wire = Wire(said["rpc_url"])
    manifest.write_text(json.dumps(said | {"rpc_url": wire.url}))
    try:
        marketplace.kill("chain")
        yield wire
    finally:
        wire.disarm()
        manifest.write_text(before)
        marketplace.kill("chain")
        # Whatever was started meanwhile reads where the node is as well.
        wire.close()


@contextmanager
def away(marketplace: Marketplace, how: str) -> Iterator[None]:
    """The node is frozen ("stopped"), or killed as often as it is started again ("killed")."""
    if how == "stopped":
        node = marketplace.pid("devnet")
        os.kill(node, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(node, signal.SIGCONT)
        return
    over = threading.Event()
    killer = threading.Thread(target=_keep_killing, args=(marketplace, "devnet", over))
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def _keep_killing(marketplace: Marketplace, part: str, over: threading.Event) -> None:
    """Each process once: its number may be another's as soon as it has been reaped."""
    killed = 0
    while not over.is_set():
        found = marketplace.pid(part)
        if found != killed:
            killed = found
            with suppress(ProcessLookupError):
                os.kill(found, signal.SIGKILL)
        time.sleep(0.05)
