"""Put the marketplace's contracts onto a chain, and coins onto its keys where the chain is for development.

`python -m chain.devnet.contracts URL FILE` with the keys in `CHAIN_KEY` and `CHAIN_PROVIDER_KEY`. FILE gets
the network's manifest.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import HTTPProvider, Web3
from web3.exceptions import Web3Exception
from web3.types import TxParams, Wei

from chain.contracts import deployment
from chain.contracts.deployment import DeploymentFailed
from chain.devnet.accounts import development_accounts

TIMEOUT_S = 30
# What a development chain gives to our keys, and what putting up the contracts takes at most; in whole coins.
GIVEN, NEEDED = 10_000, 1
GAS_OF_TRANSFER = 21_000
# One block is enough where nobody else mines.
CONFIRMATIONS = {True: 1, False: 12}


class CannotDeploy(Exception):
    """The message says why, and what to do."""


def deploy(url: str, file: Path, *, operator: LocalAccount, provider: LocalAccount) -> None:
    """Raises CannotDeploy, DeploymentFailed."""
    w3 = Web3(HTTPProvider(url, request_kwargs={"timeout": TIMEOUT_S}))
    is_development = _give_coins(w3, operator, provider)
    if w3.eth.get_balance(operator.address) < Web3.to_wei(NEEDED, "ether"):
        raise CannotDeploy(
            f"{operator.address} has less than {NEEDED} coin on this chain, and pays for the contracts. "
            "Send it some, or set CHAIN_KEY to a key that has."
        )
    start_block = w3.eth.block_number
    contracts = deployment.deploy(w3, operator, operators=[operator.address], judge=operator.address)
    manifest = {
        "name": "local",
        "chain_id": w3.eth.chain_id,
        "rpc_url": url,
        "contracts": contracts,
        "start_block": start_block,
        "confirmations": CONFIRMATIONS[is_development],
        "is_public": is_development,
    }
    file.write_text(json.dumps(manifest, indent=1) + "\n")


def _give_coins(w3: Web3, *receivers: LocalAccount) -> bool:
    """Whether this is a development chain, whose coins everybody may spend; our keys have some then."""
    rich = Account.from_key(development_accounts()[0].private_key)
    wanted = Web3.to_wei(GIVEN, "ether")
    if w3.eth.get_balance(rich.address) < 2 * len(receivers) * wanted:
        return False
    nonce, tip = w3.eth.get_transaction_count(rich.address), w3.eth.max_priority_fee
    fee = Wei(2 * w3.eth.get_block("latest")["baseFeePerGas"] + tip)
    for number, receiver in enumerate({each.address: each for each in receivers}):
        transaction: TxParams = {
            "to": receiver,
            "value": wanted,
            "nonce": type(nonce)(nonce + number),
            "gas": GAS_OF_TRANSFER,
            "maxFeePerGas": fee,
            "maxPriorityFeePerGas": tip,
            "chainId": w3.eth.chain_id,
        }
        sent = w3.eth.send_raw_transaction(rich.sign_transaction(transaction).raw_transaction)
        w3.eth.wait_for_transaction_receipt(sent, timeout=TIMEOUT_S)
    return True


def main() -> int | str:
    operator, provider = (Account.from_key(os.environ[name]) for name in ("CHAIN_KEY", "CHAIN_PROVIDER_KEY"))
    try:
        deploy(sys.argv[1], Path(sys.argv[2]), operator=operator, provider=provider)
    except (CannotDeploy, DeploymentFailed) as error:
        return str(error)
    except (requests.RequestException, Web3Exception) as error:
        return f"The chain at {sys.argv[1]} does not do what it should: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
