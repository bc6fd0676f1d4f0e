"""The gas of each main call, on eth-tester: `python -m tests.chain.contract_gas` writes the table of the README."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from web3 import EthereumTesterProvider, Web3
from web3.logs import DISCARD

from chain.contracts import artifact
from chain.contracts.deployment import deploy

README = Path("chain/contracts/README.md")
COIN = 10**18
GAS = 5_000_000
MANUAL_CONFIRMATION, FIRST_RESPONSE = range(2)
URL = "https://files.example/ipfs/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


class Meter:
    """Sends transactions, and keeps what each of them used under a name."""

    def __init__(self) -> None:
        self.w3 = Web3(EthereumTesterProvider())
        self.deployer, self.alice, self.bob, self.mary, self.operator, *_ = self.w3.eth.accounts
        addresses = deploy(self.w3, self.deployer, operators=[self.operator], unbonding_period=0)
        for name in ("Nexus", "Controller", "Terminal", "Vault", "Treasury", "Receipts"):
            setattr(self, name.lower(), self.at(addresses[name.upper()], name))
        self.used: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def at(self, address: str, name: str) -> Any:
        return self.w3.eth.contract(address=Web3.to_checksum_address(address), abi=artifact(name).abi)

    def send(self, sender: str, function: Any, *, value: int = 0, name: str = "") -> Any:
        sent = function.transact({"from": sender, "gas": GAS, "value": value})
        receipt = self.w3.eth.wait_for_transaction_receipt(sent)
        assert receipt["status"] == 1, name
        if name:
            self.used[name] = receipt["gasUsed"]
        return receipt

    def now(self) -> int:
        return int(self.w3.eth.get_block("latest")["timestamp"])

    def source(self, delivery: int, name: str = "") -> str:
        params = (self.alice, URL, 1, COIN, 0, 86_400, False, "", delivery, self.now())
        receipt = self.send(self.alice, self.nexus.functions.publishSource(params), name=name)
        return str(
            self.nexus.events.SourcePublished().process_receipt(receipt, errors=DISCARD)[0]["args"]["source"]
        )

    def task(self, source: str, name: str = "") -> str:
        params = (source, URL, self.now() + 3600, 2 * COIN)
        receipt = self.send(self.alice, self.controller.functions.publishTask(params), name=name)
        return str(
            self.nexus.events.TaskPublished().process_receipt(receipt, errors=DISCARD)[0]["args"]["task"]
        )


def measure() -> dict[str, int]:
    """Gas by the name of a call. All accounts have traded before, as in the life of a market."""
    meter = Meter()
    _stakes(meter)
    for round_ in (False, True):
        _trade(meter, measured=round_)
    _ends(meter)
    _treasury(meter)
    return meter.used


def _stakes(meter: Meter) -> None:
    vault, terminal = meter.vault.functions, meter.terminal.functions
    meter.send(meter.alice, vault.deposit(meter.alice), value=50 * COIN)
    meter.send(meter.alice, vault.deposit(meter.alice), value=50 * COIN, name="Vault.deposit")
    announce = terminal.announceProvider(meter.bob, COIN)
    meter.send(meter.mary, announce, value=COIN, name="Terminal.announceProvider, with a stake")
    meter.send(meter.bob, terminal.announceMaster(meter.mary), name="Terminal.announceMaster")
    meter.send(meter.alice, terminal.setAgent(meter.operator, True), name="Terminal.setAgent")
    meter.send(meter.alice, vault.lock(COIN), name="Vault.lock")
    meter.send(meter.alice, vault.unbond(COIN), name="Vault.unbond")
    meter.send(meter.alice, vault.claim(), name="Vault.claim")
    meter.send(meter.alice, vault.withdraw(COIN), name="Vault.withdraw")


def _trade(meter: Meter, *, measured: bool) -> None:
    nexus, named = meter.nexus.functions, (lambda name: name) if measured else (lambda name: "")
    for delivery, suffix in (
        (MANUAL_CONFIRMATION, ""),
        (FIRST_RESPONSE, ", first response: confirmed and paid"),
    ):
        source = meter.source(delivery, named("Nexus.publishSource"))
        task = meter.task(source, named("Controller.publishTask"))
        meter.send(meter.bob, nexus.register(source, meter.bob, 1), name=named("Nexus.register"))
        meter.send(meter.bob, nexus.attempt(task, meter.bob, COIN), name=named("Nexus.attempt"))
        submit = nexus.submitResponse((task, meter.bob, URL, COIN))
        meter.send(meter.bob, submit, name=named("Nexus.submitResponse" + suffix))
        if delivery == MANUAL_CONFIRMATION:
            (response,) = meter.at(task, "Task").functions.getResponsesOf(0, 0).call()
            confirm = meter.controller.functions.confirmResponse(response)
            meter.send(meter.alice, confirm, name=named("Controller.confirmResponse"))


def _ends(meter: Meter) -> None:
    source = meter.source(MANUAL_CONFIRMATION)
    task = meter.task(source)
    meter.send(meter.alice, meter.controller.functions.cancelTask(task), name="Controller.cancelTask")
    task = meter.task(source)
    meter.w3.provider.ethereum_tester.time_travel(meter.now() + 7200)  # type: ignore[attr-defined]
    meter.send(meter.mary, meter.nexus.functions.expireTask(task), name="Nexus.expireTask")
    meter.send(meter.alice, meter.nexus.functions.inactivateSource(source), name="Nexus.inactivateSource")


def _treasury(meter: Meter) -> None:
    treasury = meter.treasury.functions
    meter.send(meter.alice, treasury.deposit(7), value=COIN, name="Treasury.deposit")
    pay = treasury.withdraw(b"\1" * 32, meter.bob, 1)
    meter.send(meter.operator, pay)
    pay = treasury.withdraw(b"\2" * 32, meter.bob, 1)
    meter.send(meter.operator, pay, name="Treasury.withdraw")
    meter.send(meter.operator, meter.receipts.functions.publish(1, b"\1" * 32), name="Receipts.publish")


def table(used: dict[str, int]) -> str:
    rows = [f"| {name} | {gas:,} |" for name, gas in sorted(used.items())]
    return "\n".join(["| call | gas |", "| --- | ---: |", *rows])


def written() -> dict[str, int]:
    """What the README says."""
    return dict(_rows(README.read_text()))


def _rows(text: str) -> Iterator[tuple[str, int]]:
    for name, gas in re.findall(r"^\| (\w+\.[^|]+) \| ([\d,]+) \|$", text, re.M):
        yield name, int(gas.replace(",", ""))


def main() -> None:
    text = README.read_text()
    new = re.sub(r"\| call \| gas \|\n(\|.*\|\n)+", lambda _: table(measure()) + "\n", text)
    README.write_text(new)


if __name__ == "__main__":
    main()
