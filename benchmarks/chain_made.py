"""Puts tasks on a development chain: their whole lives, and one task that very many providers have answered.

    python -m benchmarks.chain_made RPC_URL FILE EVENTS RESPONSES

FILE gets what was made, as JSON: the network's manifest, and the address of the task with the many answers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils import keccak
from web3 import HTTPProvider, Web3

from chain.contracts import artifact, deployment
from chain.devnet.accounts import development_accounts

AT_ONCE = 100
TOKEN = 10**18
PRICE = 10**15
FEE = 10 * 10**9


@dataclass
class Made:
    """Sends without waiting: the chain makes a block of each transaction."""

    url: str
    web3: Web3
    chain_id: int
    contracts: dict[str, str]
    nonces: dict[str, int] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    session: requests.Session = field(default_factory=requests.Session)

    def send(
        self, account: LocalAccount, to: str, data: str = "0x", *, value: int = 0, gas: int = 500_000
    ) -> None:
        nonce = self.nonces.get(account.address)
        if nonce is None:
            nonce = self.web3.eth.get_transaction_count(account.address)
        self.nonces[account.address] = nonce + 1
        signed = account.sign_transaction(
            {
                "type": 2, "chainId": self.chain_id, "nonce": nonce, "to": to, "data": data, "value": value, "gas": gas,
                "maxFeePerGas": FEE, "maxPriorityFeePerGas": 10**9,
            }
        )  # fmt: skip
        self.waiting.append("0x" + bytes(signed.raw_transaction).hex())
        if len(self.waiting) >= AT_ONCE:
            self.flush()

    def call(self, account: LocalAccount, name: str, function: str, *arguments: Any, **options: Any) -> None:
        contract = self.web3.eth.contract(abi=artifact(name).abi)
        data = contract.encode_abi(function, args=list(arguments))
        self.send(account, self.contracts[name.upper()], data, **options)

    def read(self, name: str, address: str, function: str, *arguments: Any) -> Any:
        contract = self.web3.eth.contract(Web3.to_checksum_address(address), abi=artifact(name).abi)
        return contract.functions[function](*arguments).call()

    def flush(self) -> None:
        """Raises RuntimeError where one is not taken."""
        body = [
            {"jsonrpc": "2.0", "id": number, "method": "eth_sendRawTransaction", "params": [raw]}
            for number, raw in enumerate(self.waiting)
        ]
        self.waiting = []
        if body:
            for answer in self.session.post(self.url, json=body, timeout=120).json():
                if "error" in answer:
                    raise RuntimeError(answer["error"])

    def events(self) -> int:
        found = self.web3.eth.get_logs(
            {
                "fromBlock": 0,
                "toBlock": "latest",
                "address": [Web3.to_checksum_address(one) for one in self.followed],
            }
        )
        return len(found)

    @property
    def followed(self) -> Sequence[str]:
        """Of the contracts that are read (`chain.decoding.FOLLOWED`)."""
        return [address for name, address in self.contracts.items() if name != "MANAGER"]


def make(url: str, *, events: int, responses: int) -> dict[str, Any]:
    """A task with so many responses; then tasks that are published, attempted, answered and confirmed."""
    web3 = Web3(HTTPProvider(url))
    operator, alice, bob = (Account.from_key(one.private_key) for one in development_accounts()[:3])
    made = Made(url, web3, web3.eth.chain_id, deployment.deploy(web3, operator))
    source = _source(made, alice)
    crowded = _task(made, alice, source, number=0)
    _answers(made, operator, crowded, source, responses)
    made.call(bob, "Nexus", "register", source, bob.address, 1)
    # The events that the answers are leave so many to the other tasks.
    per_task = 0
    while (there := made.events()) < events:
        missing = events - there
        for _ in range(max(missing // per_task, 1) if per_task else 1):
            _life(made, alice, bob, source)
        made.flush()
        per_task = per_task or made.events() - there
    manifest = {"name": "bench", "chain_id": made.chain_id, "rpc_url": url, "contracts": made.contracts}
    manifest |= {"start_block": 0, "confirmations": 1}
    return {"manifest": manifest, "task": crowded, "events": there, "responses": responses}


def _source(made: Made, owner: LocalAccount) -> str:
    params = (owner.address, "https://files.example/source.json", 7, PRICE, 0, 10**9, False, "", 0, 0)
    made.call(owner, "Nexus", "publishSource", params, gas=3_000_000)
    made.call(owner, "Vault", "deposit", owner.address, value=10_000 * TOKEN)
    made.flush()
    return str(made.read("Nexus", made.contracts["NEXUS"], "getSources", 0, 10)[0])


def _task(made: Made, client: LocalAccount, source: str, *, number: int) -> str:
    """Published, and its address, which is known as soon as it is in a block."""
    expiry = made.web3.eth.get_block("latest")["timestamp"] + 10**8
    link = f"https://files.example/task-{number}.json"
    made.call(client, "Controller", "publishTask", (source, link, expiry, TOKEN), gas=2_000_000)
    made.flush()
    count = made.read("Source", source, "getTaskCount")
    return str(made.read("Source", source, "getTasks", count - 1, count - 1)[0])


def _answers(made: Made, operator: LocalAccount, task: str, source: str, count: int) -> None:
    """Each of them from a provider of its own."""
    providers = [Account.from_key(keccak(text=f"provider {number}")) for number in range(count)]
    for provider in providers:
        made.send(operator, provider.address, value=TOKEN, gas=21_000)
    for number, provider in enumerate(providers):
        link = f"https://files.example/answer-{number}.json"
        made.call(provider, "Nexus", "register", source, provider.address, 1)
        made.call(provider, "Nexus", "attempt", task, provider.address, PRICE)
        response = (task, provider.address, link, PRICE)
        made.call(provider, "Nexus", "submitResponse", response, gas=1_500_000)
    made.flush()
    found = made.read("Task", task, "getAttemptCount")
    if found != count:
        raise RuntimeError(f"{found} of {count} providers could answer.")


def _life(made: Made, client: LocalAccount, provider: LocalAccount, source: str) -> None:
    """From its publication to the payment."""
    number = made.nonces.get(client.address, 0)
    task = _task(made, client, source, number=number)
    made.call(provider, "Nexus", "attempt", task, provider.address, PRICE)
    link = f"https://files.example/answer-{task}.json"
    made.call(provider, "Nexus", "submitResponse", (task, provider.address, link, PRICE), gas=1_500_000)
    made.flush()
    response = made.read("Task", task, "responseOf", provider.address)
    made.call(client, "Controller", "confirmResponse", response, gas=1_000_000)


def main() -> None:
    url, file, events, responses = sys.argv[1:]
    made = make(url, events=int(events), responses=int(responses))
    Path(file).write_bytes(orjson.dumps(made))


if __name__ == "__main__":
    main()
