"""What is known of sources, tasks and responses on the chains, for whoever asks.

What is on a chain everybody can read there, so that everybody who is signed in may read it here; what the document's
clients ask for is public. What the marketplace adds (why its own work stands as it does) is for whom it concerns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

from django.db.models import Exists, OuterRef, Q, QuerySet
from eth_utils import is_hex_address, to_checksum_address

from chain import networks
from chain.models import (
    Deposit,
    Fulfilment,
    Log,
    Network,
    Placed,
    Response,
    ResponseStatus,
    Service,
    Source,
    SourceOrder,
    Task,
    TaskOrder,
)
from clients.models import Account, Client, Wallet
from marketplace.errors import InvalidRequest, NotFound

Row = TypeVar("Row", bound=Placed)


class NotOnChain(NotFound):
    """Nothing is known at this address; what was published a moment ago may not have been read yet."""

    code, message = "not_on_chain", "Nothing is known of this address (yet)."


class NotConfirmed(NotFound):
    code, message = "not_confirmed", "This task has no confirmed response (yet)."


class UnknownFilter(InvalidRequest):
    code = "unknown_network"


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task with what is known about it here. Without `task` it is an order that is not on the chain (yet)."""

    network: Network
    task: Task | None = None
    order: TaskOrder | None = None
    fulfilment: Fulfilment | None = None
    # Who has published it, by the Vault's event; empty where that is not known.
    client: str = ""
    # Whether the one who asks may read why our work on it stands as it does, and whether it is the asker's own work.
    is_concerned: bool = False
    is_provider: bool = False
    # Of an order that is not on the chain: how its source has tasks answered; None where that is not known.
    delivery_method: int | None = None


@dataclass(frozen=True, slots=True)
class SourceView:
    """A source likewise."""

    network: Network
    source: Source | None = None
    order: SourceOrder | None = None
    service: Service | None = None
    is_concerned: bool = False


def address_of(text: str) -> str | None:
    """An address with its checksum, from any case of its digits; None for what is none."""
    text = text.strip()
    return to_checksum_address(text) if text[:2].lower() == "0x" and is_hex_address(text) else None


def network_named(name: str | None) -> Network | None:
    """A network that is known here, by name or chain id; None where none is named. Raises UnknownFilter."""
    if not name:
        return None
    is_id = name.isascii() and name.isdecimal() and len(name) <= 18
    found = Network.objects.filter(Q(name=name) | Q(chain_id=int(name) if is_id else -1)).first()
    if found is None:
        says = f"No network {name[:40]!r} is known here; see /chain/networks/."
        raise UnknownFilter(says, fields={"network": [says]})
    return found


def at(rows: QuerySet[Row], text: str, *, network: Network | None = None) -> Row:
    """The row with an address; of several networks the one that is meant where nobody says which. Raises NotOnChain."""
    address = address_of(text)
    found = [] if address is None else list(rows.filter(address=address).select_related("network"))
    if network is not None:
        found = [row for row in found if row.network_id == network.pk]
    if not found:
        raise NotOnChain
    order = {manifest.chain_id: place for place, manifest in enumerate(networks.manifests())}
    return min(found, key=lambda row: (order.get(row.network.chain_id, len(order)), row.network_id))


def confirmed_response(text: str, *, network: Network | None = None) -> Response:
    """The response of a task that was confirmed, as the chain says at this moment. Raises NotConfirmed."""
    try:
        task = at(Task.objects.all(), text, network=network)
    except NotOnChain:
        raise NotConfirmed("No such task is known here (yet).") from None
    found = task.responses.filter(status=ResponseStatus.CONFIRMED).select_related("task__source", "network")
    response = found.first()
    if response is None:
        raise NotConfirmed
    return response


# --- What is somebody's own ---------------------------------------------------------------------------------


def own_sources(viewer: Client) -> Q:
    """Sources that were published for somebody here, or by a wallet of theirs."""
    ordered = SourceOrder.objects.filter(
        owner=viewer, network=OuterRef("network"), source_address=OuterRef("address")
    )
    return Q(Exists(ordered)) | Q(client__in=wallets(viewer))


def own_responses(viewer: Client) -> Q:
    """Responses to what somebody has had published here, and those that their own nodes have given."""
    ordered = TaskOrder.objects.filter(
        owner=viewer, network=OuterRef("network"), task_address=OuterRef("task__address")
    )
    given = Fulfilment.objects.filter(
        provider=viewer, network=OuterRef("network"), response_address=OuterRef("address")
    )
    return Q(Exists(ordered)) | Q(Exists(given))


