"""4 processes of 32 threads, and 2 that commit in groups like the hot path, at the same few accounts.

`HAMMER_SECONDS` makes it longer.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection, connections

from clients import keys, ledger
from clients.models import AccountKind, Allowance, Client
from marketplace.embedded.home import PROJECT
from tests.clients import ledger_books

# (threads, requests in flight on an event loop) of each process.
PROCESSES = [(32, 0)] * 4 + [(0, 64)] * 2
SECONDS = float(os.environ.get("HAMMER_SECONDS", "8"))
START_S = 6.0
WATCH = Path(__file__).with_name("ledger_watch.sql")


@pytest.fixture
def watched(transactional_db: None) -> Iterator[None]:
    """A second set of books on holds, and a check of all limits within each transaction."""
    with connection.cursor() as cursor:
        cursor.execute(WATCH.read_text())
    yield
    with connection.cursor() as cursor:
        cursor.execute(
            "DROP TABLE hammer_hold; DROP FUNCTION hammer_note() CASCADE; DROP FUNCTION hammer_check() CASCADE"
        )


@pytest.fixture
def spec(watched: None) -> dict[str, Any]:
    """Alice has no limits, carol has, and poor has little; bob earns."""
    names = ("alice", "bob", "carol", "poor")
    clients = {name: Client.objects.create_user(username=name, email=f"{name}@example.com") for name in names}
    for name, amount in {"alice": 10**6, "carol": 10**6, "poor": 300}.items():
        ledger.grant(client_id=clients[name].pk, amount=amount, reference=f"g:{name}", reason="", by_id=None)
    made = {name: keys.create(clients["carol"], name=name).row for name in ("limited", "free")}
    Allowance.objects.create(
        client=clients["carol"],
        concurrency=30,
        requests_per_minute=900,
        tokens_per_minute=50_000,
        budget_day=20_000,
    )
    Allowance.objects.create(
        client=clients["carol"], api_key=made["limited"], concurrency=7, requests_per_minute=250,
        tokens_per_minute=15_000, budget_total=5_000,
    )  # fmt: skip
    # The fees' account has a smaller number than the payee's here, though a reversal takes from the payee first.
    fees = ledger.account(None, AccountKind.FEES)
    payee = ledger.account(clients["bob"].pk, AccountKind.EARNED)
    return {
        "seed": time.time_ns(),
        "until": time.time() + START_S + SECONDS,
        "clients": {name: client.pk for name, client in clients.items()},
        "payee": payee.pk,
        "fees": fees.pk,
        "keys": {name: key.pk for name, key in made.items()},
    }


class Observer(threading.Thread):
    """Looks at the books all the time, from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[Any] = []
        self.looks = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.3) and not self.wrong:
            self.wrong = ledger_books.wrong()
            self.looks += 1
        connections.close_all()


def database_url() -> str:
    """That of the tests' database, for other processes."""
    whole = urlsplit(os.environ["DATABASE_URL"])
    name = str(connection.settings_dict["NAME"])
    return f"{whole.scheme}://{whole.netloc}/{name}" + (f"?{whole.query}" if whole.query else "")


def hammered(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """What the processes say at their ends."""
    env = os.environ | {"DATABASE_URL": database_url()}
    command = [sys.executable, "-W", "ignore", "-m", "tests.clients.ledger_hammer"]
    processes = [
        subprocess.Popen(
            [*command, json.dumps(spec | {"process": number, "threads": threads, "in_flight": in_flight})],
            cwd=PROJECT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number, (threads, in_flight) in enumerate(PROCESSES)
    ]  # fmt: skip
    ends = [process.communicate(timeout=SECONDS + 120) for process in processes]
    for process, (_, err) in zip(processes, ends, strict=True):
        assert (process.returncode, "Traceback" in err) == (0, False), err[-3000:]
    return [json.loads(out) for out, _ in ends]


def deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


def rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@pytest.mark.timeout(SECONDS + 180)
def test_many_processes_at_the_same_accounts_leave_the_books_right(spec: dict[str, Any]) -> None:
    before, began = deadlocks(), time.monotonic()
    observer = Observer()
    observer.start()
    try:
        said = hammered(spec)
    finally:
        observer.over.set()
        observer.join()
    took = time.monotonic() - began
    outcomes = sum((Counter(each["outcomes"]) for each in said), Counter())
    summary = json.dumps(dict(sorted(outcomes.items())), indent=1)
    slowest = max(each["slowest_s"] for each in said)
    print(f"{outcomes.total() / SECONDS:.0f} calls/s, slowest {slowest} s, took {took:.1f} s, "
          f"{deadlocks() - before} deadlocks, {observer.looks} looks\n{summary}")  # fmt: skip
    assert [problem for each in said for problem in each["unexpected"]] == []
    assert observer.wrong == []
    assert observer.looks > 3
    assert ledger_books.wrong() == []
    assert rows("SELECT * FROM hammer_hold WHERE times_ended > 1 OR captured > amount") == []
    # What holds say was taken is what transfers took, each exactly once.
    assert (
        rows(
            """
            SELECT h.reference, h.captured, sum(t.amount) FROM hammer_hold h
            LEFT JOIN clients_transfer t ON t.kind <> 'reversal' AND split_part(t.reference, ':part:', 1) = h.reference
            GROUP BY h.reference, h.captured HAVING h.captured <> coalesce(sum(t.amount), 0)
            """
        )
        == []
    )
    assert settled_as_often_as_was_said(outcomes)
    assert slowest < 30
    for needed in ("hold: True", "end: True", "transfer: True", "reverse: True", "capture: True", "group: settled",
                   "group: rate_limit_exceeded", "group: insufficient_balance"):  # fmt: skip
        assert outcomes[needed], (needed, summary)


def settled_as_often_as_was_said(outcomes: Counter[str]) -> bool:
    """Each end of a hold was reported as done to exactly one caller."""
    [(ended,)] = rows("SELECT count(*) FROM hammer_hold WHERE NOT is_open AND reference LIKE 'hold:%'")
    return bool(outcomes["end: True"] == ended)
