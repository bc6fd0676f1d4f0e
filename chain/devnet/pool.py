"""The transactions that wait for a block, by sender and nonce, with the rules and the texts of geth's pool."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from chain.devnet.errors import refused

MOST = 10_000
# By how much a replacement must raise both fees, per cent.
PRICE_BUMP = 10


@dataclass(frozen=True)
class Waiting:
    hash: str
    sender: bytes
    raw: bytes
    transaction: Any

    @property
    def nonce(self) -> int:
        return int(self.transaction.nonce)

    @property
    def cost(self) -> int:
        """The most that the sender may have to pay."""
        return int(self.transaction.gas * self.transaction.max_fee_per_gas + self.transaction.value)


class Pool:
    def __init__(self) -> None:
        self._by_sender: dict[bytes, dict[int, Waiting]] = {}
        self._by_hash: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(tuple(self._by_hash.values()))

    def get(self, transaction_hash: str) -> Waiting | None:
        return self._by_hash.get(transaction_hash)

    def check(self, found: Waiting, nonce: int, balance: int) -> Waiting | None:
        """Raise where geth would refuse; else the transaction that this one replaces, if any."""
        if found.hash in self._by_hash:
            raise refused("already known")
        if found.nonce < nonce:
            raise refused(f"nonce too low: next nonce {nonce}, tx nonce {found.nonce}")
        if found.cost > balance:
            raise refused(
                f"insufficient funds for gas * price + value: balance {balance}, tx cost {found.cost}, "
                f"overshot {found.cost - balance}"
            )
        replaced = self._by_sender.get(found.sender, {}).get(found.nonce)
        if replaced is not None and not _raised(replaced.transaction, found.transaction):
            raise refused("replacement transaction underpriced")
        if replaced is None and len(self) >= MOST:
            raise refused("txpool is full")
        return replaced

    def add(self, found: Waiting) -> None:
        before = self._by_sender.setdefault(found.sender, {}).get(found.nonce)
        if before is not None:
            del self._by_hash[before.hash]
        self._by_sender[found.sender][found.nonce] = found
        self._by_hash[found.hash] = found

    def remove(self, transaction_hash: str) -> None:
        found = self._by_hash.pop(transaction_hash, None)
        if found is None:
            return
        mine = self._by_sender[found.sender]
        del mine[found.nonce]
        if not mine:
            del self._by_sender[found.sender]

    def clear(self) -> None:
        self._by_hash.clear()
        self._by_sender.clear()

    def next_nonce(self, sender: bytes, nonce: int) -> int:
        """The first that is free, counted from the account's own."""
        mine = self._by_sender.get(sender, {})
        while nonce in mine:
            nonce += 1
        return nonce

    def ready(self, nonce_of: Callable[[bytes], int], base_fee: int) -> list[Waiting]:
        """What can go into the next block: without gaps, able to pay the base fee; the best paid sender first."""
        runs = []
        for sender, mine in self._by_sender.items():
            nonce, run = nonce_of(sender), []
            while nonce in mine and mine[nonce].transaction.max_fee_per_gas >= base_fee:
                run.append(mine[nonce])
                nonce += 1
            if run:
                runs.append(run)
        runs.sort(key=lambda run: -run[0].transaction.max_priority_fee_per_gas)
        return [found for run in runs for found in run]

    def stale(self, nonce_of: Callable[[bytes], int]) -> list[Waiting]:
        """What another transaction of the same nonce has overtaken."""
        return [
            found
            for sender, mine in self._by_sender.items()
            for nonce, found in mine.items()
            if nonce < nonce_of(sender)
        ]


def _raised(old: Any, new: Any) -> bool:
    return all(
        getattr(new, name) * 100 >= getattr(old, name) * (100 + PRICE_BUMP)
        and getattr(new, name) > getattr(old, name)
        for name in ("max_fee_per_gas", "max_priority_fee_per_gas")
    )
