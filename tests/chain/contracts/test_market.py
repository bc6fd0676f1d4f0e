"""The whole market at random: whatever anybody tries, the contracts do what the books say."""

import itertools
import os
from collections.abc import Callable
from typing import Any

import boa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.chain.contracts.books import BUCKETS, OPEN, BookedSource, BookedTask, Books
from tests.chain.contracts.evm import Contract, done
from tests.chain.contracts.world import COIN, HOUR, MIN_LOCKUP, WEEK, create_world, now, person, wait

GETTERS = {
    "balance": "balanceOf",
    "lockup": "lockupOf",
    "unbonding": "unbondingOf",
    "frozen": "frozenPayment",
    "sanction": "sanctionOf",
}
# Two of each, a stranger who may become anything, and those with a role.
NAMES = ("alice", "arthur", "bob", "bella", "mary", "max", "charlie", "judge", "deployer")
PEOPLE = st.sampled_from(NAMES)
# Mostly the one who is entitled, so that the market comes to life.
SENDERS = st.one_of(st.none(), st.none(), PEOPLE)
WORKERS = st.one_of(st.sampled_from(["bob", "bella"]), PEOPLE)
BANK = ("deposit", "withdraw", "lock", "unbond", "claim", "cancel_unbonding")
GOVERN = ("sanction", "waive", "withdraw_sanction", "emergency_exit")
RELATE = ("announce_provider", "announce_master", "remove_provider", "set_agent")
AMOUNTS = st.sampled_from([0, 1, 1, 2, 2, 3, 5, 10, 10, 20]).map(lambda coins: coins * COIN)
INDEX = st.integers(0, 1_000_000)