def own_deposits(viewer: Client) -> QuerySet[Deposit]:
    """What came in for somebody, and what will be theirs once it is final, newest first."""
    accounts = Account.objects.filter(client=viewer).values_list("pk", flat=True)
    named = Q(account_number__in=[Decimal(pk) for pk in accounts])
    sent = Q(account_number=0, sender__in=wallets(viewer))
    return Deposit.objects.filter(Q(client=viewer) | Q(client=None) & (named | sent))


def wallets(viewer: Client) -> list[str]:
    """A person's linked wallets, with their checksums."""
    return [to_checksum_address(wallet.address) for wallet in Wallet.objects.filter(client=viewer)]


# --- A page of them, with all that belongs to it ------------------------------------------------------------


def tasks(rows: Sequence[Task], viewer: Client) -> list[TaskView]:
    """Tasks with the viewer's orders and our own work, in a few queries for all of them."""
    orders = {
        (order.network_id, order.task_address): order
        for order in _visible(TaskOrder.objects.filter(task_address__in=_addresses(rows)), viewer)
    }
    work = {
        (each.network_id, each.task_address, each.published_transaction): each
        for each in Fulfilment.objects.filter(task_address__in=_addresses(rows))
    }
    publishers, mine = _publishers(rows), set(wallets(viewer))
    found = []
    for task in rows:
        order = orders.get((task.network_id, task.address))
        fulfilment = work.get((task.network_id, task.address, task.transaction_hash))
        client = publishers.get((task.network_id, task.address), "")
        concerns = viewer.is_staff or order is not None or client in mine
        is_provider = fulfilment is not None and fulfilment.provider_id == viewer.pk
        found.append(
            TaskView(task.network, task, order, fulfilment, client, concerns or is_provider, is_provider)
        )
    return found


def ordered_tasks(orders: Sequence[TaskOrder], viewer: Client) -> list[TaskView]:
    """Orders with their tasks, where these are on the chain already."""
    addresses = [order.task_address for order in orders if order.task_address]
    known = {
        (task.network_id, task.address): task
        for task in Task.objects.filter(address__in=addresses).select_related("network", "source")
    }
    views = {
        (view.network.pk, view.task.address): view
        for view in tasks(list(known.values()), viewer)
        if view.task is not None
    }
    methods = _methods([order for order in orders if (order.network_id, order.task_address) not in views])
    found = []
    for order in orders:
        view = views.get((order.network_id, order.task_address))
        if view is None:
            method = methods.get((order.network_id, order.source_address))
            found.append(TaskView(order.network, order=order, is_concerned=True, delivery_method=method))
        else:
            found.append(replace(view, order=order, is_concerned=True))
    return found


def _methods(orders: Sequence[TaskOrder]) -> dict[tuple[int, str], int]:
    """How the sources of orders have tasks answered, by network and address."""
    if not orders:
        return {}
    wanted = Source.objects.filter(address__in={order.source_address for order in orders})
    rows = wanted.values_list("network_id", "address", "delivery_method")
    return {(network, address): method for network, address, method in rows}


def sources(rows: Sequence[Source], viewer: Client) -> list[SourceView]:
    """Sources with the viewer's orders, and whether we serve them."""
    orders = {
        (order.network_id, order.source_address): order
        for order in _visible(SourceOrder.objects.filter(source_address__in=_addresses(rows)), viewer)
    }
    services = {
        (service.network_id, service.source_address): service
        for service in Service.objects.filter(source_address__in=_addresses(rows))
    }
    mine = set(wallets(viewer))
    found = []
    for source in rows:
        place = (source.network_id, source.address)
        concerns = viewer.is_staff or place in orders or source.client in mine
        found.append(SourceView(source.network, source, orders.get(place), services.get(place), concerns))
    return found


Order = TypeVar("Order", TaskOrder, SourceOrder)


def _visible(orders: QuerySet[Order], viewer: Client) -> QuerySet[Order]:
    """A person's own; operators see everybody's."""
    mine = orders if viewer.is_staff else orders.filter(owner=viewer)
    return mine.select_related("network")


def _addresses(rows: Iterable[Task | Source]) -> list[str]:
    return [row.address for row in rows]


def _publishers(rows: Sequence[Task]) -> dict[tuple[int, str], str]:
    """Who has published tasks: the Vault says so in the same transaction, where it is one of ours."""
    events = Log.objects.filter(
        name="PaymentFrozen",
        network__in={row.network_id for row in rows},
        block_number__in={row.block_number for row in rows},
    )
    return {
        (event.network_id, str(event.arguments.get("task"))): str(event.arguments.get("client"))
        for event in events
    }
