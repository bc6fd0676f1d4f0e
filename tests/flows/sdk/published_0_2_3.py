"""ogpu 0.2.3: publish, wait, confirm, read. The package's code is not touched.

`python published_0_2_3.py NETWORK MODEL KEY`: NETWORK is a manifest of /chain/networks/. Prints one line of JSON.
"""
# ruff: noqa: E402 - what the SDK reads must be set before it is imported

import json
import os
import sys
import time

network, model, key = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
os.environ["CLIENT_PRIVATE_KEY"] = key

import ogpu.ipfs.publish
from eth_account import Account
from ogpu import ChainConfig, ChainId
from ogpu.client import confirm_response, publish_source, publish_task
from ogpu.protocol import vault
from ogpu.types import DeliveryMethod, ImageEnvironments, SourceInfo, TaskInfo, TaskInput, TaskStatus

PAYMENT = 10**16

ogpu.ipfs.publish._IPFS_PUBLISH_URL = network["file_url"]
ChainConfig.set_chain(ChainId.OGPU_MAINNET)
ChainConfig.CHAIN_CONTRACTS[ChainId.OGPU_MAINNET].update(
    {name: network["contracts"][name] for name in ("NEXUS", "CONTROLLER", "TERMINAL", "VAULT")}
)
ChainConfig.set_rpc(network["rpc_url"])

wallet = Account.from_key(key)
vault.deposit(wallet.address, PAYMENT, signer=wallet)
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
    )
)
chat = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 40}
task = publish_task(
    TaskInfo(
        source=str(source),
        config=TaskInput(function_name="chat", data=chat),
        expiryTime=int(time.time()) + 3600,
        payment=PAYMENT,
    )
)
ends_at = time.time() + 90
while not (responses := task.get_responses()):
    assert time.time() < ends_at, "nobody has answered"
    time.sleep(0.5)
response = responses[0]
fetched = response.fetch_data()
confirmation = confirm_response(response.address)
confirmed = task.get_confirmed_response()
assert task.get_status() == TaskStatus.FINALIZED
provider = response.get_params().provider
earned = vault.get_total_earnings_of(provider)
assert earned >= PAYMENT
print(
    json.dumps(
        {
            "source": str(source),
            "task": task.address,
            "response": response.address,
            "provider": provider,
            "data": response.get_data(),
            "fetched": fetched,
            "confirmed": confirmed.address,
            "confirmation": str(confirmation),
        }
    )
)
