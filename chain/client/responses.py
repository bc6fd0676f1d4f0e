"""Responses: what providers have answered, and the client's word that it is accepted."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from chain.client.blocking import operation
from chain.client.chain_config import Network
from chain.client.errors import InvalidValue, NoConfirmedResponse, NoSuchResponse, Reverted
from chain.client.interface import ZERO_ADDRESS, Undecodable, checksum
from chain.client.keys import PrivateKey
from chain.client.rpc import ask
from chain.client.sending import RECEIPT_SECONDS, Call, transact
from chain.client.steps import Deadline, Http, Steps, Unreachable
from chain.client.task import no_task
from chain.client.types import ConfirmedResponse, Response
from chain.client.views import View, chosen_network, opened, read

# Addresses of one round trip; each is read by four more requests, in batches.
PAGE = 1_000
API_SECONDS = 15.0

READ = ("getResponseParams", "getStatus", "responseTimestamp", "confirmedFinal")


@operation
def get_task_responses(
    task_address: str, lower: int = 0, upper: int | None = None, *, network: Network | None = None
) -> Steps[list[Response]]:
    """Get all responses for a specific task address, in the order of the attempts.

    Args:
        task_address: The task contract address
        lower: Lower bound for response pagination (default: 0)
        upper: Upper bound for response pagination (default: None, gets all); not included, as in Python

    A page counts the task's attempts; those that are not answered yet have no response. Two round trips for a page:
    the addresses, then everything of all of them.

    Raises `NoSuchTask`, `NodeError`, `InvalidAddress`.
    """
    address = checksum(task_address, "task_address")
    if lower < 0 or (upper is not None and upper < lower):
        raise InvalidValue(f"The page from {lower} to {upper} is none.")
    chosen = yield from chosen_network(network)
    found = yield from _addresses(chosen, address, lower, upper)
    return (yield from _responses(chosen, found))


@operation
def get_confirmed_response(
    task_address: str, *, network: Network | None = None, timeout: float = API_SECONDS
) -> Steps[ConfirmedResponse]:
    """Get confirmed response data for a specific task address by calling the API.

    The chain is asked where there is no API, or it does not know. What the API says is believed only if the chain
    agrees: an unconfirmed response is never returned.

    Args:
        task_address: The task contract address
        timeout: for the API, in seconds

    Raises `NoConfirmedResponse` where there is none yet, `NoSuchTask`, `NodeError`.
    """
    address = checksum(task_address, "task_address")
    chosen = yield from chosen_network(network)
    named = yield from _named_by_api(chosen, address, timeout)
    if named is not None:
        try:
            (response,) = yield from _responses(chosen, [named])
        except (Undecodable, Reverted, NoSuchResponse):
            # Some servers name the task here, not the response.
            pass
        else:
            if response.confirmed and response.task == address:
                return ConfirmedResponse(response.address, response.data)
    found = yield from _addresses(chosen, address, 0, None)
    for response in (yield from _responses(chosen, found)):
        if response.confirmed:
            return ConfirmedResponse(response.address, response.data)
    raise NoConfirmedResponse(f"The task {address} has no confirmed response; {len(found)} were given.")


@operation
def confirm_response(
    response_address: str,
    private_key: PrivateKey | None = None,
    *,
    network: Network | None = None,
    receipt_timeout: float = RECEIPT_SECONDS,
    total_timeout: float | None = None,
) -> Steps[str]:
    """Confirm a response using the Controller contract, which pays its provider; the transaction's hash, with 0x.

    Args:
        response_address: The response contract address to confirm
        private_key: Private key for signing the transaction. If None, will use CLIENT_PRIVATE_KEY environment variable.

    Raises `ResponseAlreadyConfirmed`, `NotTaskOwner`, and others of `ChainError`.
    """
    address = checksum(response_address, "response_address")
    session = yield from opened(private_key, network, total_timeout=total_timeout)
    call = Call("Controller", session.network.contract("CONTROLLER"), "confirmResponse", (address,))
    return (yield from transact(session, call, receipt_timeout=receipt_timeout)).tx_hash


@operation
def get_response(response_address: str, *, network: Network | None = None) -> Steps[Response]:
    """One response, in one round trip. Raises `NoSuchResponse`."""
    address = checksum(response_address, "response_address")
    chosen = yield from chosen_network(network)
    (response,) = yield from _responses(chosen, [address])
    return response


def _addresses(network: Network, task: str, lower: int, upper: int | None) -> Steps[list[str]]:
    """The responses' addresses of a range of attempts; contracts take both bounds as included."""
    found: list[str] = []
    while upper is None or lower < upper:
        last = lower + PAGE if upper is None else min(lower + PAGE, upper)
        count, page = yield from _page(network, task, lower, last)
        found += [address for address in page if address != ZERO_ADDRESS]
        lower = last
        if lower >= count:
            break
    return found


def _page(network: Network, task: str, lower: int, end: int) -> Steps[tuple[int, Sequence[str]]]:
    """How many attempts there are, and the answers to those below `end`."""
    count_view = View("Task", task, "getAttemptCount")
    page_view = View("Task", task, "getResponsesOf", (lower, end - 1))
    requests = [count_view.request(), page_view.request()]
    first, second = yield from ask(network.rpc_url, requests, deadline=Deadline(None))
    try:
        count = count_view.value(first)
    except Undecodable:
        raise no_task(task, network) from None
    try:
        return count, page_view.value(second)
    except Reverted:
        # Contracts that do not clamp refuse bounds beyond the end.
        if lower >= count:
            return count, ()
    exact = View("Task", task, "getResponsesOf", (lower, min(end, count) - 1))
    (page,) = yield from read(network, [exact])
    return count, page


def _responses(network: Network, addresses: Sequence[str]) -> Steps[list[Response]]:
    """All of them, whatever their number, in as few round trips as batches allow."""
    views = [View("Response", address, name) for address in addresses for name in READ]
    try:
        values = yield from read(network, views)
    except Undecodable:
        raise NoSuchResponse(
            f"There is no response contract at one of {', '.join(addresses[:3])} …"
        ) from None
    return [
        _response(address, values[start : start + len(READ)])
        for address, start in zip(addresses, range(0, len(values), len(READ)), strict=True)
    ]


def _response(address: str, values: list[Any]) -> Response:
    (task, provider, data, payment), status, timestamp, confirmed = values
    return Response(address, task, provider, data, payment, status, timestamp, confirmed)


def _named_by_api(network: Network, task: str, timeout: float) -> Steps[str | None]:
    """The address that `GET {api_url}/api/tasks/{task}` names; None where no server is, or none that knows."""
    if not network.api_url:
        return None
    url = f"{network.api_url.rstrip('/')}/api/tasks/{quote(task)}"
    try:
        reply = yield Http("GET", url, timeout, headers={"Accept": "application/json"})
        named = json.loads(reply.body)["data"]["address"] if reply.status == 200 else None
        return checksum(named, "address") if named else None
    except (Unreachable, ValueError, KeyError, TypeError):
        return None
