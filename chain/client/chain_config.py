"""Which network is spoken to: the known ones of the document, and any other by a manifest."""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import requests

from chain.client.errors import ConfigurationError, UnknownChain, UnknownContract
from chain.client.interface import checksum, interface
from chain.client.rpc import place

MANIFEST_SECONDS = 15.0
MANIFEST_BYTES = 1024 * 1024

C = TypeVar("C", bound="ChainId")


class ChainId(Enum):
    """Supported networks, by their chain id.

    Attributes:
        OGPU_MAINNET: Main OpenGPU network (Chain ID: 1071)
        OGPU_TESTNET: Test OpenGPU network (Chain ID: 200820172034)
        LOCAL: The development chain (`python -m chain.devnet`)

    A manifest adds others: `ChainId(31337)` is a member as well, named CHAIN_31337.
    """

    OGPU_MAINNET = 1071
    OGPU_TESTNET = 200820172034
    LOCAL = 131277322940537

    @classmethod
    def _missing_(cls, value: object) -> "ChainId | None":
        """Networks are many: each number is one member, made when it is first named."""
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            return None
        found = object.__new__(cls)
        found._name_, found._value_ = f"CHAIN_{value}", value
        cls._value2member_map_[value] = found
        return found


@dataclass(frozen=True)
class Network:
    """Where a network is: what a call needs to know, all at one time.

    `file_url` takes files (POST, multipart), `api_url` is the server that knows confirmed responses; either may be
    missing.
    """

    name: str
    chain_id: int
    rpc_url: str = field(repr=False)
    contracts: Mapping[str, str] = field(default_factory=dict)
    file_url: str | None = None
    api_url: str | None = None
    start_block: int = 0
    confirmations: int = 1

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "Network":
        """From the JSON that a deployment writes. Raises `ConfigurationError` for what is missing or wrong."""
        try:
            contracts = {name: checksum(address, name) for name, address in manifest["contracts"].items()}
            return cls(
                name=str(manifest.get("name", "network")),
                chain_id=int(manifest["chain_id"]),
                rpc_url=str(manifest["rpc_url"]),
                contracts=contracts,
                file_url=manifest.get("file_url"),
                api_url=manifest.get("api_url"),
                start_block=int(manifest.get("start_block", 0)),
                confirmations=int(manifest.get("confirmations", 1)),
            )
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ConfigurationError(f"The network manifest is not complete: {error!r}") from error

    def contract(self, name: str) -> str:
        try:
            return self.contracts[name]
        except KeyError:
            known = ", ".join(sorted(self.contracts)) or "none"
            raise UnknownContract(
                f"The network {self.name} has no contract {name}; it has: {known}."
            ) from None


