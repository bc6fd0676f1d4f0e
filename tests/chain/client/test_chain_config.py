"""Which network is selected, and how."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from chain.client import ChainConfig, ChainId, Network, vault_balance
from chain.client.errors import ConfigurationError, UnknownChain, UnknownContract
from tests.chain.network import Network as Devnet

MANIFEST: dict[str, Any] = {
    "name": "elsewhere",
    "chain_id": 4711,
    "rpc_url": "http://127.0.0.1:9/key",
    "contracts": {"NEXUS": "0x" + "0a" * 20, "VAULT": "0x" + "0b" * 20},
    "file_url": "http://127.0.0.1:9/file/create",
}


@pytest.fixture
def manifest_url() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/chain/networks/elsewhere/"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(MANIFEST).encode() if found else b"{}")

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/chain/networks/elsewhere/"
    server.shutdown()
    server.server_close()


def test_the_testnet_is_selected_at_first() -> None:
    assert ChainConfig.get_current_chain() is ChainId.OGPU_TESTNET
    assert ChainConfig.get_contract_address("NEXUS") == "0xF87bb2f3edB991a998992f14d35fE142e6Bb50b1"


def test_the_environment_selects_a_network_by_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    path.write_text(json.dumps(MANIFEST))
    monkeypatch.setenv("CHAIN_NETWORK", str(path))

    assert ChainConfig.get_current_chain().value == 4711
    assert ChainConfig.get_current_chain().name == "CHAIN_4711"
    assert ChainConfig.network().name == "elsewhere"


def test_the_environment_selects_a_network_by_a_url(
    monkeypatch: pytest.MonkeyPatch, manifest_url: str
) -> None:
    monkeypatch.setenv("CHAIN_NETWORK", manifest_url)

    assert ChainConfig.get_contract_address("VAULT").lower() == MANIFEST["contracts"]["VAULT"]


def test_the_environment_may_name_another_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAIN_RPC_URL", "http://127.0.0.1:5")

    assert ChainConfig.get_rpc() == "http://127.0.0.1:5"
    ChainConfig.set_rpc("http://127.0.0.1:6")
    assert ChainConfig.get_rpc() == "http://127.0.0.1:6", "what the program says goes before"


def test_what_the_program_selects_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHAIN_NETWORK", str(tmp_path / "nothing.json"))
    ChainConfig.set_chain(ChainId.OGPU_MAINNET)

    assert ChainConfig.get_current_chain() is ChainId.OGPU_MAINNET


def test_a_network_that_was_used_is_supported_from_then_on() -> None:
    chain = ChainConfig.use(MANIFEST)
    ChainConfig.set_chain(ChainId.OGPU_MAINNET)

    ChainConfig.set_chain(chain)

    assert chain is ChainId(4711)
    assert chain in ChainConfig.get_all_supported_chains()
    assert ChainConfig.CHAIN_CONTRACTS[chain]["NEXUS"] == ChainConfig.get_contract_address("NEXUS")


def test_addresses_may_be_replaced_in_place_as_with_the_published_package(devnet: Devnet) -> None:
    ChainConfig.use(devnet.manifest)
    ChainConfig.CHAIN_CONTRACTS[ChainConfig.get_current_chain()]["VAULT"] = "0x" + "0a" * 20

    with pytest.raises(Exception, match=r"Vault\.getBalanceOf"):
        vault_balance(devnet.alice.address)


def test_chains_that_are_not_known_are_told() -> None:
    with pytest.raises(UnknownChain):
        ChainConfig.set_chain(ChainId(99))
    with pytest.raises(UnknownChain):
        ChainConfig.set_rpc("http://127.0.0.1:5", ChainId(99))
    with pytest.raises(ValueError, match="not a valid"):
        ChainId("1071")


def test_contracts_that_are_not_known_are_told() -> None:
    with pytest.raises(UnknownContract, match="CONTROLLER, NEXUS"):
        ChainConfig.get_contract_address("MOON")


@pytest.mark.parametrize(
    "manifest",
    [{}, {"chain_id": 5}, MANIFEST | {"contracts": {"NEXUS": "0x12"}}, MANIFEST | {"contracts": None}],
)
def test_a_manifest_that_is_not_whole_is_told(manifest: Any) -> None:
    with pytest.raises(ConfigurationError):
        ChainConfig.use(manifest)


def test_a_manifest_that_is_not_there_is_told(manifest_url: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for place in (
        tmp_path / "no.json",
        tmp_path / "broken.json",
        manifest_url + "no",
        "http://127.0.0.1:9/m",
    ):
        with pytest.raises(ConfigurationError):
            ChainConfig.use(str(place))


def test_a_nodes_url_is_not_shown() -> None:
    assert "key" not in repr(Network.from_manifest(MANIFEST))


def test_the_document_s_enumeration_stays_as_it_is() -> None:
    ChainId(31337)

    assert [chain.name for chain in ChainId] == ["OGPU_MAINNET", "OGPU_TESTNET", "LOCAL"]
    assert ChainId(31337) is ChainId(31337)
    assert ChainId(31337).name == "CHAIN_31337"


def test_abis_are_at_hand() -> None:
    assert any(entry.get("name") == "publishSource" for entry in ChainConfig.load_abi("NexusAbi"))


def test_a_network_whose_node_is_not_told_says_how_to_name_one() -> None:
    """As a marketplace serves it whose own node's URL is a secret."""
    ChainConfig.use(MANIFEST | {"rpc_url": ""})

    with pytest.raises(ConfigurationError, match="CHAIN_RPC_URL"):
        vault_balance("0x" + "0c" * 20)