class Market(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.anchor = boa.env.anchor()
        self.anchor.__enter__()
        self.world = create_world()
        known = {name: getattr(self.world, name, None) for name in NAMES}
        self.people = {name: address or person(name) for name, address in known.items()}
        self.books = Books(judge=self.world.judge, admin=self.world.deployer, min_lockup=MIN_LOCKUP)
        self.sources: list[tuple[Contract, BookedSource]] = []
        self.tasks: list[tuple[Contract, BookedTask]] = []
        self.responses: list[tuple[Contract, BookedTask, str]] = []

    def teardown(self) -> None:
        try:
            self.everything_is_as_the_books_say()
            self.everybody_can_leave()
        finally:
            self.anchor.__exit__(None, None, None)

    def attempt_to(self, allowed: bool, call: Callable[[], Any]) -> None:
        """The contracts and the books agree on whether it may be done."""
        assert done(call) is allowed, "refused, though allowed" if allowed else "done, though not allowed"

    def who(self, name: str | None, entitled: str) -> str:
        return entitled if name is None else self.people[name]

    @initialize(delivery=st.integers(0, 1))
    def open(self, delivery: int) -> None:
        """A market that is alive: sources of both kinds, a provider with a stake, tasks in all states."""
        self.publish_source("alice", delivery, price=0, lockup=0)
        self.publish_source("arthur", 1 - delivery, price=COIN, lockup=MIN_LOCKUP)
        self.relate("announce_provider", sender="mary", other="bob", amount=3 * MIN_LOCKUP, value=True)
        self.relate("announce_master", sender="bob", other="mary", amount=0, value=True)
        self.bank("deposit", sender="alice", amount=3 * MIN_LOCKUP)
        for number in (0, 1):
            self.register(sender=None, index=number, provider="bob", leave=False)
            for _ in range(3):
                self.publish_task("alice", number, payment=2 * COIN, hours=1)
        for number in (1, 2, 4, 5):
            self.attempt(sender=None, index=number, provider="bob")
        for number in (1, 3):
            self.submit(sender=None, index=number, provider=None, payment=COIN)

    @rule(action=st.sampled_from(BANK), sender=PEOPLE, amount=AMOUNTS)
    def bank(self, action: str, sender: str, amount: int) -> None:
        """What everybody does with its own money."""
        vault, account, before = (
            self.world.vault,
            self.people[sender],
            boa.env.get_balance(self.people[sender]),
        )
        allowed, call = {
            "deposit": (self.books.deposit, lambda: vault.deposit(account, sender=account, value=amount)),
            "withdraw": (self.books.withdraw, lambda: vault.withdraw(amount, sender=account)),
            "lock": (self.books.lock, lambda: vault.lock(amount, sender=account)),
            "unbond": (self.books.unbond, lambda: vault.unbond(amount, sender=account)),
            "claim": (self.books.claim, lambda: vault.claim(sender=account)),
            "cancel_unbonding": (self.books.cancel_unbonding, lambda: vault.cancelUnbonding(sender=account)),
        }[action]
        arguments = {"claim": (now(),), "cancel_unbonding": (), "unbond": (amount, now())}.get(
            action, (amount,)
        )
        expected = allowed(account, *arguments)
        self.attempt_to(expected, call)
        moved = {"deposit": -amount, "withdraw": amount}.get(action, 0) if expected else 0
        assert boa.env.get_balance(account) == before + moved

    @rule(seconds=st.sampled_from([1, HOUR // 2, HOUR, WEEK]))
    def pass_time(self, seconds: int) -> None:
        wait(seconds)

    @rule(action=st.sampled_from(GOVERN), sender=SENDERS, account=PEOPLE, amount=AMOUNTS)
    def govern(self, action: str, sender: str | None, account: str, amount: int) -> None:
        """What judges and admins do with the money of others, and what anybody tries."""
        vault, subject = self.world.vault, self.people[account]
        by_judge = action in ("sanction", "waive")
        caller = self.who(sender, self.world.judge if by_judge else self.world.deployer)
        allowed, call = {
            "sanction": (self.books.sanction, lambda: vault.sanction(subject, amount, sender=caller)),
            "waive": (self.books.waive, lambda: vault.waive(subject, amount, sender=caller)),
            "withdraw_sanction": (
                self.books.withdraw_sanction,
                lambda: vault.withdrawSanctionOf(subject, sender=caller),
            ),
            "emergency_exit": (
                self.books.emergency_exit,
                lambda: vault.emergencyExit(subject, sender=caller),
            ),
        }[action]
        self.attempt_to(allowed(caller, subject, *((amount,) if by_judge else ())), call)

    @rule(what=st.sampled_from(["pause", "stake", "whitelist"]), account=PEOPLE, value=st.booleans())
    def configure(self, what: str, account: str, value: bool) -> None:
        vault, admin, address = self.world.vault, self.world.deployer, self.people[account]
        if what == "pause":
            (vault.unpause if self.books.paused else vault.pause)(sender=admin)
            self.books.paused = not self.books.paused
        elif what == "stake":
            self.books.min_lockup = MIN_LOCKUP * (2 if value else 1)
            vault.setMinLockupPerSource(self.books.min_lockup, sender=admin)
        else:
            (self.books.whitelisted.add if value else self.books.whitelisted.discard)(address)
            vault.setWhitelist(address, value, sender=admin)

    @rule(action=st.sampled_from(RELATE), sender=PEOPLE, other=PEOPLE, amount=AMOUNTS, value=st.booleans())
    def relate(self, action: str, sender: str, other: str, amount: int, value: bool) -> None:
        """Masters, providers and agents."""
        terminal, caller, subject = self.world.terminal, self.people[sender], self.people[other]
        if action == "announce_master" and value:
            caller = self.books.announced.get(subject, caller)
        if action == "remove_provider" and value:
            caller = self.books.master_of.get(subject, caller)
        allowed, call = {
            "announce_provider": (
                lambda: self.books.announce_provider(caller, subject, amount),
                lambda: terminal.announceProvider(subject, amount, sender=caller, value=amount),
            ),
            "announce_master": (
                lambda: self.books.announce_master(caller, subject),
                lambda: terminal.announceMaster(subject, sender=caller),
            ),
            "remove_provider": (
                lambda: self.books.remove_provider(caller, subject),
                lambda: terminal.removeProvider(subject, sender=caller),
            ),
            "set_agent": (
                lambda: self.books.set_agent(caller, subject, value),
                lambda: terminal.setAgent(subject, value, sender=caller),
            ),
        }[action]
        self.attempt_to(allowed(), call)

    @precondition(lambda self: len(self.sources) < 4)
    @rule(client=PEOPLE, delivery=st.integers(0, 1), price=AMOUNTS, lockup=AMOUNTS)
    def publish_source(self, client: str, delivery: int, price: int, lockup: int) -> None:
        owner = self.people[client]
        changes = {"deliveryMethod": delivery, "minPayment": price, "minAvailableLockup": lockup}
        contract = self.world.source(client=owner, **changes)
        self.sources.append((contract, BookedSource(owner, delivery, price, lockup)))

    @precondition(lambda self: len(self.sources) > 2)
    @rule(sender=SENDERS, index=INDEX)
    def inactivate(self, sender: str | None, index: int) -> None:
        contract, source = self.sources[index % len(self.sources)]
        caller = self.who(sender, source.owner)
        allowed = source.active and self.books.is_agent(source.owner, caller)
        self.attempt_to(allowed, lambda: self.world.nexus.inactivateSource(contract, sender=caller))
        source.active &= not allowed

    @rule(sender=SENDERS, index=INDEX, provider=WORKERS, leave=st.booleans())
    def register(self, sender: str | None, index: int, provider: str, leave: bool) -> None:
        contract, source = self.sources[index % len(self.sources)]
        nexus, address = self.world.nexus, self.people[provider]
        caller = self.who(sender, address)
        if leave and address in source.registrants:
            allowed = self.books.unregister(caller, source, address)
            self.attempt_to(allowed, lambda: nexus.unregister(contract, address, sender=caller))
        else:
            allowed = self.books.register(caller, source, address)
            self.attempt_to(allowed, lambda: nexus.register(contract, address, 1, sender=caller))

    @rule(client=st.one_of(st.just("alice"), PEOPLE), index=INDEX, payment=AMOUNTS, hours=st.integers(0, 3))
    def publish_task(self, client: str, index: int, payment: int, hours: int) -> None:
        contract, source = self.sources[index % len(self.sources)]
        task = BookedTask(source, self.people[client], payment, now() + hours * HOUR)
        params = self.world.task_params(contract, payment=payment, expiryTime=task.expiry)
        allowed = self.books.publish(task, now())
        controller = self.world.controller
        self.attempt_to(allowed, lambda: controller.publishTask(params, sender=task.client))
        if allowed:
            self.tasks.append((Contract("Task", controller.event("TaskPublished")["task"]), task))

    @precondition(lambda self: self.tasks)
    @rule(sender=SENDERS, index=INDEX, provider=WORKERS)
    def attempt(self, sender: str | None, index: int, provider: str) -> None:
        contract, task = self.tasks[index % len(self.tasks)]
        address = self.people[provider]
        caller = self.who(sender, address)
        self.attempt_to(
            self.books.attempt(caller, task, address, now()),
            lambda: self.world.nexus.attempt(contract, address, 0, sender=caller),
        )

    @precondition(lambda self: any(task.attempters for _, task in self.tasks))
    @rule(sender=SENDERS, index=INDEX, provider=st.one_of(st.none(), PEOPLE), payment=AMOUNTS)
    def submit(self, sender: str | None, index: int, provider: str | None, payment: int) -> None:
        attempted = [pair for pair in self.tasks if pair[1].attempters]
        contract, task = attempted[index % len(attempted)]
        address = self.who(provider, task.attempters[-1])
        caller = self.who(sender, address)
        allowed = self.books.submit(caller, task, address, payment, now())
        nexus, params = self.world.nexus, (contract.address, address, "42", payment)
        self.attempt_to(allowed, lambda: nexus.submitResponse(params, sender=caller))
        if allowed:
            response = Contract("Response", nexus.event("ResponseSubmitted")["response"])
            self.responses.append((response, task, address))

    @precondition(lambda self: self.responses)
    @rule(sender=SENDERS, index=INDEX)
    def confirm(self, sender: str | None, index: int) -> None:
        response, task, provider = self.responses[index % len(self.responses)]
        caller = self.who(sender, task.client)
        self.attempt_to(
            self.books.confirm(caller, task, provider),
            lambda: self.world.controller.confirmResponse(response, sender=caller),
        )

    @precondition(lambda self: self.tasks)
    @rule(how=st.sampled_from(["cancel", "expire", "force"]), sender=SENDERS, index=INDEX)
    def end(self, how: str, sender: str | None, index: int) -> None:
        contract, task = self.tasks[index % len(self.tasks)]
        caller = self.who(sender, self.world.judge if how == "force" else task.client)
        world = self.world
        allowed, call = {
            "cancel": (
                lambda: self.books.cancel(caller, task, now()),
                lambda: world.controller.cancelTask(contract, sender=caller),
            ),
            "expire": (
                lambda: self.books.expire(caller, task, now()),
                lambda: world.nexus.expireTask(contract, sender=caller),
            ),
            "force": (
                lambda: self.books.force_release(caller, task),
                lambda: world.vault.forceReleasePayment(task.client, contract, sender=caller),
            ),
        }[how]
        self.attempt_to(allowed(), call)

    @invariant()
    def the_vault_holds_what_it_owes(self) -> None:
        assert self.world.vault.balance == self.world.vault.totalOwed() == self.books.owed

    def everything_is_as_the_books_say(self) -> None:
        vault = self.world.vault
        for name, bucket in itertools.product(self.people, BUCKETS):
            address = self.people[name]
            held = getattr(vault, GETTERS[bucket])(address)
            assert held == self.books.bucket[bucket][address], f"{bucket} of {name}"
        for name, address in self.people.items():
            assert vault.totalEarningsOf(address) == self.books.earned[address], name
            assert vault.unbondingTimestamp(address) == self.books.matures.get(address, 0), name
        assert vault.sanctionedAmount() == sum(self.books.bucket["sanction"].values())
        for contract, task in self.tasks:
            assert contract.getStatus() == task.status
            assert contract.getAttempters(0, 99) == task.attempters
            assert vault.frozenFor(contract) == task.frozen
            assert int(contract.winningProvider(), 16) == int(task.winner or "0x0", 16)
        for contract, source in self.sources:
            assert set(contract.getRegistrants(0, 99)) == source.registrants

    def everybody_can_leave(self) -> None:
        """Even a paused vault pays out to the last unit once all tasks have ended and all sanctions are taken."""
        vault = self.world.vault
        wait(10 * WEEK)
        for contract, task in self.tasks:
            if task.status in OPEN:
                self.world.controller.cancelTask(contract, sender=task.client)
        for contract, source in self.sources:
            for provider in source.registrants:
                self.world.nexus.unregister(contract, provider, sender=provider)
        for address in self.people.values():
            if vault.sanctionOf(address):
                vault.withdrawSanctionOf(address, sender=self.world.deployer)
        for getter, way_out in (("lockupOf", "unbond"), ("unbondingOf", "claim"), ("balanceOf", "withdraw")):
            for address in self.people.values():
                amount = getattr(vault, getter)(address)
                arguments = () if way_out == "claim" else (amount,)
                if amount:
                    getattr(vault, way_out)(*arguments, sender=address)
            wait(WEEK)
        assert vault.balance == vault.totalOwed() == 0


LONG = os.environ.get("CONTRACTS_PROFILE") == "long"
# A long search takes as long as it takes.
TestMarket = pytest.mark.timeout(0)(Market.TestCase)
TestMarket.settings = settings(max_examples=1000 if LONG else 20, stateful_step_count=80 if LONG else 50)