class ChainConfig:
    """The selected network, for the whole process.

    Chosen by `set_chain` or `use`; else by the environment variable CHAIN_NETWORK (path or URL of a manifest), read at
    first use; else OGPU_TESTNET. CHAIN_RPC_URL, where set, replaces the node's URL.
    """

    CHAIN_CONTRACTS: ClassVar[dict[ChainId, dict[str, str]]] = {
        ChainId.OGPU_TESTNET: {
            "NEXUS": "0xF87bb2f3edB991a998992f14d35fE142e6Bb50b1",
            "CONTROLLER": "0x9fb6022074Fd7Bdb429de0776eb693cA0CB55E09",
            "TERMINAL": "0x1ea332Fc14a5AFD3AF3852B45C263Ab5b1Dd6f52",
            "VAULT": "0x15905a2FbD3EF5d3532b931b5656BB9EB493Bb15",
        },
        ChainId.OGPU_MAINNET: {
            "NEXUS": "0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1",
            "CONTROLLER": "0x8661F4B9c30e07A04d795A192478dfD905625a1D",
            "TERMINAL": "0xaEBC7b712D38Fc4d841f0732c21B8774339869D3",
            "VAULT": "0xa5c582254AA313528898311362bc698b041580cC",
        },
    }

    _networks: ClassVar[dict[ChainId, Network]] = {
        ChainId.OGPU_TESTNET: Network(
            "ogpu-testnet",
            ChainId.OGPU_TESTNET.value,
            "https://testnetrpc.ogpuscan.io",
            file_url="https://capi.ogpuscan.io/file/create",
            api_url="https://management-backend.opengpu.network",
        ),
        ChainId.OGPU_MAINNET: Network(
            "ogpu-mainnet",
            ChainId.OGPU_MAINNET.value,
            "https://mainnet-rpc.ogpuscan.io",
            file_url="https://capi.ogpuscan.io/file/create",
            api_url="https://management-backend.opengpu.network",
        ),
    }
    _current_chain: ClassVar[ChainId | None] = None
    # Holds the RPC URLs that set_rpc has chosen: they beat CHAIN_RPC_URL.
    _chosen_rpc: ClassVar[dict[ChainId, str]] = {}
    _lock: ClassVar[threading.RLock] = threading.RLock()

    @classmethod
    def set_chain(cls, chain_id: ChainId) -> None:
        """Set the current active chain"""
        if chain_id not in cls._networks:
            raise UnknownChain(f"Chain {chain_id} is not supported; describe it to ChainConfig.use().")
        cls._current_chain = chain_id

    @classmethod
    def get_current_chain(cls) -> ChainId:
        """The currently active chain"""
        with cls._lock:
            if cls._current_chain is None:
                manifest = os.environ.get("CHAIN_NETWORK")
                if manifest:
                    cls.use(manifest)
                else:
                    cls._current_chain = ChainId.OGPU_TESTNET
            assert cls._current_chain is not None
            return cls._current_chain

    @classmethod
    def get_contract_address(cls, contract_name: str) -> str:
        """Get contract address for the current chain"""
        return cls.network().contract(contract_name)

    @classmethod
    def get_all_supported_chains(cls) -> list[ChainId]:
        """Get list of all supported chains"""
        return list(cls._networks)

    @classmethod
    def load_abi(cls, abi_name: str) -> list[dict[str, Any]]:
        """`load_abi("NexusAbi")`: a contract's ABI; it is the same on all chains."""
        return list(interface(abi_name.removesuffix("Abi"))._abi)

    @classmethod
    def use(cls, manifest: "Mapping[str, Any] | str | Path | Network") -> ChainId:
        """Select a network by its manifest: a dict, a path, a URL, or a `Network`. Its chain id."""
        if isinstance(manifest, Network):
            network = manifest
        else:
            network = Network.from_manifest(
                manifest if isinstance(manifest, Mapping) else _read(str(manifest))
            )
        chain = ChainId(network.chain_id)
        with cls._lock:
            cls._networks[chain] = network
            cls.CHAIN_CONTRACTS[chain] = dict(network.contracts)
            cls._chosen_rpc.pop(chain, None)
            cls._current_chain = chain
        return chain

    @classmethod
    def set_rpc(cls, url: str, chain: ChainId | None = None) -> None:
        """Reach a chain (the current one) by another node."""
        with cls._lock:
            chain = chain or cls.get_current_chain()
            if chain not in cls._networks:
                raise UnknownChain(f"Chain {chain} is not supported; describe it to ChainConfig.use().")
            cls._chosen_rpc[chain] = url

    @classmethod
    def get_rpc(cls, chain: ChainId | None = None) -> str:
        return cls.network(chain).rpc_url

    @classmethod
    def network(cls, chain: ChainId | None = None) -> Network:
        """The current network, or another supported one, as it is configured now."""
        with cls._lock:
            chain = chain or cls.get_current_chain()
            found = cls._networks.get(chain)
            if found is None:
                raise UnknownChain(f"Chain {chain} is not supported; describe it to ChainConfig.use().")
            url = cls._chosen_rpc.get(chain) or os.environ.get("CHAIN_RPC_URL") or found.rpc_url
            return replace(found, rpc_url=url, contracts=dict(cls.CHAIN_CONTRACTS[chain]))

    @classmethod
    def reset(cls) -> None:
        """Forget what was selected, so that the environment decides again."""
        with cls._lock:
            cls._current_chain = None
            cls._chosen_rpc.clear()


def _read(location: str) -> Mapping[str, Any]:
    """A manifest from a file or a server."""
    try:
        text = (
            _fetch(location) if location.startswith(("http://", "https://")) else Path(location).read_bytes()
        )
        found = json.loads(text)
    except OSError as error:
        where = place(location) if "://" in location else location
        raise ConfigurationError(
            f"The network manifest at {where} cannot be read ({type(error).__name__})."
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"The network manifest is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigurationError("The network manifest is not a JSON object.")
    return found


def _fetch(url: str) -> bytes:
    with requests.get(url, timeout=MANIFEST_SECONDS, stream=True) as reply:
        reply.raise_for_status()
        return reply.raw.read(MANIFEST_BYTES, decode_content=True) or b""
