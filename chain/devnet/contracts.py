"""Put the marketplace's contracts onto a chain, and coins onto its keys where the chain is for development.

`python -m chain.devnet.contracts URL FILE` with a key in `CHAIN_KEY`. FILE gets the network's manifest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
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
# What a development chain gives to each of our keys at most, and what putting up the contracts takes; in whole coins.
GIVEN, NEEDED = 10_000, 1
# A key that everybody knows owns so much (in whole coins) only where coins are worth nothing: anvil's have 10,000.
RICH = 1_000
GAS_OF_TRANSFER = 21_000
# One block is enough where nobody else mines.
CONFIRMATIONS = {True: 1, False: 12}


class CannotDeploy(Exception):
    """The message says why, and what to do."""


def deploy(
    url: str, file: Path, *, operator: LocalAccount, provider: LocalAccount, marketplace: str | None = None
) -> None:
    """`marketplace` is the URL of the one that takes files for this network. Raises CannotDeploy, DeploymentFailed."""
    if not file.parent.is_dir():
        raise CannotDeploy(f"There is no folder {file.parent} to write the manifest to.")
    w3 = Web3(HTTPProvider(url, request_kwargs={"timeout": TIMEOUT_S}))
    is_development = _give_coins(w3, operator, provider)
    if w3.eth.get_balance(operator.address) < Web3.to_wei(NEEDED, "ether"):
        raise CannotDeploy(
            f"{operator.address} has less than {NEEDED} coin on this chain, and pays for the contracts. "
            "Send it some, or set CHAIN_KEY to a key that has."
        )
    start_block = w3.eth.block_number
    contracts = deployment.deploy(w3, operator, operators=[operator.address], judge=operator.address)
    manifest: dict[str, object] = {
        "name": "local",
        "chain_id": w3.eth.chain_id,
        "rpc_url": url,
        "contracts": contracts,
        "start_block": start_block,
        "confirmations": CONFIRMATIONS[is_development],
        "is_public": is_development,
    }
    if marketplace:
        manifest |= {"api_url": marketplace, "file_url": f"{marketplace}/file/create"}
    file.write_text(json.dumps(manifest, indent=1) + "\n")


def _give_coins(w3: Web3, *receivers: LocalAccount) -> bool:
    """Whether this is a development chain, whose coins everybody may spend; our keys have some then."""
    rich = Account.from_key(development_accounts()[0].private_key)
    owned = w3.eth.get_balance(rich.address)
    if owned < Web3.to_wei(RICH, "ether"):
        return False
    wanted = Wei(min(Web3.to_wei(GIVEN, "ether"), owned // (2 * len(receivers))))
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


def main(arguments: Sequence[str] | None = None) -> int | str:
    options = _parser().parse_args(arguments)
    try:
        operator = _account("CHAIN_KEY")
        provider = _account("CHAIN_PROVIDER_KEY") if os.environ.get("CHAIN_PROVIDER_KEY") else operator
        marketplace = options.marketplace.rstrip("/") if options.marketplace else None
        deploy(options.url, options.file, operator=operator, provider=provider, marketplace=marketplace)
    except (CannotDeploy, DeploymentFailed) as error:
        return str(error)
    except (requests.RequestException, Web3Exception) as error:
        return f"The chain at {options.url} does not do what it should: {error}"
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chain.devnet.contracts",
        description="Put the marketplace's contracts onto a chain. CHAIN_KEY pays for them and becomes their owner "
        "and operator; on a development chain it is given coins, and so is CHAIN_PROVIDER_KEY, if set.",
    )
    parser.add_argument("url", help="the chain's node")
    parser.add_argument("file", type=Path, help="where the network's manifest is written to")
    parser.add_argument(
        "--marketplace",
        metavar="URL",
        help="named in the manifest: who keeps files for this network's clients",
    )
    return parser


def _account(name: str) -> LocalAccount:
    """Of a private key in the environment. Raises CannotDeploy, which never shows it."""
    key = os.environ.get(name, "")
    if not key:
        raise CannotDeploy(f"{name} is not set. It is a private key: 0x and 64 hexadecimal digits.")
    try:
        account: LocalAccount = Account.from_key(key)
    except ValueError:
        raise CannotDeploy(f"{name} is no private key: 0x and 64 hexadecimal digits.") from None
    return account


if __name__ == "__main__":
    sys.exit(main())
