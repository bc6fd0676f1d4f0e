"""One of several processes that hammer the same accounts: `python -m tests.clients.ledger_hammer SPEC`.

SPEC is JSON: {"process", "seed", "threads", "in_flight", "until" (epoch seconds), "clients": {name: id},
"keys": {name: id}, "payee" and "fees" (ids of accounts)}. Threads call the verbs one by one, an event loop the hot
path's statements in groups. All processes draw from the same names, so that they meet at the same references.
Prints one line of JSON: what came of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import django

django.setup()

from django.db import connections  # noqa: E402

from clients import ledger  # noqa: E402
from clients.models import Account, AccountKind, Transfer, TransferKind  # noqa: E402
from marketplace.errors import MarketplaceError  # noqa: E402
from marketplace.groupcommit import GroupCommit, Statement  # noqa: E402

# As inference's journal asks for holds: quickly where nothing is in the way, and else with all limits.
HELD = Statement(
    "hammer_held",
    """
    SELECT said.reference, 'again', NULL FROM json_to_recordset($1) AS said (reference text)
    WHERE NOT EXISTS (SELECT 1 FROM clients_hold h WHERE h.reference = said.reference)
    """,
    answers="reference",
)
LIMITED = Statement(
    "hammer_limited",
    "SELECT reference, code, details FROM ledger_hold($1)",
    answers="reference",
    locks="client_id",
)
STATEMENTS = (ledger.SETTLE, ledger.HOLD, HELD, LIMITED)
TOKENS, TOKENS_USED = 100, 40
SPENDABLE, EARNED = AccountKind.SPENDABLE, AccountKind.EARNED


class Hammer:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.clients: dict[str, int] = spec["clients"]
        self.keys: dict[str, int] = spec["keys"]
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self.slowest = 0.0
        self.count = 0
        self.lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        return time.time() > self.spec["until"] or bool(self.unexpected)

    # Threads, one verb at a time

    def work(self, number: int) -> None:
        draw = random.Random(f"{self.spec['seed']}/{self.spec['process']}/{number}")
        accounts = {
            (name, kind): ledger.account(client_id, kind)
            for name, client_id in self.clients.items()
            for kind in (SPENDABLE, EARNED)
        }
        accounts["", AccountKind.FEES] = ledger.account(None, AccountKind.FEES)
        verbs = (
            [self._hold] * 6
            + [self._end] * 8
            + [self._transfer] * 3
            + [self._grant, self._reverse, self._capture]
        )
        while not self.is_over:
            verb = draw.choice(verbs)
            began = time.monotonic()
            self._note(verb.__name__.strip("_"), lambda: verb(draw, accounts))  # noqa: B023 - called at once
            self.slowest = max(self.slowest, time.monotonic() - began)
        connections.close_all()

    def _note(self, name: str, call: Callable[[], Any]) -> None:
        try:
            said = str(bool(call()))
        except MarketplaceError as error:
            said = error.code
        except Exception:  # noqa: BLE001 - whatever it is, the test is to know
            self.unexpected.append(_short(traceback.format_exc()))
            return
        with self.lock:
            self.outcomes[f"{name}: {said}"] += 1

    def _reference(self, draw: random.Random) -> str:
        """One of those that everybody uses at about this time."""
        return f"hold:{int(time.time() - draw.random())}:{draw.randrange(30)}"

    def _hold(self, draw: random.Random, accounts: dict[Any, Account]) -> Any:
        reference = self._reference(draw)
        # Whoever uses the reference means the same client and key.
        name, key = self._whose(reference)
        return ledger.hold(
            reference=reference, client_id=self.clients[name], amount=draw.randint(1, 50),
            tokens=TOKENS, api_key_id=self.keys.get(key),
        )  # fmt: skip

    def _whose(self, reference: str) -> tuple[str, str]:
        return [("alice", ""), ("carol", ""), ("carol", "limited"), ("carol", "free"), ("poor", "")][
            int(reference.rpartition(":")[2]) % 5
        ]

    def _end(self, draw: random.Random, accounts: dict[Any, Account]) -> Any:
        reference = self._reference(draw)
        if draw.random() < 0.2:
            return ledger.release(reference)
        amount = draw.randint(1, 30)
        return ledger.settle(
            reference=reference, amount=amount, payee_id=self.clients["bob"], fee=amount // 5,
            kind=TransferKind.INFERENCE, tokens=TOKENS_USED,
        )  # fmt: skip

    def _capture(self, draw: random.Random, accounts: dict[Any, Account]) -> Any:
        reference = self._reference(draw)
        return ledger.capture(
            reference=reference, amount=draw.randint(1, 5), payee_id=self.clients["bob"], fee=1,
            transfer_reference=f"{reference}:part:{draw.randrange(3)}", kind=TransferKind.ALLOCATION,
        )  # fmt: skip

    def _transfer(self, draw: random.Random, accounts: dict[Any, Account]) -> Any:
        wanted = [
            (("bob", EARNED), ("bob", SPENDABLE)),
            (("bob", EARNED), ("poor", SPENDABLE)),
            (("bob", SPENDABLE), ("alice", SPENDABLE)),
            (("alice", SPENDABLE), ("carol", SPENDABLE)),
            (("carol", SPENDABLE), ("alice", SPENDABLE)),
            (("", AccountKind.FEES), ("alice", SPENDABLE)),
        ]
        number = draw.randrange(len(wanted))
        source, destination = wanted[number]
        moment = int(time.time() * 20)
        # The same in all processes that draw this number at this moment.
        amount = 1 + moment % 7
        return ledger.transfer(
            source=accounts[source], destination=accounts[destination], amount=amount,
            reference=f"transfer:{moment}:{number}", kind=TransferKind.TRANSFER,
        )  # fmt: skip

    def _grant(self, draw: random.Random, accounts: dict[Any, Account]) -> Any:
        reference = f"grant:{int(time.time() * 4)}"
        return ledger.grant(
            client_id=self.clients["poor"], amount=20, reference=reference, reason="", by_id=None
        )

    def _reverse(self, draw: random.Random, accounts: dict[Any, Account]) -> Any:
        recent = list(Transfer.objects.exclude(kind=TransferKind.REVERSAL).order_by("-id")[:20])
        return bool(recent) and ledger.reverse(draw.choice(recent), reason="hammered", by_id=None)

    # The hot path's way, in groups

    async def commit_in_groups(self) -> None:
        commits = GroupCommit(STATEMENTS, lock=ledger.LOCK)
        commits.start()
        try:
            await asyncio.gather(
                *(self._requests(commits, number) for number in range(self.spec["in_flight"]))
            )
        finally:
            await commits.stop()

    async def _requests(self, commits: GroupCommit, number: int) -> None:
        draw = random.Random(f"{self.spec['seed']}/{self.spec['process']}/group/{number}")
        while not self.is_over:
            began = time.monotonic()
            try:
                said = await self._request(commits, draw)
            except Exception:  # noqa: BLE001 - whatever it is, the test is to know
                self.unexpected.append(_short(traceback.format_exc()))
                return
            self.slowest = max(self.slowest, time.monotonic() - began)
            with self.lock:
                self.outcomes[f"group: {said}"] += 1
            if said != "settled":
                await asyncio.sleep(0.02)

    async def _request(self, commits: GroupCommit, draw: random.Random) -> str:
        self.count += 1
        name = draw.choice(["alice", "alice", "alice", "carol", "carol", "poor"])
        key = draw.choice(["limited", "free", ""]) if name == "carol" else ""
        amount = draw.randint(1, 50)
        row = {
            "reference": f"group:{self.spec['process']}:{self.count}",
            "client_id": self.clients[name],
            "api_key_id": self.keys.get(key),
            "amount": str(amount),
            "tokens": TOKENS,
        }
        answer = await commits.submit((ledger.HOLD, row), (HELD, row))
        if answer is not None:
            answer = await commits.submit((LIMITED, row))
        if answer is not None and answer[0]:
            return str(ledger.refusal(answer[0], answer[1]).code)
        if draw.random() < 0.1:
            grown = await commits.submit((LIMITED, {**row, "amount": str(amount + 5), "grows": True}))
            amount += 0 if grown is not None and grown[0] else 5
        captured = 0 if draw.random() < 0.1 else draw.randint(1, amount)
        done = {
            "reference": row["reference"], "client_id": row["client_id"], "captured": str(captured),
            "fee": str(captured // 5), "payee": self.spec["payee"], "fees": self.spec["fees"], "kind": "inference",
            "tokens": TOKENS_USED if captured else 0, "stripe": self.spec["process"],
        }  # fmt: skip
        await asyncio.gather(
            *(commits.submit((ledger.SETTLE, done)) for _ in range(draw.choice([1, 1, 1, 2])))
        )
        return "settled"


def _short(said: str) -> str:
    """A traceback without the SQL in its middle, which is longer than what matters around it."""
    told = ("Error", "Violation", "DETAIL", "DoesNotExist", "ledger")
    return "\n".join(line for line in said.splitlines() if any(word in line for word in told))


def main() -> None:
    hammer = Hammer(json.loads(sys.argv[1]))
    threads = [
        threading.Thread(target=hammer.work, args=[number]) for number in range(hammer.spec["threads"])
    ]
    for thread in threads:
        thread.start()
    asyncio.run(hammer.commit_in_groups())
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "outcomes": hammer.outcomes,
                "unexpected": hammer.unexpected[:3],
                "slowest_s": round(hammer.slowest, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
