"""A chain of their own for tests: a devnet, or anvil where `ANVIL` names its binary, with the contracts deployed."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
from web3 import HTTPProvider, Web3

from chain.contracts import artifact, deployment
from chain.devnet.accounts import DevelopmentAccount, development_accounts
from chain.devnet.chain import CHAIN_ID

ANVIL = os.environ.get("ANVIL")
PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


@dataclass
class Network:
    """A running chain. The accounts own a million coins each; the first deployed the contracts and operates them."""

    url: str
    process: subprocess.Popen[bytes] | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    manifest_path: Path | None = None

    accounts: Sequence[DevelopmentAccount] = field(default_factory=development_accounts)

    @cached_property
    def w3(self) -> Web3:
        return Web3(HTTPProvider(self.url, request_kwargs={"timeout": 30}))

    @property
    def chain_id(self) -> int:
        return CHAIN_ID

    @property
    def is_anvil(self) -> bool:
        return bool(ANVIL)

    @property
    def deployer(self) -> DevelopmentAccount:
        return self.accounts[0]

    @property
    def alice(self) -> DevelopmentAccount:
        return self.accounts[1]

    @property
    def bob(self) -> DevelopmentAccount:
        return self.accounts[2]

    @property
    def charlie(self) -> DevelopmentAccount:
        return self.accounts[3]

    def rpc(self, method: str, *params: Any) -> Any:
        """One call, its result as the wire has it."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = requests.post(self.url, json=body, timeout=30).json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def waiting(self, sender: DevelopmentAccount) -> list[dict[str, Any]]:
        """The sender's transactions that are not mined, by nonce."""
        content = self.rpc("txpool_content")
        found: dict[int, dict[str, Any]] = {}
        for place in ("pending", "queued"):
            for address, by_nonce in content[place].items():
                if address.lower() == sender.address.lower():
                    found |= {int(nonce): body for nonce, body in by_nonce.items()}
        return [found[nonce] for nonce in sorted(found)]

    # Blocks and time

    def head(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            self.rpc("evm_mine")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, transactions wait, and only `mine` makes blocks."""
        self.rpc("evm_setAutomine", False)
        try:
            yield
        finally:
            self.rpc("evm_setAutomine", True)

    def pass_time(self, seconds: int) -> None:
        """Turn the chain's clock on, and make a block there."""
        self.rpc("evm_increaseTime", seconds)
        self.mine()

    def snapshot(self) -> str:
        return str(self.rpc("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        if self.rpc("evm_revert", snapshot) is not True:
            raise RuntimeError(f"no snapshot {snapshot}")

    def reorganise(self, depth: int) -> None:
        """Replace the last blocks by empty ones, and go further than they did; their transactions are forgotten."""
        if self.is_anvil:
            self.rpc("anvil_reorg", depth, [])
            self.mine()
        else:
            self.rpc("anvil_reorg", depth)

    # Coins

    def send(
        self, sender: DevelopmentAccount, to: str | None, value: int = 0, data: str = "0x", **fields: Any
    ) -> Any:
        """Sign, send and wait; the receipt. Raises where the transaction failed."""
        receipt = self.w3.eth.wait_for_transaction_receipt(
            self.submit(sender, to, value, data, **fields), timeout=30, poll_latency=0.02
        )
        if receipt["status"] != 1:
            raise RuntimeError(f"the transaction {receipt['transactionHash'].hex()} failed")
        return receipt

    def submit(
        self, sender: DevelopmentAccount, to: str | None, value: int = 0, data: str = "0x", **fields: Any
    ) -> Any:
        """Sign and send, without waiting; the hash."""
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": int(self.rpc("eth_getTransactionCount", sender.address, "pending"), 16),
            "value": value,
            "data": data,
            "maxFeePerGas": 10 * 10**9,
            "maxPriorityFeePerGas": 10**9,
        } | fields
        if to is not None:
            transaction["to"] = to
        if "gas" not in transaction:
            transaction["gas"] = self.w3.eth.estimate_gas({"from": sender.address, **transaction})
        signed = self.w3.eth.account.sign_transaction(transaction, sender.private_key)
        return self.w3.eth.send_raw_transaction(signed.raw_transaction)

    def fund(self, address: str, amount: int = 10**21) -> None:
        self.send(self.deployer, address, amount, gas=21_000)

    # Contracts

    def contract(self, name: str, address: str | None = None) -> Any:
        """`contract("VAULT")`, or `contract("TASK", address)`, as web3 sees it."""
        found = artifact(name.title())
        return self.w3.eth.contract(address or self.manifest["contracts"][name.upper()], abi=found.abi)

    def transact(self, sender: DevelopmentAccount, call: Any, value: int = 0, **fields: Any) -> Any:
        """`transact(bob, contract("VAULT").functions.lock(5))`: the receipt."""
        return self.send(sender, call.address, value, call._encode_transaction_data(), **fields)

    def deploy(self, folder: Path) -> None:
        """The contracts, and the manifest that tells where they are."""
        start = self.head()
        addresses = deployment.deploy(self.w3, self.w3.eth.account.from_key(self.deployer.private_key))
        self.manifest = {
            "name": "test",
            "chain_id": self.chain_id,
            "rpc_url": self.url,
            "contracts": addresses,
            "start_block": start,
            "confirmations": 1,
        }
        self.manifest_path = folder / "manifest.json"
        self.manifest_path.write_text(json.dumps(self.manifest))

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def start(folder: Path, *options: str) -> Network:
    """A fresh chain in `folder`, or the one that is there already."""
    return _start_anvil(folder) if ANVIL else start_devnet(folder, *options)


def start_devnet(folder: Path, *options: str) -> Network:
    """Without empty blocks after transactions: tests say themselves when time passes."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "chain.devnet", "--port", "0", "--home", str(folder)]
    command += ["--port-file", str(port_file), "--tail", "0", *options]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    _wait(process, port_file.exists)
    return Network(f"http://127.0.0.1:{port_file.read_text()}", process)


def _start_anvil(folder: Path) -> Network:
    port = free_port()
    command = [str(ANVIL), "--silent", "--port", str(port), "--chain-id", str(CHAIN_ID)]
    command += ["--accounts", "20", "--balance", "1000000"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    found = Network(f"http://127.0.0.1:{port}", process)
    _wait(process, lambda: _answers(found.url))
    return found


def _wait(process: subprocess.Popen[bytes], ready: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError("the chain did not start")
        time.sleep(0.02)


def _answers(url: str) -> bool:
    try:
        return requests.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}, timeout=1).ok
    except requests.ConnectionError:
        return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="devnet-test-"))
