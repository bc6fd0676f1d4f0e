"""What a transaction has created, from its receipt."""

from chain.client.chain_config import Network
from chain.client.errors import TransactionFailed
from chain.client.interface import Undecodable, interface
from chain.client.sending import Receipt


def created(network: Network, receipt: Receipt, event: str, parameter: str) -> str:
    """The address that one of Nexus's events names; logs of other contracts do not count."""
    nexus = network.contract("NEXUS").lower()
    for log in receipt.logs:
        if str(log["address"]).lower() != nexus:
            continue
        try:
            return str(interface("Nexus").event(event, log)[parameter])
        except Undecodable:
            continue
    raise TransactionFailed(f"{receipt.tx_hash} was mined, and its receipt has no {event}.", receipt.tx_hash)
