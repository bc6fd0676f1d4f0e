"""gpus.states: what becomes of nodes is written down, beside others who have the same nodes."""

import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction

from gpus import states
from gpus.models import Node
from gpus.states import Change

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.django_db(transaction=True)
def test_who_locks_nodes_in_order_never_meets_a_sweep_that_came_from_the_other_side(
    bob: Any, join: Any
) -> None:
    one, two = (join(bob, "toy", machine_id=f"m{number}", name=f"m{number}").node.pk for number in range(2))
    Node.objects.update(state="online")
    # Written last, so that it stands behind the other in the table.
    Node.objects.filter(pk=one).update(changed_at=NOW)
    found = states.assess_all([one, two], now=NOW)
    errors: list[DatabaseError] = []

    def record() -> None:
        try:
            states.record_all([Change(pk, "online", found[pk]) for pk in (two, one)], now=NOW)
        except DatabaseError as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=record)
    with transaction.atomic():
        list(Node.objects.select_for_update(no_key=True).filter(pk=one))
        thread.start()
        time.sleep(0.7)
        list(Node.objects.select_for_update(no_key=True).filter(pk=two))
    thread.join()
    assert errors == []
    assert not Node.objects.filter(state="online").exists()
