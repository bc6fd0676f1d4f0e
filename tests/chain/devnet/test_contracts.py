"""`python -m chain.devnet.contracts`: contracts and coins, on any development chain, and a manifest that is enough."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account

from chain.devnet import contracts
from tests.chain import network
from tests.chain.network import Network

COIN = 10**18
KEY, OTHER_KEY = "0x" + "11" * 32, "0x" + "22" * 32
OPERATOR, PROVIDER = (Account.from_key(key).address for key in (KEY, OTHER_KEY))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Network]:
    found = network.start_devnet(tmp_path)
    yield found
    found.stop()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAIN_KEY", KEY)
    monkeypatch.delenv("CHAIN_PROVIDER_KEY", raising=False)


def leave(chain: Network, coins: int) -> None:
    """The first of the known accounts keeps so many coins, less the fee."""
    surplus = chain.w3.eth.get_balance(chain.deployer.address) - coins * COIN
    chain.send(chain.deployer, chain.bob.address, surplus, gas=21_000)


def test_a_chain_whose_accounts_own_ten_thousand_coins_is_a_development_chain_too(
    chain: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As anvil's and Hardhat's do."""
    leave(chain, 10_000)
    monkeypatch.setenv("CHAIN_PROVIDER_KEY", OTHER_KEY)

    assert contracts.main([chain.url, str(tmp_path / "network.json")]) == 0

    assert chain.w3.eth.get_balance(OPERATOR) >= 500 * COIN
    assert chain.w3.eth.get_balance(PROVIDER) >= 500 * COIN
    assert chain.w3.eth.get_balance(chain.deployer.address) >= 500 * COIN
    assert json.loads((tmp_path / "network.json").read_text())["confirmations"] == 1


def test_where_the_known_accounts_have_little_nobody_takes_it(chain: Network, tmp_path: Path) -> None:
    leave(chain, 5)
    before = chain.w3.eth.get_balance(chain.deployer.address)

    said = contracts.main([chain.url, str(tmp_path / "network.json")])

    assert f"{OPERATOR} has less than 1 coin on this chain" in str(said)
    assert chain.w3.eth.get_balance(chain.deployer.address) == before


def test_with_a_marketplace_its_manifest_is_all_that_a_client_needs(chain: Network, tmp_path: Path) -> None:
    file = tmp_path / "network.json"
    assert contracts.main([chain.url, str(file), "--marketplace", "https://m.example/"]) == 0

    said = json.loads(file.read_text())
    assert said["api_url"] == "https://m.example"
    assert said["file_url"] == "https://m.example/file/create"


@pytest.mark.parametrize(
    ("key", "says"),
    [("", "CHAIN_KEY is not set"), ("0x12", "CHAIN_KEY is no private key"), ("zz", "no private")],
)
def test_a_missing_or_wrong_key_is_told_in_a_sentence(
    key: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAIN_KEY", key)

    assert says in str(contracts.main(["http://127.0.0.1:1", str(tmp_path / "network.json")]))


def test_a_manifest_that_cannot_be_written_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    said = contracts.main(["http://127.0.0.1:1", str(tmp_path / "none" / "network.json")])

    assert said == f"There is no folder {tmp_path / 'none'} to write the manifest to."


def test_a_chain_that_does_not_answer_is_named(tmp_path: Path) -> None:
    said = contracts.main(["http://127.0.0.1:1", str(tmp_path / "network.json")])

    assert "The chain at http://127.0.0.1:1 does not do what it should" in str(said)
