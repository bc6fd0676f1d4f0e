"""The outbox on a real chain: a network's row, a clock that the test turns, and a node that may fail at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db import transaction as database

from chain import broadcast, deposits, ethereum, indexer, networks, outbox, withdrawals
from chain.devnet.accounts import DevelopmentAccount
from chain.ethereum import NodeAway
from chain.models import Network as Followed
from chain.models import Purpose, Signed, Transaction
from clients import books, trial_balance
from tests.chain.network import Network


class Killed(BaseException):
    """The process ends here; nothing of ours may catch it."""


@dataclass
class Sending:
    """`advance()` is one round a second later; `read()` is what the indexer does, without the events."""

    devnet: Network
    network: Followed
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def operator(self) -> str:
        return self.devnet.deployer.address

    def queue(self, reference: str, **options: Any) -> Transaction:
        wanted = {"to": self.devnet.bob.address, "data": "0x", "value": 1, "purpose": Purpose.FUND} | options
        with database.atomic():
            return outbox.queue(network=self.network, reference=reference, **wanted)

    def advance(self, seconds: float = 1) -> int:
        self.now += timedelta(seconds=seconds)
        return broadcast.advance(self.network, now=self.now)

    def read(self) -> None:
        head = self.devnet.head()
        Followed.objects.filter(pk=self.network.pk).update(cursor_block=head, head_block=head)
        self.network.refresh_from_db()

    def index(self) -> None:
        """Read the chain, events and all, and credit and send what there is."""
        self.now += timedelta(seconds=1)
        self.network.refresh_from_db()
        indexer.follow(self.network, now=self.now)
        self.network.refresh_from_db()
        assert not self.network.failure, self.network.failure
        deposits.sweep(self.network, now=self.now)

    def pay(self, rounds: int = 4) -> None:
        """Have withdrawals sent and confirmed."""
        for _ in range(rounds):
            withdrawals.sweep(self.network, now=self.now)
            self.advance(2)
            self.index()

    def deposit(self, account: int, amount: int, sender: DevelopmentAccount | None = None) -> str:
        """Somebody (alice) sends coins to the Treasury for an account of the ledger (0: for her wallet's)."""
        treasury = self.devnet.contract("TREASURY")
        receipt = self.devnet.transact(
            sender or self.devnet.alice, treasury.functions.deposit(account), value=amount, gas=100_000
        )
        return "0x" + bytes(receipt["transactionHash"]).hex()

    def fund(self, amount: int) -> None:
        """Capital of the marketplace's own, to pay withdrawals with."""
        treasury = self.devnet.contract("TREASURY")
        self.devnet.transact(self.devnet.deployer, treasury.functions.fund(), value=amount, gas=100_000)
        # The deployer is the operator too: its nonce was used outside of the outbox.

    def treasury(self) -> int:
        return self.balance(self.devnet.manifest["contracts"]["TREASURY"])

    def finish(self, rounds: int = 12) -> None:
        """As many rounds as it takes until nothing is under way or due."""
        for _ in range(rounds):
            self.advance(70)
            self.read()

    def nonces(self) -> list[int]:
        """Of what the chain has carried out for the operator, and what it has not got yet."""
        return list(
            Transaction.objects.filter(sender=self.operator, nonce__isnull=False)
            .order_by("nonce")
            .values_list("nonce", flat=True)
        )

    def chain_nonce(self, address: str = "") -> int:
        return int(self.devnet.rpc("eth_getTransactionCount", address or self.operator, "latest"), 16)

    def balance(self, address: str) -> int:
        return int(self.devnet.rpc("eth_getBalance", address, "latest"), 16)

    def forms(self, row: Transaction) -> list[Signed]:
        return list(row.forms.order_by("id"))


def breaks() -> list[tuple[Any, ...]]:
    """What the trial balance would find; it cannot run within a test's transaction."""
    found: list[tuple[Any, ...]] = []
    with connection.cursor() as cursor:
        for check in (*trial_balance.CHECKS, *books.checks()):
            cursor.execute(check.sql)
            found += cursor.fetchall()
    return found


def connect(devnet: Network, settings: Any) -> Sending:
    """The settings of a marketplace whose operator is the deployer."""
    settings.CHAIN_NETWORKS = [str(devnet.manifest_path)]
    settings.CHAIN_KEY = devnet.deployer.private_key
    settings.CHAIN_PROVIDER_KEY = devnet.accounts[4].private_key
    found = Sending(devnet, networks.default())
    found.read()
    return found


class FailingNode:
    """A node that is lost at its n-th question: before it hears of it, or after, so that only its answer is lost."""

    def __init__(self, node: ethereum.Ethereum, *, at: int, after: bool, error: type[BaseException]) -> None:
        self._node, self._left, self._after, self._error = node, at, after, error

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._node, name)
        if not callable(method):
            return method

        def asked(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise self._error()
            answer = method(*arguments, **options)
            if self._left == 0:
                raise self._error()
            return answer

        return asked


@contextmanager
def failing_node(
    monkeypatch: Any, *, at: int, after: bool, error: type[BaseException] = Killed
) -> Iterator[None]:
    """Within, the at-th question that a node is asked fails."""
    real = ethereum.of
    shared: dict[int, FailingNode] = {}

    def of(network: Followed) -> Any:
        return shared.setdefault(network.pk, FailingNode(real(network), at=at, after=after, error=error))

    with monkeypatch.context() as patch:
        patch.setattr(ethereum, "of", of)
        yield


__all__ = ["FailingNode", "Killed", "NodeAway", "Sending", "connect", "failing_node"]


def told_ends(monkeypatch: Any) -> list[tuple[str, str]]:
    """What handlers were told: (reference, status)."""
    told: list[tuple[str, str]] = []
    monkeypatch.setitem(
        outbox._handlers, Purpose.FUND, [lambda row: told.append((row.reference, str(row.status)))]
    )
    return told
