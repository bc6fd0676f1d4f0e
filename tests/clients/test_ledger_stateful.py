"""Random interleavings of all verbs on real PostgreSQL, against a model that is as plain as can be.

After every step: the sum is zero, each balance is what came in less what went out, what is held is what open holds
reserve, nothing spendable is below zero, and the database says what the model says. `LEDGER_EXAMPLES` makes it longer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clients import keys, ledger
from clients.models import Account, AccountKind, Allowance, ApiKey, Client, Hold, Transfer, TransferKind
from marketplace.errors import MarketplaceError
from marketplace.groupcommit import Statement
from tests.clients import ledger_books
from tests.clients.ledger_model import FEES, GRANTS, Limits, Model, Name, Refused

EXAMPLES = int(os.environ.get("LEDGER_EXAMPLES", "60"))
# Making what is found small takes minutes; `LEDGER_SHRINK=` leaves it as it was found.
PHASES = (Phase.generate, *([Phase.shrink] if os.environ.get("LEDGER_SHRINK", "1") else []))
STEPS = int(os.environ.get("LEDGER_STEPS", "40"))

# Alice has limits, and so has one of her keys; bob has none.
PEOPLE = ("alice", "bob")
KEYS = {"alice": ("limited", "free"), "bob": ()}
COUNTERS = ("minute_requests", "minute_tokens", "running", "day_used", "month_used", "total_used")

people = st.sampled_from(PEOPLE)
names: st.SearchStrategy[Name] = st.tuples(people, st.sampled_from(["spendable", "earned"]))
# Most often from where limits apply.
owners: st.SearchStrategy[Name] = st.sampled_from(
    [("alice", "spendable")] * 4 + [("bob", "spendable"), ("bob", "earned")]
)
keys_of_alice = st.sampled_from([None, "limited", "free"])
# Small numbers meet each other and the limits; one is as large as amounts get.
amounts = st.integers(1, 60) | st.just(2**200)
tokens = st.integers(0, 30)
# Wide enough that something gets through, and None for no limit.
limits = st.one_of(
    st.tuples(
        st.sampled_from(["budget_day", "budget_month", "budget_total"]), st.none() | st.integers(60, 400)
    ),
    st.tuples(st.just("requests_per_minute"), st.none() | st.integers(2, 10)),
    st.tuples(st.just("tokens_per_minute"), st.none() | st.integers(30, 150)),
    st.tuples(st.just("concurrency"), st.none() | st.integers(1, 6)),
)


class Ledger(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # An example must go the same way whenever it is tried, so no minute may end in it by itself.
        ledger_books.not_at_the_end_of_a_minute(spare_s=6)
        self.undone = transaction.atomic()
        self.undone.__enter__()
        self.people = {
            name: Client.objects.create_user(username=name, email=f"{name}@x.de") for name in PEOPLE
        }
        self.keys: dict[str, ApiKey] = {
            key: keys.create(self.people[name], name=key).row for name in PEOPLE for key in KEYS[name]
        }
        self.rows: dict[str | None, Allowance] = {
            None: Allowance.objects.create(client=self.people["alice"]),
            "limited": Allowance.objects.create(client=self.people["alice"], api_key=self.keys["limited"]),
        }
        self.model = Model(("alice", Limits(None)), ("alice", Limits("limited")))
        self.count = 0
        # What was done, to be done again: the call, and what it returns then.
        self.calls: list[tuple[Callable[[], Any], Any]] = []
        for name in PEOPLE:
            self.grant(name, 200)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.undone.__exit__(None, None, None)

    # Verbs

    @rule(name=people, amount=amounts)
    def grant(self, name: str, amount: int) -> None:
        reference = self._next("grant")
        self.model.transfer(reference, GRANTS, (name, "spendable"), amount)
        given = {"amount": amount, "reference": reference, "reason": "", "by_id": None}
        made = ledger.grant(client_id=self.people[name].pk, **given)  # type: ignore[arg-type]
        self.calls.append((lambda: ledger.grant(client_id=self.people[name].pk, **given), made))  # type: ignore[arg-type]

    @rule(source=names, destination=names, amount=amounts)
    def transfer(self, source: Name, destination: Name, amount: int) -> None:
        if source != destination:
            reference = self._next("transfer")
            call: Callable[[], Any] = lambda: ledger.transfer(  # noqa: E731
                source=self._account(source), destination=self._account(destination), amount=amount,
                reference=reference, kind=TransferKind.TRANSFER,
            )  # fmt: skip
            self._both(lambda: self.model.transfer(reference, source, destination, amount), call)

    @rule(owner=owners, amount=st.integers(0, 60), tokens=tokens, key=keys_of_alice)
    def hold(self, owner: Name, amount: int, tokens: int, key: str | None) -> None:
        self._hold(self._next("hold"), owner, amount, tokens, key if key in KEYS[owner[0]] else None)

    @rule(key=keys_of_alice, beyond=st.integers(-1, 1))
    def hold_all_that_a_budget_leaves(self, key: str | None, beyond: int) -> None:
        owner, now = ("alice", "spendable"), ledger_books.not_at_the_end_of_a_minute()
        left = []
        for each in deepcopy(self.model.binding(owner, key)):
            each.roll(now)
            left += [
                allowed - each.counts[name.removeprefix("budget_") + "_used"]
                for name, allowed in each.allowed.items()
                if name.startswith("budget") and allowed is not None
            ]
        if left:
            self._hold(self._next("hold"), owner, max(min(left) + beyond, 0), 0, key)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), more=st.integers(-10, 30), tokens=tokens)
    def grow(self, data: st.DataObject, more: int, tokens: int) -> None:
        reference = self._one_of_the_holds(data)
        held = self.model.holds[reference]
        self._hold(reference, held.owner, max(held.amount + more, 0), tokens, held.key)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), payee=names, tokens=st.none() | tokens)
    def settle(self, data: st.DataObject, payee: Name, tokens: int | None) -> None:
        reference, amount, fee = self._some_of_a_hold(data)
        owner = self.model.holds[reference].owner
        if payee == owner:
            payee = FEES
        call: Callable[[], Any] = lambda: ledger.settle(  # noqa: E731
            reference=reference, amount=amount, fee=fee, tokens=tokens, kind=TransferKind.INFERENCE,
            **self._payee(payee),
        )  # fmt: skip
        self._both(lambda: self.model.settle(reference, amount, fee, payee, tokens), call, again=False)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def capture(self, data: st.DataObject) -> None:
        reference, amount, fee = self._some_of_a_hold(data)
        payee = ("bob" if self.model.holds[reference].owner[0] == "alice" else "alice", "earned")
        part = self._next(f"{reference}:part")
        if amount:
            call: Callable[[], Any] = lambda: ledger.capture(  # noqa: E731
                reference=reference, amount=amount, fee=fee, transfer_reference=part,
                kind=TransferKind.ALLOCATION, **self._payee(payee),
            )  # fmt: skip
            done = self._both(lambda: self.model.settle(reference, amount, fee, payee, None, part=part), call)
            if done:
                # The same part again would be refused where less than it is left; else it is taken already.
                assert self._outcome(call)[1] in (False, "invalid_request")

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        reference = self._one_of_the_holds(data)
        self._both(
            lambda: self.model.settle(reference, 0, 0, FEES, 0),
            lambda: ledger.release(reference),
            again=False,
        )

    @rule(data=st.data())
    def reverse(self, data: st.DataObject) -> None:
        first_hand = [name for name in self.model.transfers if not name.startswith("reverse:")]
        reference = data.draw(st.sampled_from(sorted(first_hand)))
        row = Transfer.objects.get(reference=reference)
        self._both(lambda: self.model.reverse(reference), lambda: ledger.reverse(row, reason="", by_id=None))

    # The hot path's statements

    @rule(data=st.data(), rows=st.lists(st.tuples(people, st.integers(0, 60)), min_size=1, max_size=5))
    def hold_quickly(self, data: st.DataObject, rows: list[tuple[str, int]]) -> None:
        said = [
            {"reference": self._next("hold"), "client_id": self.people[name].pk, "amount": str(amount),
             "api_key_id": None, "tokens": 0}
            for name, amount in rows
        ]  # fmt: skip
        before = Account.objects.get(client=self.people["bob"], kind=AccountKind.SPENDABLE)
        wanted = sum(amount for name, amount in rows if name == "bob")
        self._run(ledger.HOLD, said)
        self._run(ledger.HOLD, said)
        for (name, amount), row in zip(rows, said, strict=True):
            reference = str(row["reference"])
            made = Hold.objects.filter(pk=reference).first()
            # Not for who has limits; all or nothing; what lies in stripes is not counted.
            assert (made is not None) == (name == "bob" and before.balance - before.held >= wanted)
            if made is not None:
                self.model.hold(reference, (name, "spendable"), None, amount, 0, made.created_at)

    @precondition(lambda self: any(hold.open for hold in self.model.holds.values()))
    @rule(data=st.data(), share=st.integers(0, 100), tokens=tokens, stripe=st.integers(0, 3))
    def settle_quickly(self, data: st.DataObject, share: int, tokens: int, stripe: int) -> None:
        opened = [
            name for name, hold in self.model.holds.items() if hold.open and hold.owner[1] == "spendable"
        ]
        if not opened:
            return
        chosen = data.draw(st.lists(st.sampled_from(sorted(opened)), min_size=1, max_size=4))
        payee, rows = ("bob", "earned"), []
        for reference in chosen:
            held = self.model.holds[reference]
            amount = held.left * share // 100
            rows.append(
                {"reference": reference, "client_id": self.people[held.owner[0]].pk, "captured": str(amount),
                 "fee": str(amount // 7), "payee": self._account(payee).pk, "fees": self._account(FEES).pk,
                 "kind": "inference", "tokens": tokens, "stripe": stripe}
            )  # fmt: skip
        for row in rows:
            if self.model.holds[row["reference"]].open:
                self.model.settle(row["reference"], int(row["captured"]), int(row["fee"]), payee, tokens)
        self._run(ledger.SETTLE, rows)
        self._run(ledger.SETTLE, rows)
        for reference in chosen:
            # They leave no trace, so that their names could be used again; nobody does.
            self.model.holds.pop(reference, None)
            self.calls = [call for call in self.calls if call[1] != ("hold", reference)]

    # What happens besides

    @rule(key=st.sampled_from([None, "limited"]), change=limits)
    def change_limits(self, key: str | None, change: tuple[str, int | None]) -> None:
        Allowance.objects.filter(pk=self.rows[key].pk).update(**dict([change]))
        next(each for _, each in self.model.limits if each.key == key).allowed |= dict([change])

    @rule(
        passed=st.sampled_from(
            [timedelta(minutes=1), timedelta(days=1), timedelta(days=1), timedelta(days=31)]
        )
    )
    def pass_time(self, passed: timedelta) -> None:
        self.model.pass_time(passed)
        Hold.objects.update(created_at=F("created_at") - passed)
        for row in Allowance.objects.all():
            minute, day = row.minute and row.minute - passed, row.day and row.day - passed
            Allowance.objects.filter(pk=row.pk).update(minute=minute, day=day)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Whatever was done, done again, changes nothing."""
        call, before = data.draw(st.sampled_from(self.calls[-30:]))
        transfers = Transfer.objects.count()
        if isinstance(before, tuple):
            if self.model.holds[before[1]].open:
                call()  # it is there, or is refused as one that has ended
        else:
            assert call() == before
        assert Transfer.objects.count() == transfers

    # What always holds

    @invariant()
    def the_books_add_up(self) -> None:
        assert ledger_books.wrong() == []

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        found = {
            (row.client.username if row.client else "", row.kind): row
            for row in Account.objects.select_related("client")
        }
        numbers = ledger.balances(list(found.values()))
        for name in {*found, *self.model.balance}:
            expected = (self.model.balance[name], self.model.held(name))
            assert (numbers[found[name].pk] if name in found else (0, 0)) == expected, name
        opened = {row.reference: (row.amount, row.captured) for row in Hold.objects.filter(ended_at=None)}
        assert opened == {
            name: (hold.amount, hold.captured) for name, hold in self.model.holds.items() if hold.open
        }
        now = ledger_books.not_at_the_end_of_a_minute(spare_s=1)
        for _, each in self.model.limits:
            expected = deepcopy(each)
            expected.roll(now)
            assert self._counted(self.rows[each.key].pk, now) == [
                expected.counts[name] for name in COUNTERS
            ], each.key

    # Private

    @staticmethod
    def _counted(pk: int, now: datetime) -> list[int]:
        """What counts now; windows that are over count as nothing, written down or not."""
        with connection.cursor() as cursor:
            wanted = ", ".join(f"(at).{name}" for name in COUNTERS)
            cursor.execute(
                f"SELECT {wanted} FROM (SELECT allowance_at(a, %s) AS at FROM clients_allowance a WHERE id = %s) AS x",
                [now, pk],
            )
            return [int(number) for number in cursor.fetchone()]

    def _next(self, what: str) -> str:
        ledger_books.not_at_the_end_of_a_minute(spare_s=1)
        self.count += 1
        return f"{what}:{self.count}"

    def _account(self, name: Name) -> Account:
        return ledger.account(self.people[name[0]].pk if name[0] else None, AccountKind(name[1]))

    def _payee(self, name: Name) -> dict[str, Any]:
        return {"payee_id": self.people[name[0]].pk if name[0] else None, "payee_kind": AccountKind(name[1])}

    def _one_of_the_holds(self, data: st.DataObject) -> str:
        """Mostly one that is open."""
        opened = [name for name, hold in self.model.holds.items() if hold.open]
        some = opened if opened and data.draw(st.integers(0, 4)) else list(self.model.holds)
        return str(data.draw(st.sampled_from(sorted(some))))

    def _some_of_a_hold(self, data: st.DataObject) -> tuple[str, int, int]:
        reference = self._one_of_the_holds(data)
        amount = data.draw(st.integers(0, self.model.holds[reference].left + 1))
        return reference, amount, data.draw(st.integers(0, amount))

    def _hold(self, reference: str, owner: Name, amount: int, tokens: int, key: str | None) -> None:
        ledger_books.not_at_the_end_of_a_minute(spare_s=1)
        wanted = {
            "reference": reference, "client_id": self.people[owner[0]].pk, "amount": amount, "tokens": tokens,
            "kind": AccountKind(owner[1]), "api_key_id": self.keys[key].pk if key else None,
        }  # fmt: skip
        refused, made = self._outcome(lambda: ledger.hold(**wanted))  # type: ignore[arg-type]
        # The moment that the ledger counted it at, so that the model is in the same minute.
        now = made.created_at if not refused else ledger_books.not_at_the_end_of_a_minute(spare_s=0)
        if not refused and reference in self.model.holds:
            now = ledger_books.not_at_the_end_of_a_minute(spare_s=0)
        expected = ""
        try:
            self.model.hold(reference, owner, key, amount, tokens, now)
        except Refused as error:
            expected = error.code
        assert (made if refused else "") == expected
        if not refused:
            self.calls.append((lambda: self._outcome(lambda: ledger.hold(**wanted)), ("hold", reference)))  # type: ignore[arg-type]

    def _both(self, modelled: Callable[[], Any], call: Callable[[], Any], again: Any = None) -> bool:
        """Do it in both; whether something happened. Repeated it returns `again`, or (None) the same."""
        expected: Any
        try:
            said = modelled()
            expected = (False, said)
        except Refused as error:
            expected = (True, error.code)
        refused, made = self._outcome(call)
        assert refused == expected[0], (made, expected)
        if refused:
            assert made == expected[1]
            return False
        if isinstance(made, bool):
            assert made == expected[1]
            if made and again is not None:
                self.calls.append((call, again))
            return made
        self.calls.append((call, made))
        return True

    @staticmethod
    def _outcome(call: Callable[[], Any]) -> tuple[bool, Any]:
        """(whether it was refused, the error's code or what was returned)."""
        try:
            return False, call()
        except MarketplaceError as error:
            return True, error.code

    @staticmethod
    def _run(statement: Statement, rows: list[dict[str, Any]]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement.sql.replace("$1", "%s"), [json.dumps(rows)])


# What is found is made small first, which takes a while.
@pytest.mark.timeout(3600)
def test_whatever_is_done_in_whatever_order_the_books_add_up(db: None) -> None:
    profile = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
        derandomize="LEDGER_EXAMPLES" not in os.environ,
        database=None,
        print_blob=True,
    )
    run_state_machine_as_test(Ledger, settings=profile)
