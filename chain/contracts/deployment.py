"""Puts a whole set of contracts on a chain, wired and ready."""

from collections.abc import Iterable
from typing import Any

from eth_account.signers.local import LocalAccount
from eth_typing import ChecksumAddress
from eth_utils import keccak, to_checksum_address
from hexbytes import HexBytes
from web3 import Web3
from web3.types import TxParams, Wei

from chain.contracts import Artifact, artifact

DAY = 24 * 60 * 60
NOBODY = to_checksum_address("0x" + "00" * 20)
CONTROLLER, JUDGE = keccak(text="CONTROLLER"), keccak(text="JUDGE")

# Gas is given, never estimated: an estimate costs as much as the transaction where the node is in this process.
GAS_OF_CALL = 200_000
GAS_OF_CREATION, GAS_PER_BYTE = 500_000, 260


class DeploymentFailed(Exception):
    """A transaction of the deployment was reverted."""


def deploy(
    w3: Web3,
    account: LocalAccount | ChecksumAddress,
    *,
    min_lockup_per_source: int = 0,
    unbonding_period: int = 7 * DAY,
    operators: Iterable[str] = (),
    guardian: str | None = None,
    judge: str | None = None,
    daily_limit: int = 0,
    timeout: float = 120,
) -> dict[str, str]:
    """Create all contracts, wire them, and return their addresses by the keys of a network's manifest.

    `account` pays, and becomes the owner and the only admin of everything: a local account, which signs here, or an
    address that the node itself can sign for. `operators` may withdraw from the Treasury and publish Receipts,
    `guardian` may pause the Treasury, `judge` may sanction. `min_lockup_per_source` (base units) is the stake
    of a provider for each registration, `unbonding_period` (seconds, at most 90 days) the way back of a stake,
    `daily_limit` (base units, 0 is none) what leaves the Treasury on one day.

    About 20 transactions, sent at once with their nonces in order. Raises `DeploymentFailed` when one is reverted,
    `web3.exceptions.TimeExhausted` when one is not mined within `timeout` seconds.
    """
    sender = _Sender(w3, account)
    addresses = _create(sender)
    _wire(sender, addresses)
    _configure(sender, addresses, min_lockup_per_source, unbonding_period, judge)
    _entrust(sender, addresses, operators, guardian, daily_limit)
    sender.wait(timeout)
    return addresses


def _create(sender: "_Sender") -> dict[str, str]:
    manager = sender.create(artifact("Manager"))
    # The vault's address is not known yet: it is set in `_wire`.
    terminal = sender.create(artifact("Terminal"), manager, NOBODY)
    nexus = sender.create(artifact("Nexus"), manager, terminal, NOBODY)
    vault = sender.create(artifact("Vault"), manager, nexus, terminal)
    return {
        "MANAGER": manager,
        "TERMINAL": terminal,
        "NEXUS": nexus,
        "VAULT": vault,
        "CONTROLLER": sender.create(artifact("Controller"), nexus, terminal, vault),
        "TREASURY": sender.create(artifact("Treasury")),
        "RECEIPTS": sender.create(artifact("Receipts")),
    }


def _wire(sender: "_Sender", addresses: dict[str, str]) -> None:
    source, task, response = (
        sender.create_blueprint(artifact(name)) for name in ("Source", "Task", "Response")
    )
    terminal = sender.at(addresses["TERMINAL"], artifact("Terminal"))
    nexus = sender.at(addresses["NEXUS"], artifact("Nexus"))
    controller = sender.at(addresses["CONTROLLER"], artifact("Controller"))
    manager = sender.at(addresses["MANAGER"], artifact("Manager"))
    sender.call(terminal, "setVault", addresses["VAULT"])
    sender.call(nexus, "setVault", addresses["VAULT"])
    sender.call(nexus, "setBlueprints", source, response)
    sender.call(controller, "setTaskBlueprint", task)
    sender.call(manager, "grantRole", CONTROLLER, addresses["NEXUS"])
    sender.call(manager, "grantRole", CONTROLLER, addresses["CONTROLLER"])


def _configure(
    sender: "_Sender",
    addresses: dict[str, str],
    min_lockup_per_source: int,
    unbonding_period: int,
    judge: str | None,
) -> None:
    vault = sender.at(addresses["VAULT"], artifact("Vault"))
    sender.call(vault, "setMinLockupPerSource", min_lockup_per_source)
    sender.call(vault, "setMaxUnbondingPeriod", unbonding_period)
    if judge:
        manager = sender.at(addresses["MANAGER"], artifact("Manager"))
        sender.call(manager, "grantRole", JUDGE, judge)


