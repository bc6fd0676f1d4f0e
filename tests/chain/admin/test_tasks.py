"""Tasks in the admin: also where we do nothing about one, its page says why."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from chain.models import Network, Serving, Task, TaskStatus
from tests.chain.admin import made
from tests.chain.admin.conftest import text_of

CASES: dict[str, tuple[dict[str, Any] | None, dict[str, Any], str]] = {
    "unknown": (None, {}, "We do not serve its source: nobody has decided about it."),
    "asked": ({"status": Serving.ASKED}, {}, "We do not serve its source: nobody has decided about it."),
    "refused": (
        {"status": Serving.REFUSED, "reason": "Not our trade."},
        {},
        "We do not serve its source: Not our trade.",
    ),
    "unregistered": (
        {"status": Serving.SERVED, "obstacle": "The stake is too small."},
        {},
        "Our provider is not registered with its source (yet). The stake is too small.",
    ),
    "over": (
        {"status": Serving.SERVED},
        {"status": TaskStatus.CANCELED},
        "It had ended before we could take",
    ),
    "new": (
        {"status": Serving.SERVED, "registered_at": timezone.now()},
        {"block_number": 10**6},
        "Its block is not final yet.",
    ),
}


@pytest.mark.parametrize(("service", "task", "says"), CASES.values(), ids=CASES)
def test_a_task_that_we_do_not_work_on_says_why(
    browser: Any, network: Network, service: dict[str, Any] | None, task: dict[str, Any], says: str
) -> None:
    source = made.source(network)
    if service is not None:
        made.service(source, **service)
    row: Task = made.task(source)
    Task.objects.filter(pk=row.pk).update(**task)

    assert says in text_of(browser.get(f"/admin/chain/task/{row.pk}/change/"))
    assert says in text_of(browser.get("/admin/chain/task/"))
