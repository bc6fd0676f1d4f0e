"""Which chains there are: from manifests that the settings name, and the two public networks of the document.

A manifest is JSON: {"name", "chain_id", "rpc_url", "contracts": {"NEXUS": "0x…", …}, "start_block", "confirmations"}.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from eth_utils import is_address, to_checksum_address

from chain.models import Network
from marketplace.errors import NotFound, Unavailable

MANIFEST_TIMEOUT_S = 10
# Confirmations where a manifest does not say; addresses as the document's client has them.
USUAL_CONFIRMATIONS = 12


class NoNetwork(Unavailable):
    code, message = "no_network", "This marketplace is connected to no chain."


class UnknownNetwork(NotFound):
    code = "unknown_network"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a chain before it is asked. `rpc_url` may hold a secret: it is neither stored nor shown.
    `public_url` is a node that everybody may ask; empty where none is known.
    """

    name: str
    chain_id: int
    rpc_url: str
    contracts: dict[str, str] = field(default_factory=dict)
    start_block: int = 0
    confirmations: int = USUAL_CONFIRMATIONS
    public_url: str = ""


KNOWN = {
    "ogpu-mainnet": Manifest(
        "ogpu-mainnet",
        1071,
        "https://mainnet-rpc.ogpuscan.io",
        {
            "NEXUS": "0x2b0cC6058313801D5feb184a539e3a0C5A87a6a1",
            "CONTROLLER": "0x8661F4B9c30e07A04d795A192478dfD905625a1D",
            "TERMINAL": "0xaEBC7b712D38Fc4d841f0732c21B8774339869D3",
            "VAULT": "0xa5c582254AA313528898311362bc698b041580cC",
        },
        public_url="https://mainnet-rpc.ogpuscan.io",
    ),
    "ogpu-testnet": Manifest(
        "ogpu-testnet",
        200820172034,
        "https://testnetrpc.ogpuscan.io",
        {
            "NEXUS": "0xF87bb2f3edB991a998992f14d35fE142e6Bb50b1",
            "CONTROLLER": "0x9fb6022074Fd7Bdb429de0776eb693cA0CB55E09",
            "TERMINAL": "0x1ea332Fc14a5AFD3AF3852B45C263Ab5b1Dd6f52",
            "VAULT": "0x15905a2FbD3EF5d3532b931b5656BB9EB493Bb15",
        },
        public_url="https://testnetrpc.ogpuscan.io",
    ),
}


def followed() -> list[Network]:
    """The networks of the settings, in their order; rows are made, and brought up to date, where need be."""
    return [_row(manifest) for manifest in manifests()]


def default() -> Network:
    """The network that is meant where nobody says which. Raises NoNetwork."""
    found = manifests()
    if not found:
        raise NoNetwork
    return _row(found[0])


def named(name: str) -> Network:
    """A followed network by its name or its chain's id. Raises UnknownNetwork, NoNetwork."""
    found = manifests()
    if not found:
        raise NoNetwork
    for manifest in found:
        if name in (manifest.name, str(manifest.chain_id)):
            return _row(manifest)
    names = ", ".join(manifest.name for manifest in found)
    raise UnknownNetwork(f"This marketplace follows no chain {name!r}; it follows {names}.")


def manifest_of(network: Network) -> Manifest:
    """Raises UnknownNetwork for a network that the settings do not name any more."""
    for manifest in manifests():
        if manifest.chain_id == network.chain_id:
            return manifest
    raise UnknownNetwork(f"{network} is not followed any more.")


def manifests() -> list[Manifest]:
    """As the settings have them. Raises ImproperlyConfigured."""
    return _manifests(
        tuple(settings.CHAIN_NETWORKS), settings.CHAIN_RPC_URL, json.dumps(settings.CHAIN_RPC_URLS)
    )


@functools.lru_cache(maxsize=8)
def _manifests(names: tuple[str, ...], first_rpc_url: str, rpc_urls: str) -> list[Manifest]:
    own = json.loads(rpc_urls)
    found = []
    for position, name in enumerate(names):
        manifest = KNOWN.get(name) or read(name)
        url = own.get(manifest.name) or (first_rpc_url if position == 0 else "")
        if url:
            manifest = replace(manifest, rpc_url=url)
        found.append(manifest)
    return found


def read(place: str) -> Manifest:
    """A manifest from a file or a URL. Raises ImproperlyConfigured, with what would be right."""
    try:
        text = _text(place)
        said = json.loads(text)
        return _manifest(said)
    except (OSError, requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise ImproperlyConfigured(
            f"CHAIN_NETWORKS names {place!r}, and that is no network's manifest: {error}. Expected: "
            f"{', '.join(KNOWN)}, or the path or URL of JSON with name, chain_id, rpc_url and contracts."
        ) from None


def _text(place: str) -> str:
    if place.startswith(("http://", "https://")):
        answer = requests.get(place, timeout=MANIFEST_TIMEOUT_S)
        answer.raise_for_status()
        return answer.text
    return Path(place).read_text(encoding="utf-8")


def _manifest(said: dict[str, Any]) -> Manifest:
    contracts = {name: str(to_checksum_address(address)) for name, address in said["contracts"].items()}
    missing = [name for name in ("NEXUS", "CONTROLLER", "VAULT") if not is_address(contracts.get(name, ""))]
    if missing:
        raise ValueError(f"the address of {' and '.join(missing)} is missing")
    return Manifest(
        name=str(said["name"]),
        chain_id=int(said["chain_id"]),
        rpc_url=str(said["rpc_url"]),
        contracts=contracts,
        start_block=int(said.get("start_block", 0)),
        confirmations=max(int(said.get("confirmations", USUAL_CONFIRMATIONS)), 1),
        public_url=str(said["rpc_url"]) if said.get("is_public") else "",
    )


def _row(manifest: Manifest) -> Network:
    # A chain that had this name before, such as one that was deleted and begun anew with another id.
    for other in Network.objects.filter(name=manifest.name).exclude(chain_id=manifest.chain_id):
        Network.objects.filter(pk=other.pk).update(name=f"{other.name[:20]}-{other.chain_id}")
    values = {
        "name": manifest.name,
        "contracts": manifest.contracts,
        "confirmations": manifest.confirmations,
        "start_block": manifest.start_block,
    }
    network, made = Network.objects.get_or_create(
        chain_id=manifest.chain_id, defaults={**values, "cursor_block": manifest.start_block - 1}
    )
    changed = [name for name, value in values.items() if getattr(network, name) != value]
    if not made and changed:
        for name in changed:
            setattr(network, name, values[name])
        network.save(update_fields=changed)
    return network
