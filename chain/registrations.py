"""How our provider comes to be registered with the sources that we serve.

Each look reads what the chain says and has the next thing sent that is missing: the pairing of master (the operator's
address) and provider, a stake that is large enough, the registration. Nothing is sent while something of it is still on
its way. One key may be both.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from chain import ethereum, keys, outbox
from chain.ethereum import Refused, encoded
from chain.models import (
    DONE,
    Network,
    Purpose,
    Service,
    Serving,
    Source,
    SourceStatus,
    Transaction,
    TransactionStatus,
)
from marketplace import money
from marketplace.errors import MarketplaceError

# Who looks after one has so long before another one does; how soon it is looked at again, and after failures.
_LOOKING = timedelta(seconds=60)
_SOON = timedelta(seconds=3)
_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (10, 60, 300, 1800))
# Coins that stay with the operator's address, for gas.
_FOR_GAS = 10**16
_NOBODY = "0x" + 40 * "0"
_ENVIRONMENTS = (2, 1, 4)  # NVIDIA, CPU, AMD


class Obstacle(Exception):
    """Why nothing can be done at present, as a sentence."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the chain says of our provider. Amounts in base units."""

    master: str
    is_registered: bool
    lockup: int
    least_per_source: int
    registrations: int

    def missing_for(self, source: Source) -> int:
        """What has to be staked yet, for this source beside all others."""
        count = self.registrations + (0 if self.is_registered else 1)
        return max(0, max(self.least_per_source * count, source.min_available_lockup) - self.lockup)


def due(network: Network, *, now: datetime) -> list[int]:
    """Ids of the services that need something done about their registration."""
    active = Source.objects.filter(
        network=OuterRef("network"), address=OuterRef("source_address"), status=SourceStatus.ACTIVE
    )
    wanted = Q(Exists(active), status=Serving.SERVED, registered_at=None)
    unwanted = Q(status=Serving.REFUSED, registered_at__isnull=False)
    # Said twice, so that the many that only wait for an operator are not looked at one by one.
    decided = Service.objects.filter(network=network, status__in=(Serving.SERVED, Serving.REFUSED))
    rows = decided.filter(wanted | unwanted, next_try_at__lte=now)
    return list(rows.order_by("next_try_at", "pk").values_list("pk", flat=True)[:20])


def advance(service_id: int, *, now: datetime) -> None:
    """Do the next thing for a service. Asks the chain's node."""
    if not Service.objects.filter(pk=service_id, next_try_at__lte=now).update(next_try_at=now + _LOOKING):
        return
    service = Service.objects.select_related("network").get(pk=service_id)
    if service.network.is_paused or _open(service.network).exists():
        _look_again(service, now + _SOON)
        return
    try:
        _advance(service, now)
    except Obstacle as obstacle:
        _stopped(service, str(obstacle), now)
    except MarketplaceError as error:
        _stopped(service, error.message, now)


def _advance(service: Service, now: datetime) -> None:
    missing = [name for name in ("NEXUS", "TERMINAL", "VAULT") if not service.network.address(name)]
    if missing:
        raise Obstacle(f"The network's manifest has no address of {' and '.join(missing)}.")
    source = Source.objects.filter(network=service.network, address=service.source_address).first()
    if source is None:
        raise Obstacle("The source is not on the chain (any more).")
    found = _standing(service.network, source)
    if service.status == Serving.REFUSED:
        _leave(service, found, now)
    elif found.is_registered and not found.missing_for(source):
        Service.objects.filter(pk=service.pk).update(registered_at=now, obstacle="", tries=0)
    else:
        _enter(service, source, found, now)


def _standing(network: Network, source: Source) -> Standing:
    node, provider = ethereum.of(network), keys.provider_address()
    vault = node.contract("Vault", network.address("VAULT")).functions
    master, entered, lockup, least = node.read(
        [
            node.contract("Terminal", network.address("TERMINAL")).functions.getMasterOf(provider),
            node.contract("Source", source.address).functions.registrantId(provider),
            vault.getLockupOf(provider),
            vault.MIN_LOCKUP_PER_SOURCE(),
        ]
    )
    is_registered = entered != 0
    return Standing(str(master), is_registered, int(lockup), int(least), _registrations(network, provider))


def _registrations(network: Network, provider: str) -> int:
    """With how many sources our provider is registered."""
    known = Service.objects.filter(network=network, registered_at__isnull=False).count()
    node = ethereum.of(network)
    try:
        nexus = node.contract("Nexus", network.address("NEXUS"))
        return max(known, int(node.read([nexus.functions.registrationCountOf(provider)])[0]))
    except Refused:
        return known  # the public network's contract does not say
    except ethereum.NodeAway:
        return known


