"""What the measurement of the ledger needs of the marketplace's code: accounts, one process of load, the books' check.

Programs of their own, since the measuring process stays free of Django: `prepare`, `groups SPEC`, `verbs SPEC`,
`check`. A load says `ready`, waits for a line on its standard input, runs, and prints JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from typing import Any

import orjson
import uvloop
from django.db import connection, connections, transaction

from clients import ledger
from clients.models import Account, AccountKind, Client, TransferKind
from marketplace import money
from marketplace.groupcommit import GroupCommit, Statement

CREDIT = 10**6 * money.TOKEN
HELD, CAPTURED, FEE = 100, 60, 6
PEOPLE = 64

# Which holds were not made, as the hot path asks when it opens a request.
ANSWER = Statement(
    "bench_answer",
    """
    SELECT said.reference, 'again' FROM json_to_recordset($1) AS said (reference text)
    WHERE NOT EXISTS (SELECT 1 FROM clients_hold h WHERE h.reference = said.reference)
    """,
    answers="reference",
)


def prepare() -> dict[str, Any]:
    """New consumers with credit, and providers; `pgbench` is the first account of what pgbench works with.

    pgbench finds the accounts by arithmetic: consumer, provider and one for the fees, of each of its clients in turn.
    """
    tag = time.time_ns()
    with transaction.atomic():
        people = Client.objects.bulk_create(
            Client(username=f"bench-{tag}-{number}", email=f"{tag}-{number}@localhost.example")
            for number in range(4 * PEOPLE)
        )
        consumers, providers = people[:PEOPLE], people[PEOPLE : 2 * PEOPLE]
        kinds = (AccountKind.SPENDABLE, AccountKind.EARNED, AccountKind.STAKED)
        accounts = Account.objects.bulk_create(
            Account(client=client, kind=kind) for client in people[2 * PEOPLE : 3 * PEOPLE] for kind in kinds
        )
        first = accounts[0].pk
        assert [account.pk for account in accounts] == list(range(first, first + len(accounts)))
        for client in (*consumers, *people[2 * PEOPLE : 3 * PEOPLE]):
            ledger.grant(
                client_id=client.pk,
                amount=CREDIT,
                reference=f"grant:{tag}:{client.pk}",
                reason="benchmark",
                by_id=None,
            )
    with connection.cursor() as cursor:
        cursor.execute("CREATE SEQUENCE IF NOT EXISTS bench_reference")
    return {
        "pgbench": first,
        "consumers": [client.pk for client in consumers],
        "spendable": [ledger.account(client.pk, AccountKind.SPENDABLE).pk for client in consumers],
        "payees": [ledger.account(client.pk, AccountKind.EARNED).pk for client in providers],
        "fees": ledger.account(None, AccountKind.FEES).pk,
    }


async def groups(spec: dict[str, Any]) -> list[float]:
    """Holds and settlements by group commit, `in_flight` at a time; seconds that each pair took."""
    commits = GroupCommit((ledger.SETTLE, ledger.HOLD, ANSWER), lock=ledger.LOCK)
    commits.start()
    numbers, taken = itertools.count(), list[float]()

    async def one(index: int, end: float) -> None:
        consumer, payee = spec["pairs"][index % len(spec["pairs"])]
        while (began := time.perf_counter()) < end:
            reference = f"bench:{spec['tag']}:{next(numbers)}"
            hold = {
                "reference": reference,
                "client_id": consumer,
                "api_key_id": None,
                "amount": str(HELD),
                "tokens": 0,
            }
            assert await commits.submit((ledger.HOLD, hold), (ANSWER, hold)) is None
            settlement = {
                "reference": reference, "client_id": consumer, "captured": str(CAPTURED), "fee": str(FEE),
                "payee": payee, "fees": spec["fees"], "kind": "inference", "tokens": 0, "stripe": spec["stripe"],
            }  # fmt: skip
            await commits.submit((ledger.SETTLE, settlement))
            taken.append(time.perf_counter() - began)

    await _go()
    end = time.perf_counter() + spec["seconds"]
    await asyncio.gather(*(one(index, end) for index in range(spec["in_flight"])))
    await commits.stop()
    return taken


async def _go() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def verbs(spec: dict[str, Any]) -> list[float]:
    """`ledger.transfer`, one by one in so many threads; seconds that each took."""
    taken: list[float] = []
    end = 0.0

    def one(index: int) -> None:
        consumer, payee = spec["pairs"][index % len(spec["pairs"])]
        source, destination = Account.objects.get(pk=consumer), Account.objects.get(pk=payee)
        barrier.wait()
        for number in itertools.count():
            began = time.perf_counter()
            if began > end:
                break
            ledger.transfer(
                source=source, destination=destination, amount=CAPTURED,
                reference=f"bench:{spec['tag']}:{index}:{number}", kind=TransferKind.TRANSFER,
            )  # fmt: skip
            taken.append(time.perf_counter() - began)
        connections.close_all()

    barrier = threading.Barrier(spec["in_flight"] + 1)
    threads = [threading.Thread(target=one, args=[index]) for index in range(spec["in_flight"])]
    for thread in threads:
        thread.start()
    asyncio.run(_go())
    end = time.perf_counter() + spec["seconds"]
    barrier.wait()
    for thread in threads:
        thread.join()
    return taken


def check() -> dict[str, int]:
    """What must be zero: the sum of all accounts, holds without an account's, accounts below what they hold."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (SELECT coalesce(sum(balance), 0) FROM clients_account)
                    + (SELECT coalesce(sum(balance), 0) FROM clients_stripe),
                (SELECT coalesce(sum(held), 0) FROM clients_account)
                    - (SELECT coalesce(sum(amount - captured), 0) FROM clients_hold WHERE ended_at IS NULL),
                (SELECT count(*) FROM clients_account WHERE kind NOT IN ('grants', 'outside') AND balance < held),
                (SELECT count(*) FROM clients_transfer WHERE reference LIKE 'bench:%' OR reference LIKE 'pgbench:%')
            """
        )
        total, held, negative, transfers = map(int, cursor.fetchone())
    return {"sum": total, "held": held, "negative": negative, "transfers": transfers}


def main() -> None:
    what, *rest = sys.argv[1:]
    spec = orjson.loads(rest[0]) if rest else {}
    if what == "groups":
        said: Any = uvloop.run(groups(spec))
    else:
        said = {"prepare": prepare, "check": check}[what]() if what != "verbs" else verbs(spec)
    sys.stdout.buffer.write(orjson.dumps(said) + b"\n")
