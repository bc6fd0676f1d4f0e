"""Sources that the marketplace publishes on a chain for people without a wallet. The marketplace pays the gas, and is
the sources' client there, so that approved providers and operators alone can ask for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.db import transaction
from django.db.models import QuerySet

from chain import keys, outbox, pins
from chain.ethereum import encoded
from chain.models import DeliveryMethod, Log, Network, Purpose, SourceOrder, Transaction, TransactionStatus
from clients.models import Client
from marketplace.errors import Conflict, Forbidden, InvalidRequest, NotFound

# Each costs gas.
MAX_A_DAY = 20
# The bits of SourceParams.imageEnvironments.
ENVIRONMENTS = {"cpu": 1, "nvidia": 2, "amd": 4}


class UnknownSourceOrder(NotFound):
    code, message = "unknown_source", "There is no such source."


class ProvidersOnly(Forbidden):
    code = "providers_only"
    message = "Sources are published for approved providers and operators. Ask to become a provider first."


class TooManySources(Conflict):
    code, message = "too_many_sources", f"{MAX_A_DAY} sources a day are published for one account."


class NoEnvironment(InvalidRequest):
    code = "no_environment"
    message = "Say which model answers, or where a docker-compose file is (cpu, nvidia or amd)."


@dataclass(frozen=True, slots=True)
class About:
    """What a source says of itself, as the published clients write it. URLs of docker-compose files, or empty."""

    name: str
    description: str = ""
    logo_url: str = ""
    cpu: str = ""
    nvidia: str = ""
    amd: str = ""

    @property
    def environments(self) -> int:
        return sum(bit for name, bit in ENVIRONMENTS.items() if getattr(self, name))


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a source asks of tasks and providers. Amounts in base units, times in seconds."""

    delivery_method: DeliveryMethod
    min_payment: int = 0
    min_available_lockup: int = 0
    max_expiry_s: int = 86400


def of(client: Client) -> QuerySet[SourceOrder]:
    """What was published for a client, or is on its way, newest first."""
    return SourceOrder.objects.filter(owner=client)


def check_owner(owner: Client) -> None:
    """Raise ProvidersOnly unless sources are published for this person."""
    if not (owner.is_staff or owner.is_gpu_provider_approved):
        raise ProvidersOnly


def pin(about: About, *, now: datetime) -> str:
    """Keep what a source says of itself; the link. Not within a transaction. Raises NoEnvironment."""
    if not about.environments:
        raise NoEnvironment
    said = {
        "cpu": about.cpu,
        "nvidia": about.nvidia,
        "amd": about.amd,
        "name": about.name,
        "description": about.description,
        "logoUrl": about.logo_url,
    }
    kept = pins.keep(
        json.dumps(said, ensure_ascii=False).encode(),
        filename="imageMetadata.json",
        content_type="application/json",
        keep_until=pins.usual_end(now),
        now=now,
    )
    return pins.url(kept)


@transaction.atomic
def publish(
    owner: Client, network: Network, *, about: About, metadata_url: str, conditions: Conditions, now: datetime
) -> SourceOrder:
    """Have a source published. Raises ProvidersOnly, TooManySources, keys.NoKey."""
    check_owner(owner)
    # One at a time for each account, so that two cannot both be the last.
    Client.objects.select_for_update(no_key=True).get(pk=owner.pk)
    if of(owner).filter(created_at__gt=now - timedelta(days=1)).count() >= MAX_A_DAY:
        raise TooManySources()
    publisher = keys.operator_address()
    sent = outbox.queue(
        network=network,
        purpose=Purpose.PUBLISH_SOURCE,
        reference=f"source-order:{uuid4()}",
        to=network.address("NEXUS"),
        data=encoded("Nexus", "publishSource", _params(about, metadata_url, conditions, publisher, now)),
        sender=publisher,
    )
    return SourceOrder.objects.create(
        owner=owner,
        network=network,
        name=about.name,
        metadata_url=metadata_url,
        delivery_method=conditions.delivery_method,
        publication=sent,
        created_at=now,
    )


def _params(
    about: About, metadata_url: str, conditions: Conditions, publisher: str, now: datetime
) -> tuple[Any, ...]:
    return (
        publisher,
        metadata_url,
        about.environments,
        conditions.min_payment,
        conditions.min_available_lockup,
        conditions.max_expiry_s,
        False,
        "",
        int(conditions.delivery_method),
        int(now.timestamp()),
    )


def _publication_ended(row: Transaction) -> None:
    """Write down where the source is. One that was refused says why by its transaction."""
    if row.status != TransactionStatus.CONFIRMED:
        return
    event = Log.objects.filter(
        network_id=row.network_id, transaction_hash=row.hash, name="SourcePublished"
    ).first()
    if event is not None:
        SourceOrder.objects.filter(publication=row).update(source_address=event.arguments["source"])


outbox.on_end(Purpose.PUBLISH_SOURCE, _publication_ended)
