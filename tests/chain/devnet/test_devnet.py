"""The development chain answers as a node does."""

from typing import Any

import pytest
from eth_account import Account
from web3.exceptions import ContractLogicError, Web3RPCError

from chain.devnet.accounts import PHRASE, development_accounts
from tests.chain.network import Network

COIN = 10**18
GWEI = 10**9


def refusal(network: Network, value: int = 1, **fields: Any) -> str:
    """What the node says to a transaction of alice's."""
    with pytest.raises(Web3RPCError) as caught:
        network.submit(network.alice, network.bob.address, value, **({"gas": 21_000} | fields))
    return (
        str(caught.value.rpc_response["error"]["message"]) if caught.value.rpc_response else str(caught.value)
    )


def nonce(network: Network, at: str = "latest") -> int:
    return int(network.rpc("eth_getTransactionCount", network.alice.address, at), 16)


def test_a_transaction_is_mined_at_once(devnet: Network) -> None:
    before = devnet.w3.eth.get_balance(devnet.bob.address)  # type: ignore[arg-type]

    receipt = devnet.send(devnet.alice, devnet.bob.address, 5, gas=21_000)

    assert receipt["gasUsed"] == 21_000
    assert devnet.head() == receipt["blockNumber"]
    assert devnet.w3.eth.get_balance(devnet.bob.address) == before + 5  # type: ignore[arg-type]
    found = devnet.w3.eth.get_transaction(receipt["transactionHash"])
    assert (found["from"], found["to"], found["value"]) == (devnet.alice.address, devnet.bob.address, 5)
    assert found["blockHash"] == receipt["blockHash"]


def test_the_well_known_accounts_own_the_coins(devnet: Network) -> None:
    assert PHRASE.split() == ["test"] * 11 + ["junk"]
    assert development_accounts()[0].address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert development_accounts()[0].private_key.startswith("0xac0974bec39a17e36ba4a6b4d238ff94")
    assert "ac0974" not in repr(development_accounts())
    for account in devnet.accounts[5:]:
        assert devnet.w3.eth.get_balance(account.address) == 1_000_000 * COIN  # type: ignore[arg-type]


def test_nonces_that_were_used_are_refused(devnet: Network) -> None:
    devnet.send(devnet.alice, devnet.bob.address, 5, gas=21_000)

    assert refusal(devnet, nonce=nonce(devnet) - 1).startswith("nonce too low")


def test_a_transaction_with_a_later_nonce_waits_for_those_before(devnet: Network) -> None:
    first = nonce(devnet)
    later = devnet.submit(devnet.alice, devnet.bob.address, 1, gas=21_000, nonce=first + 1)
    assert nonce(devnet) == nonce(devnet, "pending") == first
    assert devnet.w3.eth.get_transaction(later)["blockNumber"] is None  # type: ignore[typeddict-item]

    devnet.send(devnet.alice, devnet.bob.address, 1, gas=21_000, nonce=first)
    devnet.mine()

    assert devnet.w3.eth.get_transaction_receipt(later)["status"] == 1
    assert nonce(devnet) == first + 2


def test_more_than_the_account_has_is_refused(devnet: Network) -> None:
    assert refusal(devnet, value=10**30).lower().startswith("insufficient funds")


def test_too_little_gas_is_refused(devnet: Network) -> None:
    assert "intrinsic gas too low" in refusal(devnet, gas=20_000)


def test_another_chains_transaction_is_refused(devnet: Network) -> None:
    assert "chain id" in refusal(devnet, chainId=5).lower()


def test_what_is_no_transaction_is_refused(devnet: Network) -> None:
    for raw in ("0x", "0x02", "0x1234", "0x02" + "ff" * 40, "0x03c0", "0x7fc0"):
        with pytest.raises(RuntimeError):
            devnet.rpc("eth_sendRawTransaction", raw)


def test_a_waiting_transaction_is_replaced_only_for_a_higher_fee(devnet: Network) -> None:
    with devnet.held():
        fields = {"nonce": nonce(devnet), "gas": 21_000}
        devnet.submit(devnet.alice, devnet.bob.address, 1, **fields)
        assert nonce(devnet, "pending") == nonce(devnet) + 1
        if not devnet.is_anvil:
            # anvil takes any raise.
            said = refusal(devnet, **fields, maxFeePerGas=10 * GWEI + 1, maxPriorityFeePerGas=GWEI + 1)
            assert said == "replacement transaction underpriced"
        raised = devnet.submit(
            devnet.alice,
            devnet.bob.address,
            2,
            maxFeePerGas=12 * GWEI,
            maxPriorityFeePerGas=12 * GWEI // 10,
            **fields,
        )
        assert [found["value"] for found in devnet.waiting(devnet.alice)] == ["0x2"]
        devnet.mine()

    assert devnet.w3.eth.get_transaction_receipt(raised)["status"] == 1


