"""ogpu 0.2.0.15, the document's API: publish, wait, confirm, read. The package's code is not touched.

`python published_0_2_0_15.py NETWORK MODEL KEY`: NETWORK is a manifest of /chain/networks/. Prints one line of JSON.
"""
# ruff: noqa: E402 - what the SDK reads must be set before it is imported

import json
import sys
import time

import requests

network, model, key = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]

import ogpu.client.responses
import ogpu.client.utils
from eth_account import Account
from ogpu.client import (
    ChainConfig,
    ChainId,
    DeliveryMethod,
    ImageEnvironments,
    SourceInfo,
    TaskInfo,
    TaskInput,
    confirm_response,
    get_confirmed_response,
    get_task_responses,
    publish_source,
    publish_task,
)
from ogpu.client.web3_manager import Web3Manager
from web3 import Web3

PAYMENT = Web3.to_wei(0.01, "ether")


class Here:
    """`requests`, but the network's two servers are the marketplace."""

    RequestException = requests.RequestException

    def get(self, url, **options):
        return requests.get(self._here(url), **options)

    def post(self, url, **options):
        return requests.post(self._here(url), **options)

    @staticmethod
    def _here(url):
        for there in ("https://capi.ogpuscan.io", "https://management-backend.opengpu.network"):
            url = url.replace(there, network["api_url"])
        return url


ogpu.client.utils.requests = ogpu.client.responses.requests = Here()
ChainConfig.set_chain(ChainId.OGPU_TESTNET)
Web3Manager.update_rpc_url(ChainId.OGPU_TESTNET, network["rpc_url"])
ChainConfig.CHAIN_CONTRACTS[ChainId.OGPU_TESTNET].update(
    {name: network["contracts"][name] for name in ("NEXUS", "CONTROLLER", "TERMINAL")}
)

# This version has no word for the Vault, where the payment must lie.
w3, wallet = Web3(Web3.HTTPProvider(network["rpc_url"])), Account.from_key(key)
abi = [
    {
        "type": "function",
        "name": "deposit",
        "stateMutability": "payable",
        "inputs": [{"name": "account", "type": "address"}],
        "outputs": [],
    }
]
vault = w3.eth.contract(address=network["contracts"]["VAULT"], abi=abi)
call = vault.functions.deposit(wallet.address).build_transaction(
    {"from": wallet.address, "nonce": w3.eth.get_transaction_count(wallet.address), "value": PAYMENT}
)
w3.eth.wait_for_transaction_receipt(
    w3.eth.send_raw_transaction(wallet.sign_transaction(call).raw_transaction)
)

source = publish_source(
    SourceInfo(
        name=model,
        description="An answer to a chat.",
        logoUrl="",
        imageEnvs=ImageEnvironments(cpu=f"{network['api_url']}/chain/services/{model}/"),
        minPayment=PAYMENT // 10,
        minAvailableLockup=0,
        maxExpiryDuration=86400,
        deliveryMethod=DeliveryMethod.MANUAL_CONFIRMATION,
    ),
    private_key=key,
)
task = publish_task(
    TaskInfo(
        source=source,
        config=TaskInput(function_name="inference", data={"inputs": "Who are you?"}),
        expiryTime=int(time.time()) + 3600,
        payment=PAYMENT,
    ),
    private_key=key,
)
ends_at = time.time() + 90
while not (responses := get_task_responses(task)):
    assert time.time() < ends_at, "nobody has answered"
    time.sleep(0.5)
response = responses[0]
hash_of_confirmation = confirm_response(response.address, private_key=key)
while True:
    try:
        confirmed = get_confirmed_response(task)
        break
    except Exception:  # noqa: BLE001 - all that it raises
        assert time.time() < ends_at, "the confirmed response is not to be had"
        time.sleep(0.5)
print(
    json.dumps(
        {
            "source": source,
            "task": task,
            "response": response.address,
            "provider": response.provider,
            "data": response.data,
            "confirmed": confirmed.address,
            "confirmed_data": confirmed.data["data"],
            "confirmation": hash_of_confirmation,
        }
    )
)
