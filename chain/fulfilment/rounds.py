"""One look at everything there is to do for tasks on chains, and somebody set to work on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Protocol

from django.db import connection

from chain import networks, registrations, services
from chain.fulfilment import course, finding, paying, rows
from chain.models import Network

logger = logging.getLogger(__name__)


class Hands(Protocol):
    """Whoever does work, each piece known by a key: `chain.fulfilment.crew.Crew`."""

    @property
    def free(self) -> int: ...

    def begin(self, key: object, work: Callable[[], object]) -> bool: ...


def look(hands: Hands, *, clock: Callable[[], datetime]) -> int:
    """Write down what the chains say, and have the crew do what is due; how much was begun."""
    for network in networks.followed():
        if not network.is_paused:
            _network(network, hands, clock)
    begun = 0
    for fulfilment_id in _due(hands.free, now=clock()):
        held = rows.claim(fulfilment_id, now=clock())
        if held is None:
            continue  # another process was quicker
        if hands.begin(held.token, partial(course.advance, held, clock=clock)):
            begun += 1
        else:
            rows.give_back(held)
    return begun


def _network(network: Network, hands: Hands, clock: Callable[[], datetime]) -> None:
    now = clock()
    finding.discover(network, now=now)
    finding.follow(network, now=now)
    paying.sweep(network, now=now)
    for source_id in services.unread(network, now=now)[: max(1, hands.free // 2)]:
        hands.begin(f"source {source_id}", partial(_read_source, source_id, clock))
    services.reconsider(network, now=now)
    for service_id in registrations.due(network, now=now)[:1]:
        hands.begin(f"network {network.pk}", partial(_register, service_id, clock))


def _read_source(source_id: int, clock: Callable[[], datetime]) -> None:
    services.read(source_id, now=clock())


def _register(service_id: int, clock: Callable[[], datetime]) -> None:
    registrations.advance(service_id, now=clock())


# Sources take turns, those with least at work first: one with very many tasks does not hold up the others'.
_NEXT = """
    SELECT f.id FROM chain_fulfilment f
    JOIN chain_network n ON n.id = f.network_id AND NOT n.is_paused
    LEFT JOIN (
        SELECT network_id, source_address, count(*) AS running FROM chain_fulfilment
        WHERE leased_until >= %(now)s
        GROUP BY network_id, source_address
    ) AS theirs ON theirs.network_id = f.network_id AND theirs.source_address = f.source_address
    WHERE f.status = ANY (%(to_do)s) AND f.next_try_at <= %(now)s
        AND (f.leased_until IS NULL OR f.leased_until < %(now)s)
    ORDER BY coalesce(theirs.running, 0)
        + row_number() OVER (PARTITION BY f.network_id, f.source_address ORDER BY f.next_try_at, f.id), f.id
    LIMIT %(most)s
"""


def _due(most: int, *, now: datetime) -> list[int]:
    if most <= 0:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_NEXT, {"to_do": [str(each) for each in rows.TO_DO], "now": now, "most": most})
        return [row[0] for row in cursor.fetchall()]
