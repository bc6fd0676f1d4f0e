"""Reading contracts: any number of view functions in one round trip."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eth_account.signers.local import LocalAccount

from chain.client import keys
from chain.client.chain_config import ChainConfig, Network
from chain.client.errors import NodeRefused, Reverted, WrongNetwork, reverted
from chain.client.interface import Undecodable, interface, revert_reason
from chain.client.keys import PrivateKey
from chain.client.rpc import Answer, Request, ask
from chain.client.steps import Blocking, Deadline, Steps

CHAIN_ID = Request("eth_chainId")


@dataclass(frozen=True)
class View:
    """`View("Task", address, "getStatus")`: what shall be read."""

    contract: str
    address: str
    function: str
    arguments: tuple[Any, ...] = ()

    def request(self) -> Request:
        data = interface(self.contract).encode(self.function, *self.arguments)
        return Request("eth_call", ({"to": self.address, "data": data}, "latest"))

    def value(self, answer: Answer) -> Any:
        """Decoded. Raises `Undecodable` (there is no such contract), `Reverted`, `NodeRefused`."""
        if isinstance(answer, NodeRefused):
            raise refusal(answer, doing=f"{self.contract}.{self.function}")
        return interface(self.contract).decode(self.function, answer)


@dataclass(frozen=True)
class Session:
    """What a call works with from beginning to end."""

    network: Network
    signer: LocalAccount
    deadline: Deadline


def opened(
    private_key: PrivateKey | None,
    network: Network | None,
    *,
    role: str = "CLIENT",
    total_timeout: float | None = None,
) -> Steps[Session]:
    deadline = Deadline(total_timeout)
    chosen = yield from chosen_network(network)
    signer = yield Blocking(partial(keys.account, private_key, role=role))
    return Session(chosen, signer, deadline)


def chosen_network(network: Network | None) -> Steps[Network]:
    """The one given, else the current one, whose manifest may have to be fetched first."""
    if network is not None:
        return network
    found: Network = yield Blocking(ChainConfig.network)
    return found


def read(network: Network, views: Sequence[View], *, deadline: Deadline | None = None) -> Steps[list[Any]]:
    """The values, in order. Raises as `View.value` does for the first that has none."""
    requests = [view.request() for view in views]
    answers = yield from ask(network.rpc_url, requests, deadline=deadline or Deadline(None))
    return [view.value(answer) for view, answer in zip(views, answers, strict=True)]


def read_checked(session: Session, views: Sequence[View]) -> Steps[list[Any]]:
    """The same before something is sent: the node must serve the network that is meant."""
    requests = [CHAIN_ID, *(view.request() for view in views)]
    chain_id, *answers = yield from ask(session.network.rpc_url, requests, deadline=session.deadline)
    check_chain_id(session.network, chain_id)
    return [view.value(answer) for view, answer in zip(views, answers, strict=True)]


def check_chain_id(network: Network, answer: Answer) -> None:
    if isinstance(answer, NodeRefused):
        raise answer
    found = int(answer, 16)
    if found != network.chain_id:
        raise WrongNetwork(selected=network.chain_id, found=found, name=network.name)


def refusal(refused: NodeRefused, *, doing: str) -> Reverted | NodeRefused:
    """A contract's refusal is told from a node's."""
    if refused.code == 3 or "revert" in refused.message.lower():
        return reverted(revert_reason(refused.message, refused.data), doing=doing)
    return refused


__all__ = [
    "Session",
    "Undecodable",
    "View",
    "check_chain_id",
    "chosen_network",
    "opened",
    "read",
    "read_checked",
]