def _enter(service: Service, source: Source, found: Standing, now: datetime) -> None:
    network, operator, provider = service.network, keys.operator_address(), keys.provider_address()
    if found.master not in (operator, _NOBODY):
        raise Obstacle(f"Our provider {provider} belongs to another master, {found.master}.")
    stake = found.missing_for(source)
    _check_wanted(service, source, found)
    _check_balance(network, operator, stake)
    register = encoded("Nexus", "register", source.address, provider, _environment(source.environments))
    with transaction.atomic():
        _alone(network)
        if _open(network).exists():
            return
        before = None
        is_paired = found.master == operator
        if stake or not is_paired:
            announce = encoded("Terminal", "announceProvider", provider, stake)
            before = _queue(
                network, Purpose.TERMINAL, "announce-provider", "TERMINAL", announce, operator, value=stake
            )
        if not is_paired:
            accept = encoded("Terminal", "announceMaster", operator)
            before = _queue(
                network, Purpose.TERMINAL, "announce-master", "TERMINAL", accept, provider, after=before
            )
        if not found.is_registered:
            before = _queue(
                network, Purpose.REGISTER, f"register:{service.pk}", "NEXUS", register, provider, after=before
            )  # fmt: skip
        Service.objects.filter(pk=service.pk).update(
            registration=before, obstacle="", next_try_at=now + _SOON
        )


def _leave(service: Service, found: Standing, now: datetime) -> None:
    network, provider = service.network, keys.provider_address()
    with transaction.atomic():
        _alone(network)
        if _open(network).exists():
            return
        sent = service.registration
        if found.is_registered:
            data = encoded("Nexus", "unregister", service.source_address, provider)
            sent = _queue(network, Purpose.REGISTER, f"unregister:{service.pk}", "NEXUS", data, provider)
        Service.objects.filter(pk=service.pk).update(
            registration=sent, registered_at=service.registered_at if found.is_registered else None,
            next_try_at=now + _SOON,
        )  # fmt: skip


def _environment(offered: int) -> int:
    """One of a source's environments; 0 where it names none."""
    return next((bit for bit in _ENVIRONMENTS if offered & bit), 0)


def _check_wanted(service: Service, source: Source, found: Standing) -> None:
    """What a stranger's source asks for beyond what every source costs is staked on an operator's word only: whoever
    publishes one could have all our coins locked.
    """
    asked = source.min_available_lockup
    if service.decided_by_id is None and asked > max(found.lockup, found.least_per_source):
        raise Obstacle(
            f"It wants a stake of {money.render(asked)} coins, and we have {money.render(found.lockup)}. An operator "
            "has to decide to serve it."
        )


def _check_balance(network: Network, operator: str, stake: int) -> None:
    if not stake:
        return
    balance = ethereum.of(network).balance(operator)
    if balance < stake + _FOR_GAS:
        raise Obstacle(
            f"{money.render(stake)} coins have to be staked, and {operator} has {money.render(balance)}. Send it more."
        )


def _queue(
    network: Network, purpose: Purpose, what: str, contract: str, data: str, sender: str, *, value: int = 0,
    after: Transaction | None = None,
) -> Transaction:  # fmt: skip
    """Each thing may be needed once more, after a failure or a change of mind: it is numbered."""
    prefix = f"{what}:" if purpose == Purpose.REGISTER else f"{what}:{network.pk}:"
    number = Transaction.objects.filter(reference__startswith=prefix).count() + 1
    return outbox.queue(
        network=network, purpose=purpose, reference=f"{prefix}{number}", to=network.address(contract), data=data,
        sender=sender, value=value, after=after,
    )  # fmt: skip


def _open(network: Network) -> QuerySet[Transaction]:
    """What is on its way of all this."""
    ours = Transaction.objects.filter(network=network, purpose__in=(Purpose.TERMINAL, Purpose.REGISTER))
    return ours.exclude(status__in=DONE)


def _alone(network: Network) -> None:
    """Until the transaction ends, nobody else has anything of this sent on a network."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('registrations:' || %s, 0))", [str(network.pk)]
        )


def _look_again(service: Service, at: datetime) -> None:
    Service.objects.filter(pk=service.pk).update(next_try_at=at)


def _stopped(service: Service, obstacle: str, now: datetime) -> None:
    pause = _PAUSES[min(service.tries, len(_PAUSES) - 1)]
    Service.objects.filter(pk=service.pk).update(
        obstacle=obstacle[:500], tries=service.tries + 1, next_try_at=now + pause
    )


def ended(sent: Transaction) -> None:
    """A registration (or the end of one) is done, or was refused."""
    assert sent.ended_at is not None
    service = Service.objects.filter(registration=sent).first()
    if service is None:
        return
    if sent.status == TransactionStatus.CONFIRMED:
        # What the chain says now is read once more: that counts.
        _look_again(service, sent.ended_at)
        return
    _stopped(service, f"The chain refuses the registration: {sent.reason}", sent.ended_at)


def lost(network: Network, source_address: str, *, now: datetime) -> None:
    """The chain says that our provider is not registered there, or not well enough: it is looked at again."""
    Service.objects.filter(network=network, source_address=source_address).update(
        registered_at=None, next_try_at=now
    )
