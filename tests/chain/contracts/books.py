"""What the contracts should do, told a second time in Python: the reference of the stateful tests.

Every verb answers whether it is allowed, and books it if so. Nothing here looks at the contracts.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from tests.chain.contracts.world import (
    ATTEMPTED,
    CANCELED,
    EXPIRED,
    FINALIZED,
    FIRST_RESPONSE,
    NEW,
    RESPONDED,
    WEEK,
)

OPEN = (NEW, ATTEMPTED, RESPONDED)
BUCKETS = ("balance", "lockup", "unbonding", "frozen", "sanction")


@dataclass
class BookedSource:
    owner: str
    delivery: int
    min_payment: int
    min_lockup: int
    active: bool = True
    registrants: set[str] = field(default_factory=set)


@dataclass
class BookedTask:
    source: BookedSource
    client: str
    payment: int
    expiry: int
    status: int = NEW
    frozen: int = 0
    attempters: list[str] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)
    winner: str | None = None


class Books:
    def __init__(self, *, judge: str, admin: str, min_lockup: int) -> None:
        self.judge, self.admin, self.min_lockup = judge, admin, min_lockup
        self.bucket: dict[str, defaultdict[str, int]] = {name: defaultdict(int) for name in BUCKETS}
        self.matures: dict[str, int] = {}
        self.earned: defaultdict[str, int] = defaultdict(int)
        self.registrations: defaultdict[str, int] = defaultdict(int)
        self.announced: dict[str, str] = {}
        self.master_of: dict[str, str] = {}
        self.agents: set[tuple[str, str]] = set()
        self.whitelisted: set[str] = set()
        self.paused = False

    @property
    def owed(self) -> int:
        return sum(sum(amounts.values()) for amounts in self.bucket.values())

    def move(self, account: str, origin: str, destination: str, amount: int) -> bool:
        if not 0 < amount <= self.bucket[origin][account]:
            return False
        self.bucket[origin][account] -= amount
        self.bucket[destination][account] += amount
        return True

    # Rights

    def is_agent(self, principal: str, sender: str) -> bool:
        return sender == principal or (principal, sender) in self.agents

    def acts_for(self, provider: str, sender: str) -> bool:
        return sender == provider or self.is_agent(self.master_of.get(provider, provider), sender)

    def covers(self, provider: str, registrations: int) -> bool:
        return provider in self.whitelisted or (
            self.bucket["lockup"][provider] >= self.min_lockup * registrations
        )

    def set_agent(self, sender: str, agent: str, value: bool) -> bool:
        if sender in self.master_of and sender not in self.master_of.values():
            return False
        (self.agents.add if value else self.agents.discard)((sender, agent))
        return True

    # Pairs

    def announce_provider(self, sender: str, provider: str, amount: int) -> bool:
        paired = {master: each for each, master in self.master_of.items()}
        if self.master_of.get(provider, sender) != sender or paired.get(sender, provider) != provider:
            return False
        if amount and self.paused:
            return False
        self.announced[sender] = provider
        self.bucket["lockup"][provider] += amount
        return True

    def announce_master(self, sender: str, master: str) -> bool:
        if (
            self.announced.get(master) != sender
            or sender in self.master_of
            or master in self.master_of.values()
        ):
            return False
        self.master_of[sender] = master
        return True

    def remove_provider(self, sender: str, provider: str) -> bool:
        if self.announced.get(sender) != provider:
            return False
        del self.announced[sender]
        if self.master_of.get(provider) == sender:
            del self.master_of[provider]
        return True

    # Money

    def deposit(self, account: str, amount: int) -> bool:
        if self.paused or amount == 0:
            return False
        self.bucket["balance"][account] += amount
        return True

    def withdraw(self, sender: str, amount: int) -> bool:
        if not 0 < amount <= self.bucket["balance"][sender]:
            return False
        self.bucket["balance"][sender] -= amount
        return True

    def lock(self, sender: str, amount: int) -> bool:
        return not self.paused and self.move(sender, "balance", "lockup", amount)

    def unbond(self, sender: str, amount: int, now: int) -> bool:
        left = self.bucket["lockup"][sender] - amount
        if sender not in self.whitelisted and left < self.min_lockup * self.registrations[sender]:
            return False
        if not self.move(sender, "lockup", "unbonding", amount):
            return False
        self.matures[sender] = now + WEEK
        return True

    def claim(self, sender: str, now: int) -> bool:
        if now < self.matures.get(sender, 0):
            return False
        return self._end_unbonding(sender, "balance")

    def cancel_unbonding(self, sender: str) -> bool:
        return self._end_unbonding(sender, "lockup")

    def _end_unbonding(self, sender: str, destination: str) -> bool:
        if not self.move(sender, "unbonding", destination, self.bucket["unbonding"][sender]):
            return False
        self.matures.pop(sender, None)
        return True

    # Judges and admins

    def sanction(self, sender: str, account: str, amount: int) -> bool:
        if sender != self.judge or amount == 0:
            return False
        locked = min(amount, self.bucket["lockup"][account])
        unbonding = min(amount - locked, self.bucket["unbonding"][account])
        self.move(account, "lockup", "sanction", locked)
        self.move(account, "unbonding", "sanction", unbonding)
        if not self.bucket["unbonding"][account]:
            self.matures.pop(account, None)
        return locked + unbonding > 0

    def waive(self, sender: str, account: str, amount: int) -> bool:
        return sender == self.judge and self.move(account, "sanction", "lockup", amount)

    def withdraw_sanction(self, sender: str, account: str) -> bool:
        amount = self.bucket["sanction"][account]
        if sender != self.admin or not amount:
            return False
        self.bucket["sanction"][account] = 0
        self.bucket["balance"][sender] += amount
        return True

    def emergency_exit(self, sender: str, account: str) -> bool:
        amounts = [self.bucket[origin][account] for origin in ("lockup", "unbonding")]
        if sender != self.admin or not any(amounts):
            return False
        for origin, amount in zip(("lockup", "unbonding"), amounts, strict=True):
            self.move(account, origin, "balance", amount)
        self.matures.pop(account, None)
        return True

    def force_release(self, sender: str, task: BookedTask) -> bool:
        if sender != self.judge:
            return False
        self._release(task)
        return True

    # Work

    def register(self, sender: str, source: BookedSource, provider: str) -> bool:
        if not (
            self.acts_for(provider, sender)
            and source.active
            and provider not in source.registrants
            and self.covers(provider, self.registrations[provider] + 1)
            and self.bucket["lockup"][provider] >= source.min_lockup
        ):
            return False
        source.registrants.add(provider)
        self.registrations[provider] += 1
        return True

    def unregister(self, sender: str, source: BookedSource, provider: str) -> bool:
        if not self.acts_for(provider, sender) or provider not in source.registrants:
            return False
        source.registrants.remove(provider)
        self.registrations[provider] -= 1
        return True

    def publish(self, task: BookedTask, now: int) -> bool:
        if (
            self.paused
            or not task.source.active
            or task.expiry <= now
            or task.payment < task.source.min_payment
            or task.payment > self.bucket["balance"][task.client]
        ):
            return False
        self.move(task.client, "balance", "frozen", task.payment)
        task.frozen = task.payment
        return True

    def attempt(self, sender: str, task: BookedTask, provider: str, now: int) -> bool:
        if not self.acts_for(provider, sender) or task.status not in OPEN:
            return False
        if now >= task.expiry:
            return task.status != RESPONDED and self._end(task, EXPIRED)
        if (
            provider not in task.source.registrants
            or provider in task.attempters
            or not self.covers(provider, max(1, self.registrations[provider]))
        ):
            return False
        task.attempters.append(provider)
        if task.status == NEW:
            task.status = ATTEMPTED
        return True

    def submit(self, sender: str, task: BookedTask, provider: str, payment: int, now: int) -> bool:
        if (
            not self.acts_for(provider, sender)
            or task.status not in OPEN
            or now >= task.expiry
            or payment > task.payment
            or provider not in task.attempters
            or provider in task.asked
        ):
            return False
        if task.source.delivery == FIRST_RESPONSE and payment > task.frozen:
            return False
        task.asked[provider] = payment
        task.status = RESPONDED
        if task.source.delivery == FIRST_RESPONSE:
            self._pay(task, provider)
        return True

    def confirm(self, sender: str, task: BookedTask, provider: str) -> bool:
        if (
            not self.is_agent(task.client, sender)
            or task.status != RESPONDED
            or task.asked[provider] > task.frozen
        ):
            return False
        self._pay(task, provider)
        return True

    def cancel(self, sender: str, task: BookedTask, now: int) -> bool:
        if not self.is_agent(task.client, sender) or task.status not in OPEN:
            return False
        if now >= task.expiry:
            return self._end(task, EXPIRED)
        return task.status == NEW and self._end(task, CANCELED)

    def expire(self, sender: str, task: BookedTask, now: int) -> bool:
        if task.status not in OPEN or now < task.expiry:
            return False
        if task.status == RESPONDED and not self.is_agent(task.client, sender):
            return False
        return self._end(task, EXPIRED)

    def _pay(self, task: BookedTask, provider: str) -> None:
        paid, beneficiary = task.asked[provider], self.master_of.get(provider, provider)
        self._release(task)
        self.bucket["balance"][task.client] -= paid
        self.bucket["balance"][beneficiary] += paid
        for account in {provider, beneficiary}:
            self.earned[account] += paid
        task.status, task.winner = FINALIZED, provider

    def _end(self, task: BookedTask, status: int) -> bool:
        self._release(task)
        task.status = status
        return True

    def _release(self, task: BookedTask) -> None:
        self.move(task.client, "frozen", "balance", task.frozen)
        task.frozen = 0
