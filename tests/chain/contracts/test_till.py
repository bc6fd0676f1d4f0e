"""The Treasury at random: it holds what came in less what went out, and pays each reference once."""

import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import boa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.chain.contracts import receivers
from tests.chain.contracts.evm import create, create_from_source, done, plain
from tests.chain.contracts.world import COIN, DAY, now, person, wait

NAMES = ("owner", "operator", "other", "guardian", "charlie")
PEOPLE = st.sampled_from(NAMES)
SENDERS = st.one_of(st.none(), st.none(), PEOPLE)
# Two that take what they get, and three that do not, of which one can be persuaded.
RECEIVERS = st.sampled_from(["charlie", "wallet", "closed", "burner", "bomb"])
REFUSING = {"closed", "burner", "bomb"}
AMOUNTS = st.integers(0, 10).map(lambda coins: coins * COIN)
REFERENCES = st.integers(0, 30).map(lambda number: number.to_bytes(32, "big"))


class Till(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.anchor = boa.env.anchor()
        self.anchor.__enter__()
        self.people = {name: person(name) for name in NAMES}
        owner = self.people["owner"]
        self.treasury = create("Treasury", sender=owner)
        self.treasury.setOperator(self.people["operator"], True, sender=owner)
        self.treasury.setGuardian(self.people["guardian"], sender=owner)
        self.receivers: dict[str, Any] = {
            "charlie": self.people["charlie"],
            "wallet": create_from_source("RECEIVES", receivers.RECEIVES, sender=owner),
            "closed": create_from_source("REFUSES", receivers.REFUSES, sender=owner),
            "burner": create_from_source("BURNS_GAS", receivers.BURNS_GAS, sender=owner),
            "bomb": person("bomb", coins=0),
        }
        boa.env.set_code(self.receivers["bomb"], receivers.BOMB)
        self.refusing = set(REFUSING)
        self.came_in = self.went_out = 0
        self.paid: dict[bytes, tuple[str, int]] = {}
        self.waiting: defaultdict[str, int] = defaultdict(int)
        self.received: defaultdict[str, int] = defaultdict(int)
        self.spent: defaultdict[int, int] = defaultdict(int)
        self.operators = {"operator"}
        self.limit, self.paused = 0, False

    def teardown(self) -> None:
        try:
            self.everything_is_as_the_books_say()
        finally:
            self.anchor.__exit__(None, None, None)

    def attempt_to(self, allowed: bool, call: Callable[[], Any]) -> bool:
        assert done(call) is allowed, "refused, though allowed" if allowed else "done, though not allowed"
        return allowed

    @property
    def free(self) -> int:
        return self.came_in - self.went_out - sum(self.waiting.values())

    @rule(sender=PEOPLE, amount=AMOUNTS, way=st.sampled_from(["deposit", "send", "fund"]))
    def put_in(self, sender: str, amount: int, way: str) -> None:
        calls: dict[str, Callable[..., Any]] = {
            "deposit": lambda **how: self.treasury.deposit(7, **how),
            "send": self.treasury.send,
            "fund": self.treasury.fund,
        }
        if self.attempt_to(amount > 0, lambda: calls[way](sender=self.people[sender], value=amount)):
            self.came_in += amount

    @rule(sender=SENDERS, reference=REFERENCES, to=RECEIVERS, amount=AMOUNTS)
    def withdraw(self, sender: str | None, reference: bytes, to: str, amount: int) -> None:
        name = sender or "operator"
        today = now() // DAY
        allowed = (
            name in self.operators
            and not self.paused
            and reference not in self.paid
            and 0 < amount <= self.free
            and (self.limit == 0 or self.spent[today] + amount <= self.limit)
        )
        call = self.treasury.withdraw
        caller = self.people[name]
        if self.attempt_to(
            allowed, lambda: call(reference, self.receivers[to], amount, sender=caller, gas=400_000)
        ):
            self.paid[reference] = (to, amount)
            self.spent[today] += amount
            assert self.treasury.event("Withdrawn")["sent"] is (to not in self.refusing)
            self.pay(to, amount)

    def pay(self, to: str, amount: int) -> None:
        if to in self.refusing:
            self.waiting[to] += amount
        else:
            self.received[to] += amount
            self.went_out += amount

    @rule(sender=PEOPLE, to=RECEIVERS)
    def claim(self, sender: str, to: str) -> None:
        allowed = not self.paused and self.waiting[to] > 0 and to not in self.refusing
        call = self.treasury.claim
        if self.attempt_to(
            allowed, lambda: call(self.receivers[to], sender=self.people[sender], gas=400_000)
        ):
            self.pay(to, self.waiting.pop(to))

    @rule(sender=SENDERS, to=RECEIVERS, amount=AMOUNTS)
    def recover(self, sender: str | None, to: str, amount: int) -> None:
        name = sender or "owner"
        allowed = name == "owner" and 0 < amount <= self.free and to not in self.refusing
        call = self.treasury.recover
        if self.attempt_to(
            allowed, lambda: call(self.receivers[to], amount, sender=self.people[name], gas=400_000)
        ):
            self.pay(to, amount)

    @rule()
    def open_the_closed_one(self) -> None:
        self.receivers["closed"].setOpen(sender=self.people["owner"])
        self.refusing.discard("closed")

    @rule(sender=SENDERS)
    def pause_or_go_on(self, sender: str | None) -> None:
        name = sender or "guardian"
        call = self.treasury.unpause if self.paused else self.treasury.pause
        if self.attempt_to(name in ("owner", "guardian"), lambda: call(sender=self.people[name])):
            self.paused = not self.paused

    @rule(sender=SENDERS, amount=st.sampled_from([0, 5 * COIN, 50 * COIN]))
    def limit_the_day(self, sender: str | None, amount: int) -> None:
        name = sender or "owner"
        if self.attempt_to(
            name == "owner", lambda: self.treasury.setDailyLimit(amount, sender=self.people[name])
        ):
            self.limit = amount

    @rule(sender=SENDERS, operator=PEOPLE, allowed=st.booleans())
    def name_an_operator(self, sender: str | None, operator: str, allowed: bool) -> None:
        name = sender or "owner"
        call = self.treasury.setOperator
        if self.attempt_to(
            name == "owner", lambda: call(self.people[operator], allowed, sender=self.people[name])
        ):
            (self.operators.add if allowed else self.operators.discard)(operator)

    @rule(seconds=st.sampled_from([1, DAY // 2, DAY]))
    def pass_time(self, seconds: int) -> None:
        wait(seconds)

    @invariant()
    def it_holds_what_came_in_less_what_went_out(self) -> None:
        assert self.treasury.balance == self.came_in - self.went_out
        for name in ("wallet", "closed", "burner", "bomb"):
            assert boa.env.get_balance(plain(self.receivers[name])) == self.received[name]

    def everything_is_as_the_books_say(self) -> None:
        assert self.treasury.totalClaimable() == sum(self.waiting.values()) <= self.treasury.balance
        assert self.treasury.spentToday() == self.spent[now() // DAY]
        for name, receiver in self.receivers.items():
            assert self.treasury.claimable(receiver) == self.waiting[name]
        for number in range(31):
            reference = number.to_bytes(32, "big")
            assert self.treasury.paid(reference) is (reference in self.paid)


LONG = os.environ.get("CONTRACTS_PROFILE") == "long"
# A long search takes as long as it takes.
TestTill = pytest.mark.timeout(0)(Till.TestCase)
TestTill.settings = settings(max_examples=1000 if LONG else 25, stateful_step_count=80 if LONG else 40)
