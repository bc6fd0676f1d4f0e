"""Many small writes, one transaction."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import uuid4

import psycopg2
import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections

from gpus.gateway import ALIVE
from gpus.models import Gateway
from marketplace.groupcommit import GroupCommit, NotRecorded

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def commits() -> AsyncIterator[GroupCommit]:
    commits = GroupCommit([ALIVE], give_up_after_s=1.0)
    commits.start()
    yield commits
    await commits.stop()
    # Django's connection in the thread that asynchronous queries run in.
    await sync_to_async(connections.close_all)()


def row(**values: object) -> dict[str, object]:
    now = datetime.now(UTC)
    return {"id": uuid4().hex, "host": "here", "pid": 1, "started_at": now, "seen_at": now, **values}


def terminate_other_connections() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'group-commit'"
        )


async def test_it_commits_what_waits_together(commits: GroupCommit) -> None:
    await asyncio.gather(*(commits.submit((ALIVE, row())) for _ in range(100)))
    assert await Gateway.objects.acount() == 100
    transactions = await commits.fetch("SELECT count(DISTINCT xmin::text) FROM gpus_gateway")
    assert transactions[0][0] <= 2


async def test_a_row_that_the_database_refuses_fails_alone(commits: GroupCommit) -> None:
    writes = [
        commits.submit((ALIVE, row())),
        commits.submit((ALIVE, row(host=None))),
        commits.submit((ALIVE, row())),
    ]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert results[0] is None
    assert results[2] is None
    assert isinstance(results[1], psycopg2.IntegrityError)
    assert await Gateway.objects.acount() == 2


async def test_it_goes_on_after_its_connection_was_cut(commits: GroupCommit) -> None:
    await commits.submit((ALIVE, row()))
    await sync_to_async(terminate_other_connections)()
    await commits.submit((ALIVE, row()))
    assert await Gateway.objects.acount() == 2


async def test_it_says_so_when_the_database_stays_away(
    commits: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**parameters: object) -> None:
        raise psycopg2.OperationalError("nobody listens")

    monkeypatch.setattr("marketplace.groupcommit.psycopg2.connect", refuse)
    with pytest.raises(NotRecorded):
        await commits.submit((ALIVE, row()))


async def test_what_waits_is_written_before_it_stops(commits: GroupCommit) -> None:
    write = commits.submit((ALIVE, row()))
    await commits.stop()
    assert write.done()
    assert await Gateway.objects.acount() == 1