def test_the_same_transaction_twice_is_known(devnet: Network) -> None:
    with devnet.held():
        devnet.submit(devnet.alice, devnet.bob.address, 1, gas=21_000, nonce=nonce(devnet))
        said = refusal(devnet, nonce=nonce(devnet))

    assert said in ("already known", "transaction already imported")


def test_a_transaction_below_the_base_fee_waits(devnet: Network) -> None:
    devnet.mine()
    base = int(devnet.w3.eth.get_block("latest")["baseFeePerGas"])
    if devnet.is_anvil:
        pytest.skip("anvil refuses it")
    stuck = devnet.submit(
        devnet.alice, devnet.bob.address, 1, gas=21_000, maxFeePerGas=base // 2, maxPriorityFeePerGas=1
    )

    assert devnet.w3.eth.get_transaction(stuck)["blockNumber"] is None  # type: ignore[typeddict-item]


def test_a_revert_tells_its_reason(devnet: Network) -> None:
    vault = devnet.contract("VAULT")
    with pytest.raises(ContractLogicError, match="execution reverted: InsufficientBalance") as caught:
        vault.functions.withdraw(5).call({"from": devnet.charlie.address})
    assert str(caught.value.data).startswith("0x08c379a0")

    call = {"from": devnet.charlie.address, "to": vault.address, "data": vault.encode_abi("withdraw", [5])}
    for method in ("eth_call", "eth_estimateGas"):
        with pytest.raises(RuntimeError, match="'code': 3"):
            devnet.rpc(method, call)


def test_a_transaction_that_reverts_is_mined_as_failed(devnet: Network) -> None:
    vault = devnet.contract("VAULT")
    sent = devnet.submit(devnet.charlie, vault.address, data=vault.encode_abi("withdraw", [5]), gas=200_000)

    assert devnet.w3.eth.wait_for_transaction_receipt(sent, 5, 0.05)["status"] == 0


def test_an_estimate_suffices(devnet: Network) -> None:
    vault = devnet.contract("VAULT")
    call = vault.functions.deposit(devnet.alice.address)
    estimate = call.estimate_gas({"from": devnet.alice.address, "value": 5})

    receipt = devnet.transact(devnet.alice, call, value=5, gas=estimate)

    assert receipt["gasUsed"] <= estimate <= receipt["gasUsed"] * 2
    plain = {"from": devnet.alice.address, "to": devnet.bob.address, "value": 1}
    assert devnet.w3.eth.estimate_gas(plain) == 21_000  # type: ignore[arg-type]


def test_older_states_can_be_read(devnet: Network) -> None:
    vault = devnet.contract("VAULT")
    before = devnet.head()
    devnet.transact(devnet.alice, vault.functions.deposit(devnet.alice.address), value=5)

    read = vault.functions.balanceOf(devnet.alice.address)
    assert read.call(block_identifier=before) == 0
    assert read.call() == 5
    with pytest.raises(RuntimeError):
        devnet.rpc("eth_getBalance", devnet.alice.address, hex(devnet.head() + 5))


def test_logs_are_found_by_address_topic_and_block(devnet: Network) -> None:
    vault, first = devnet.contract("VAULT"), devnet.head() + 1
    for value in (5, 6):
        devnet.transact(devnet.alice, vault.functions.deposit(devnet.alice.address), value=value)
    topic = vault.events.Deposited().topic

    def logs(**criteria: Any) -> list[Any]:
        return list(devnet.rpc("eth_getLogs", {"fromBlock": hex(first)} | criteria))

    assert len(logs(address=vault.address)) == 2
    assert len(logs(address=[vault.address.lower(), devnet.bob.address])) == 2
    assert len(logs(topics=[topic])) == len(logs(topics=[[topic, "0x" + "00" * 32]])) == 2
    assert logs(topics=[None, topic]) == logs(address=devnet.bob.address) == []
    assert len(logs(toBlock=hex(first))) == 1
    block = devnet.rpc("eth_getBlockByNumber", hex(first), False)
    assert devnet.rpc("eth_getLogs", {"blockHash": block["hash"]}) == logs(toBlock=hex(first))
    assert logs()[0]["logIndex"] == "0x0"
    assert logs()[0]["transactionHash"] == block["transactions"][0]


