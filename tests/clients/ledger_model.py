"""The ledger once more, as plainly as it can be written: what the stateful test compares the real one with."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta

# A client's name with the kind of the account, or the name of one of the marketplace's.
Name = tuple[str, str]
FEES, GRANTS = ("", "fees"), ("", "grants")


@dataclass
class Limits:
    """An account's (`key` is None) or a key's: what is allowed, and what is counted."""

    key: str | None
    allowed: dict[str, int | None] = field(default_factory=dict)
    minute: datetime | None = None
    day: datetime | None = None
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def roll(self, now: datetime) -> None:
        minute, day = now.replace(second=0, microsecond=0), now.date()
        if self.minute != minute:
            self.minute, self.counts["minute_requests"], self.counts["minute_tokens"] = minute, 0, 0
        before = self.day.date() if self.day else None
        if before != day:
            if before is None or (before.year, before.month) != (day.year, day.month):
                self.counts["month_used"] = 0
            self.day, self.counts["day_used"] = now, 0

    def objection(self, amount: int, tokens: int, *, is_new: bool) -> str:
        """The name of the first limit that is in the way."""
        wanted = {
            "requests_per_minute": ("minute_requests", int(is_new), is_new),
            "tokens_per_minute": ("minute_tokens", tokens, True),
            "concurrency": ("running", 1, is_new),
            "budget_day": ("day_used", amount, amount > 0),
            "budget_month": ("month_used", amount, amount > 0),
            "budget_total": ("total_used", amount, amount > 0),
        }
        for limit, (counter, more, applies) in wanted.items():
            allowed = self.allowed.get(limit)
            if applies and allowed is not None and self.counts[counter] + more > allowed:
                return limit
        return ""

    def take(self, amount: int, tokens: int, *, is_new: bool) -> None:
        self.counts["minute_requests"] += is_new
        self.counts["running"] += is_new
        self.counts["minute_tokens"] += tokens
        for counter in ("day_used", "month_used", "total_used"):
            self.counts[counter] += amount

    def give_back(self, began: datetime, amount: int, tokens: int, *, ended: bool) -> None:
        """Count less, where what was counted is still counted."""

        def less(counter: str, by: int) -> None:
            self.counts[counter] = max(self.counts[counter] - by, 0)

        less("running", int(ended))
        less("total_used", amount)
        if self.minute == began.replace(second=0, microsecond=0):
            less("minute_tokens", tokens)
        if self.day and self.day.date() == began.date():
            less("day_used", amount)
        if self.day and (self.day.year, self.day.month) == (began.year, began.month):
            less("month_used", amount)


@dataclass
class Held:
    owner: Name
    key: str | None
    amount: int
    tokens: int
    began: datetime
    captured: int = 0
    open: bool = True

    @property
    def left(self) -> int:
        return self.amount - self.captured


@dataclass
class Moved:
    source: Name
    destination: Name
    amount: int
    fee: int
    reversed: bool = False


class Refused(Exception):
    """With the code of the error that the ledger should raise."""

    @property
    def code(self) -> str:
        return str(self.args[0])


class Model:
    """Balances, holds and limits by name."""

    def __init__(self, *limits: tuple[str, Limits]) -> None:
        self.balance: dict[Name, int] = defaultdict(int)
        self.holds: dict[str, Held] = {}
        self.transfers: dict[str, Moved] = {}
        self.limits = [(client, each) for client, each in limits]

    def held(self, owner: Name) -> int:
        return sum(hold.left for hold in self.holds.values() if hold.owner == owner and hold.open)

    def free(self, owner: Name) -> int:
        return self.balance[owner] - self.held(owner)

    def binding(self, owner: Name, key: str | None) -> list[Limits]:
        """A key's limits are asked before the account's."""
        client, kind = owner
        found = [each for name, each in self.limits if name == client and each.key in (None, key)]
        return sorted(found, key=lambda each: each.key is None) if kind == "spendable" else []

    def move(self, reference: str, source: Name, destination: Name, amount: int, fee: int = 0) -> None:
        self.transfers[reference] = Moved(source, destination, amount, fee)
        self.balance[source] -= amount
        self.balance[destination] += amount - fee
        self.balance[FEES] += fee

    def transfer(self, reference: str, source: Name, destination: Name, amount: int) -> None:
        if source != GRANTS and self.free(source) < amount:
            raise Refused("insufficient_balance")
        self.move(reference, source, destination, amount)

    def hold(
        self, reference: str, owner: Name, key: str | None, amount: int, tokens: int, now: datetime
    ) -> None:
        found = self.holds.get(reference)
        if found is not None and not found.open:
            raise Refused("hold_ended")
        more = max(amount - found.amount, 0) if found else amount
        more_tokens = max(tokens - found.tokens, 0) if found else tokens
        if found and not more and not more_tokens:
            return
        binding = self.binding(owner, key)
        # What is refused leaves the counters as they were.
        rolled = [deepcopy(limits) for limits in binding]
        for limits in rolled:
            limits.roll(now)
            if why := limits.objection(more, more_tokens, is_new=found is None):
                raise Refused("budget_exceeded" if why.startswith("budget") else "rate_limit_exceeded")
        if more > self.free(owner):
            raise Refused("insufficient_balance")
        for limits in binding:
            limits.roll(now)
            limits.take(more, more_tokens, is_new=found is None)
        if found:
            found.amount, found.tokens = found.amount + more, found.tokens + more_tokens
        else:
            self.holds[reference] = Held(owner, key, amount, tokens, now)

    def settle(
        self, reference: str, amount: int, fee: int, payee: Name, tokens: int | None, *, part: str = ""
    ) -> bool:
        """With `part`, the reference of its transfer, the rest stays held."""
        hold = self.holds.get(reference)
        if hold is not None and hold.open and amount > hold.left:
            raise Refused("invalid_request")
        if hold is None or not hold.open or part in self.transfers:
            return False
        if amount:
            self.move(part or reference, hold.owner, payee, amount, fee)
        unspent = 0 if part else hold.left - amount
        hold.captured += amount
        hold.open = bool(part)
        unused = hold.tokens - (hold.tokens if tokens is None else tokens)
        for limits in self.binding(hold.owner, hold.key):
            limits.give_back(hold.began, unspent, unused, ended=not part)
        return True

    def reverse(self, reference: str) -> None:
        moved = self.transfers[reference]
        if moved.reversed:
            return
        rest = moved.amount - moved.fee
        if moved.destination == FEES:
            enough = self.free(FEES) >= moved.amount
        else:
            enough = self.free(moved.destination) >= rest and self.free(FEES) >= moved.fee
        if not enough and moved.destination != GRANTS:
            raise Refused("insufficient_balance")
        back = f"reverse:{reference}"
        if rest:
            self.move(back, moved.destination, moved.source, rest)
        if moved.fee:
            self.move(f"{back}:fee" if rest else back, FEES, moved.source, moved.fee)
        moved.reversed = True

    def pass_time(self, passed: timedelta) -> None:
        """What was written becomes older."""
        for hold in self.holds.values():
            hold.began -= passed
        for _, limits in self.limits:
            limits.minute = limits.minute and limits.minute - passed
            limits.day = limits.day and limits.day - passed
