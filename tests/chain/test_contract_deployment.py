"""chain.contracts.deployment: a whole set of contracts, wired and ready, by one account."""

from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import EthereumTesterProvider, Web3

from chain.contracts import NAMES, artifact
from chain.contracts.deployment import CONTROLLER, JUDGE, DeploymentFailed, deploy

COIN = 10**18


@pytest.fixture
def w3() -> Web3:
    return Web3(EthereumTesterProvider())


@pytest.fixture
def account(w3: Web3) -> LocalAccount:
    created: LocalAccount = Account.create()
    payment = {"from": w3.eth.accounts[0], "to": created.address, "value": COIN, "gas": 21_000}
    w3.eth.wait_for_transaction_receipt(w3.eth.send_transaction(payment))
    return created


def at(w3: Web3, addresses: dict[str, str], name: str) -> Any:
    address = Web3.to_checksum_address(addresses[name.upper()])
    return w3.eth.contract(address=address, abi=artifact(name).abi).functions


def test_it_names_the_contracts_as_a_manifest_does(w3: Web3) -> None:
    addresses = deploy(w3, w3.eth.accounts[0])
    assert set(addresses) == {"NEXUS", "CONTROLLER", "TERMINAL", "VAULT", "MANAGER", "TREASURY", "RECEIPTS"}
    assert all(w3.eth.get_code(Web3.to_checksum_address(address)) for address in addresses.values())


def test_everything_is_wired(w3: Web3, account: LocalAccount) -> None:
    addresses = deploy(w3, account, min_lockup_per_source=7, unbonding_period=60)
    nexus, controller, terminal, vault, manager = (
        at(w3, addresses, name) for name in ("Nexus", "Controller", "Terminal", "Vault", "Manager")
    )
    for contract, names in (
        (nexus, ("manager", "terminal", "vault")),
        (controller, ("nexus", "terminal", "vault")),
        (terminal, ("manager", "vault")),
        (vault, ("manager", "nexus", "terminal")),
    ):
        for name in names:
            assert getattr(contract, name)().call() == addresses[name.upper()]
    for holder in ("NEXUS", "CONTROLLER"):
        assert manager.hasRole(CONTROLLER, addresses[holder]).call()
    for blueprint in (nexus.sourceBlueprint(), nexus.responseBlueprint(), controller.taskBlueprint()):
        assert w3.eth.get_code(blueprint.call())[:3] == b"\xfeq\x00"  # ERC-5202
    assert vault.MIN_LOCKUP_PER_SOURCE().call() == 7
    assert vault.UNBONDING_PERIOD().call() == 60


def test_the_deployer_owns_and_administers_all_of_it(w3: Web3, account: LocalAccount) -> None:
    addresses = deploy(w3, account)
    for name in ("Nexus", "Controller", "Terminal", "Treasury", "Receipts"):
        assert at(w3, addresses, name).owner().call() == account.address
    manager = at(w3, addresses, "Manager")
    assert manager.hasRole(bytes(32), account.address).call()
    assert not manager.hasRole(CONTROLLER, account.address).call()
    assert not manager.hasRole(JUDGE, account.address).call()


def test_operators_guardian_and_judge_get_their_rights(w3: Web3, account: LocalAccount) -> None:
    operators, guardian, judge = w3.eth.accounts[1:3], w3.eth.accounts[3], w3.eth.accounts[4]
    addresses = deploy(w3, account, operators=operators, guardian=guardian, judge=judge, daily_limit=5)
    treasury = at(w3, addresses, "Treasury")
    for operator in operators:
        assert treasury.operators(operator).call()
        assert at(w3, addresses, "Receipts").operators(operator).call()
    assert not treasury.operators(account.address).call()
    assert (treasury.guardian().call(), treasury.dailyLimit().call()) == (guardian, 5)
    assert at(w3, addresses, "Manager").hasRole(JUDGE, judge).call()


@pytest.mark.parametrize("transactions_before", [0, 1, 130])
def test_it_works_whatever_the_account_did_before(
    w3: Web3, account: LocalAccount, transactions_before: int
) -> None:
    """The addresses follow from the nonce, whose encoding changes at 1 and at 128."""
    for nonce in range(transactions_before):
        payment = {
            "to": account.address,
            "value": 0,
            "gas": 21_000,
            "nonce": nonce,
            "chainId": w3.eth.chain_id,
            "maxFeePerGas": 10**10,
            "maxPriorityFeePerGas": 1,
        }
        w3.eth.send_raw_transaction(account.sign_transaction(payment).raw_transaction)
    addresses = deploy(w3, account)
    assert at(w3, addresses, "Nexus").vault().call() == addresses["VAULT"]


def test_it_takes_few_transactions_and_little_gas(w3: Web3) -> None:
    before = w3.eth.block_number
    deploy(w3, w3.eth.accounts[0], operators=[w3.eth.accounts[1]])
    blocks = [w3.eth.get_block(number) for number in range(before + 1, w3.eth.block_number + 1)]
    assert len([block for block in blocks if block["transactions"]]) <= 25
    assert sum(block["gasUsed"] for block in blocks) < 20_000_000


def test_a_transaction_that_fails_is_said(w3: Web3) -> None:
    with pytest.raises(DeploymentFailed, match=r"setMaxUnbondingPeriod: transaction 0x\w+ was reverted"):
        deploy(w3, w3.eth.accounts[0], unbonding_period=91 * 24 * 3600)


def test_there_is_an_artifact_for_each_name_and_no_other() -> None:
    for name in NAMES:
        found = artifact(name)
        assert (found.name, found.compiler, found.evm_version) == (name, "vyper 0.4.3", "cancun")
        # EIP-170 allows 24,576 bytes of code; creation code is longer than what it leaves.
        assert len(found.bytecode) // 2 < 24_576
    with pytest.raises(KeyError, match="There is no contract 'Bank'"):
        artifact("Bank")
