"""One look at everything there is to do for tasks on chains, and somebody set to work on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from chain import networks, registrations, repeats, services
from chain.fulfilment import course, finding, paying, rows
from chain.fulfilment.crew import SIZE
from chain.models import Network

logger = logging.getLogger(__name__)

# So much of the crew is never taken up by reading what sources point to.
_FOR_TASKS = SIZE // 2
# So many links of one source that lead elsewhere are followed at the same time.
_MOST_SLOW = SIZE // 2


class Hands(Protocol):
    """Whoever does work, each piece known by a key: `chain.fulfilment.crew.Crew`."""

    @property
    def free(self) -> int: ...

    def begin(self, key: object, work: Callable[[], object]) -> bool: ...


def look(hands: Hands, *, clock: Callable[[], datetime]) -> int:
    """Write down what the chains say, and have the crew do what is due; how much was begun."""
    for network in networks.followed():
        if not network.is_paused:
            _tried(network, hands, clock)
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


def _tried(network: Network, hands: Hands, clock: Callable[[], datetime]) -> None:
    try:
        _network(network, hands, clock)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        # Whatever is odd about one chain, the others are not to wait for it.
        if repeats.is_news(("tasks", network.pk), error):
            logger.exception("Tasks on %s could not be looked after", network)


def _network(network: Network, hands: Hands, clock: Callable[[], datetime]) -> None:
    now = clock()
    finding.discover(network, now=now)
    finding.follow(network, now=now)
    paying.sweep(network, now=now)
    # Whoever publishes sources whose links answer slowly must not keep everybody's tasks from being worked on.
    for source_id in services.unread(network, now=now)[: max(0, hands.free - _FOR_TASKS)]:
        hands.begin(f"source {source_id}", partial(_read_source, source_id, clock))
    services.reconsider(network, now=now)
    for service_id in registrations.due(network, now=now)[:1]:
        hands.begin(f"network {network.pk}", partial(_register, service_id, clock))


def _read_source(source_id: int, clock: Callable[[], datetime]) -> None:
    services.read(source_id, now=clock())


def _register(service_id: int, clock: Callable[[], datetime]) -> None:
    registrations.advance(service_id, now=clock())


# Sources take turns, those with least at work first: one with very many tasks does not hold up the others'. So do,
# within a source, for which anybody may publish, the places that its tasks' links lead to; and links of one source that
# may answer slowly, since they lead elsewhere, never take up more than a part of the crew.
_NEXT = """
    WITH known AS (
        SELECT f.id, f.network_id, f.source_address, f.next_try_at, f.leased_until >= %(now)s AS is_held,
            lower(substring(f.config_url from '^[^/]*//([^/?#]*)')) AS place,
            f.status = 'found' AND f.config IS NULL AND NOT starts_with(f.config_url, %(own)s) AS is_slow
        FROM chain_fulfilment f
        JOIN chain_network n ON n.id = f.network_id AND NOT n.is_paused
        WHERE f.leased_until >= %(now)s
            OR f.status = ANY (%(to_do)s) AND f.next_try_at <= %(now)s
    ), counted AS (
        SELECT *,
            count(*) FILTER (WHERE is_held) OVER source AS busy,
            count(*) FILTER (WHERE is_held AND is_slow) OVER source AS slow,
            count(*) FILTER (WHERE is_held) OVER place + row_number() OVER by_age
                - count(*) FILTER (WHERE is_held) OVER by_age AS turn
        FROM known
        WINDOW source AS (PARTITION BY network_id, source_address),
            place AS (PARTITION BY network_id, source_address, place),
            by_age AS (PARTITION BY network_id, source_address, place ORDER BY next_try_at, id)
    ), ordered AS (
        SELECT id, is_slow, slow, busy + row_number() OVER (PARTITION BY network_id, source_address ORDER BY turn, id)
                AS turn,
            row_number() OVER (PARTITION BY network_id, source_address, is_slow ORDER BY turn, id) AS nth
        FROM counted WHERE is_held IS NOT TRUE
    )
    SELECT id FROM ordered WHERE NOT is_slow OR slow + nth <= %(most_slow)s
    ORDER BY turn, id LIMIT %(most)s
"""


def _due(most: int, *, now: datetime) -> list[int]:
    if most <= 0:
        return []
    values: dict[str, Any] = {
        "to_do": [str(each) for each in rows.TO_DO],
        "now": now,
        "most": most,
        "own": f"{settings.PUBLIC_URL}/ipfs/",
        "most_slow": _MOST_SLOW,
    }
    with connection.cursor() as cursor:
        cursor.execute(_NEXT, values)
        return [row[0] for row in cursor.fetchall()]