def test_blocks_are_chained_by_hashes_that_can_be_recomputed(devnet: Network) -> None:
    devnet.mine(3)
    last = devnet.w3.eth.get_block("latest", full_transactions=True)
    parent = devnet.w3.eth.get_block(last["parentHash"])

    assert parent["number"] == last["number"] - 1
    assert devnet.w3.eth.get_block(parent["number"])["hash"] == parent["hash"]
    assert devnet.rpc("eth_getBlockByHash", "0x" + "12" * 32, False) is None
    assert devnet.rpc("eth_getBlockByNumber", hex(10**6), False) is None


def test_fees_are_told(devnet: Network) -> None:
    devnet.send(devnet.alice, devnet.bob.address, 1, gas=21_000)
    history = devnet.w3.eth.fee_history(2, "latest", [50.0])

    assert len(history["baseFeePerGas"]) == 3
    assert len(history["reward"]) == 2
    assert devnet.w3.eth.gas_price > 0
    assert devnet.w3.eth.max_priority_fee >= 0


def test_a_chain_can_go_back(devnet: Network) -> None:
    head, block = devnet.head(), devnet.rpc("eth_getBlockByNumber", "latest", False)
    snapshot = devnet.snapshot()
    receipt = devnet.send(devnet.alice, devnet.bob.address, 1, gas=21_000)
    devnet.pass_time(1000)

    devnet.revert(snapshot)

    assert devnet.head() == head
    assert devnet.rpc("eth_getBlockByNumber", "latest", False)["hash"] == block["hash"]
    assert devnet.rpc("eth_getTransactionReceipt", "0x" + receipt["transactionHash"].hex()) is None
    with pytest.raises(RuntimeError):
        devnet.revert(snapshot)


def test_a_chain_can_be_reorganised(devnet: Network) -> None:
    devnet.mine(3)
    receipt = devnet.send(devnet.alice, devnet.bob.address, 1, gas=21_000)
    devnet.mine(1)
    head, fork = devnet.head(), receipt["blockNumber"] - 1
    hashes = [devnet.w3.eth.get_block(number)["hash"] for number in range(fork, head + 1)]

    devnet.reorganise(2)

    assert devnet.head() == head + 1
    found = [devnet.w3.eth.get_block(number)["hash"] for number in range(fork, head + 1)]
    assert found[0] == hashes[0]
    assert not set(found[1:]) & set(hashes[1:])
    assert devnet.rpc("eth_getTransactionReceipt", "0x" + receipt["transactionHash"].hex()) is None


def test_a_reorganisation_may_keep_the_transactions(devnet: Network) -> None:
    if devnet.is_anvil:
        pytest.skip("anvil wants them signed by itself")
    receipts = [devnet.send(devnet.alice, devnet.bob.address, 1, gas=21_000) for _ in range(3)]

    devnet.rpc("devnet_reorg", 3, True)

    for receipt in receipts:
        found = devnet.w3.eth.get_transaction_receipt(receipt["transactionHash"])
        assert found["blockHash"] != receipt["blockHash"]
        assert found["blockNumber"] == receipts[0]["blockNumber"]


def test_time_can_be_turned_on(devnet: Network) -> None:
    devnet.mine()
    before = devnet.w3.eth.get_block("latest")["timestamp"]

    devnet.pass_time(1000)
    assert 1000 <= devnet.w3.eth.get_block("latest")["timestamp"] - before < 1030

    devnet.rpc("evm_setNextBlockTimestamp", before + 5000)
    devnet.mine()
    assert devnet.w3.eth.get_block("latest")["timestamp"] == before + 5000


def test_a_waiting_transaction_can_be_dropped(devnet: Network) -> None:
    with devnet.held():
        dropped = devnet.submit(devnet.alice, devnet.bob.address, 1, gas=21_000)
        devnet.rpc("anvil_dropTransaction", "0x" + dropped.hex())
        devnet.mine()

    assert devnet.rpc("eth_getTransactionByHash", "0x" + dropped.hex()) is None


def test_old_kinds_of_transactions_are_taken(devnet: Network) -> None:
    for fields in ({}, {"type": 1, "accessList": []}):
        transaction = {
            "nonce": nonce(devnet),
            "to": devnet.bob.address,
            "value": 1,
            "gas": 30_000,
            "gasPrice": 10 * GWEI,
            "chainId": devnet.chain_id,
        } | fields
        signed = Account.sign_transaction(transaction, devnet.alice.private_key)
        receipt = devnet.w3.eth.wait_for_transaction_receipt(
            devnet.w3.eth.send_raw_transaction(signed.raw_transaction), 5, 0.05
        )
        assert receipt["status"] == 1
        assert devnet.w3.eth.get_transaction(receipt["transactionHash"])["gasPrice"] > 0