def _entrust(
    sender: "_Sender",
    addresses: dict[str, str],
    operators: Iterable[str],
    guardian: str | None,
    daily_limit: int,
) -> None:
    treasury = sender.at(addresses["TREASURY"], artifact("Treasury"))
    receipts = sender.at(addresses["RECEIPTS"], artifact("Receipts"))
    for operator in operators:
        sender.call(treasury, "setOperator", operator, True)
        sender.call(receipts, "setOperator", operator, True)
    if guardian:
        sender.call(treasury, "setGuardian", guardian)
    if daily_limit:
        sender.call(treasury, "setDailyLimit", daily_limit)


class _Sender:
    """Sends transactions of one account without waiting between them."""

    def __init__(self, w3: Web3, account: LocalAccount | ChecksumAddress) -> None:
        self.w3 = w3
        self.signer = account if isinstance(account, LocalAccount) else None
        self.address: ChecksumAddress = (
            self.signer.address if self.signer else to_checksum_address(str(account))
        )
        self.nonce = w3.eth.get_transaction_count(self.address, "pending")
        self.common: TxParams = {"from": self.address, "chainId": w3.eth.chain_id, **self._fees()}
        self.sent: list[tuple[str, HexBytes]] = []

    def _fees(self) -> TxParams:
        """Enough for a base fee that doubles while the transactions wait; legacy where blocks have none."""
        base_fee = self.w3.eth.get_block("latest").get("baseFeePerGas")
        if base_fee is None:
            return {"gasPrice": self.w3.eth.gas_price}
        tip = self.w3.eth.max_priority_fee
        return {"maxPriorityFeePerGas": tip, "maxFeePerGas": Wei(tip + 2 * base_fee)}

    def at(self, address: str, contract: Artifact) -> Any:
        return self.w3.eth.contract(address=to_checksum_address(address), abi=contract.abi)

    def create(self, contract: Artifact, *arguments: str) -> str:
        constructor = self.w3.eth.contract(abi=contract.abi, bytecode=contract.bytecode).constructor(
            *arguments
        )
        return self._create(contract.name, constructor.data_in_transaction)

    def create_blueprint(self, contract: Artifact) -> str:
        if contract.blueprint is None:
            raise ValueError(f"{contract.name} is not created by contracts.")
        return self._create(f"blueprint of {contract.name}", contract.blueprint)

    def call(self, contract: Any, function: str, *arguments: Any) -> None:
        data = contract.encode_abi(function, args=arguments)
        self._send(function, {"to": contract.address, "data": data}, GAS_OF_CALL)

    def wait(self, timeout: float) -> None:
        for what, transaction_hash in self.sent:
            receipt = self.w3.eth.wait_for_transaction_receipt(
                transaction_hash, timeout=timeout, poll_latency=0.2
            )
            if receipt["status"] != 1:
                raise DeploymentFailed(f"{what}: transaction {transaction_hash.to_0x_hex()} was reverted.")

    def _create(self, what: str, data: Any) -> str:
        address = _created_by(self.address, self.nonce)
        self._send(what, {"data": data}, GAS_OF_CREATION + GAS_PER_BYTE * len(HexBytes(data)))
        return address

    def _send(self, what: str, transaction: TxParams, gas: int) -> None:
        complete: TxParams = {
            **self.common,
            **transaction,
            "nonce": self.nonce,
            "gas": gas,
            "value": Wei(0),
        }
        if self.signer:
            signed = self.signer.sign_transaction(complete)  # type: ignore[arg-type]
            sent = self.w3.eth.send_raw_transaction(signed.raw_transaction)
        else:
            sent = self.w3.eth.send_transaction(complete)
        self.sent.append((what, HexBytes(sent)))
        self.nonce = type(self.nonce)(self.nonce + 1)


def _created_by(address: ChecksumAddress, nonce: int) -> str:
    """Where that account's transaction of that nonce puts a contract: the hash of [address, nonce] in RLP.

    Ethereum yellow paper, section 7 and appendix B.
    """
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    if not 0 < nonce < 0x80:
        number = bytes([0x80 + len(number)]) + number
    items = bytes([0x80 + 20]) + bytes.fromhex(address[2:]) + number
    return to_checksum_address(keccak(bytes([0xC0 + len(items)]) + items)[12:])
