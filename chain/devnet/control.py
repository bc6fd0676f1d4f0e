"""What tests do to a chain: mine, hold, turn the clock, go back, reorganise; under the names of Hardhat and anvil."""

from collections.abc import Callable
from typing import Any

from chain.devnet.chain import Chain
from chain.devnet.errors import invalid
from chain.devnet.formats import data, parse_data, parse_quantity, quantity

MOST_BLOCKS = 10_000


class Control:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def table(self) -> dict[str, Callable[..., Any]]:
        return {
            "evm_mine": self.mine_one,
            "anvil_mine": self.mine,
            "evm_snapshot": lambda: quantity(self._chain.snapshot()),
            "evm_revert": lambda snapshot: self._chain.revert(parse_quantity(snapshot)),
            "evm_increaseTime": self.increase_time,
            "evm_setNextBlockTimestamp": self.set_next_timestamp,
            "evm_setAutomine": self.set_automine,
            "anvil_setAutomine": self.set_automine,
            "anvil_getAutomine": lambda: self._chain.automine,
            "anvil_dropTransaction": self.drop,
            "anvil_dropAllTransactions": self.drop_all,
            "anvil_reorg": self.reorganise,
            "devnet_reorg": self.reorganise_keeping,
            "devnet_setTail": self.set_tail,
            "txpool_status": self.pool_status,
            "txpool_content": self.pool_content,
        }

    def mine_one(self, options: Any = None) -> str:
        """Hardhat passes a timestamp, anvil an object that may hold one."""
        timestamp = options.get("timestamp") if isinstance(options, dict) else options
        if timestamp is not None:
            self.set_next_timestamp(timestamp)
        self._chain.mine()
        return "0x0"

    def mine(self, count: Any = "0x1", interval: Any = None) -> None:
        """`interval` is the time between the blocks, in seconds."""
        blocks = parse_quantity(count, "block count")
        if not 0 <= blocks <= MOST_BLOCKS:
            raise invalid(f"invalid argument: at most {MOST_BLOCKS} blocks")
        step = 0 if interval is None else parse_quantity(interval, "interval")
        for index in range(blocks):
            if index and step:
                self._chain.shift_clock(step)
            self._chain.mine()

    def increase_time(self, seconds: Any) -> int:
        self._chain.shift_clock(parse_quantity(seconds, "seconds"))
        return self._chain.offset

    def set_next_timestamp(self, timestamp: Any) -> None:
        self._chain.set_next_timestamp(parse_quantity(timestamp, "timestamp"))

    def set_automine(self, wanted: Any) -> None:
        self._chain.set_automine(bool(wanted))

    def drop(self, transaction_hash: str) -> str | None:
        wanted = data(parse_data(transaction_hash, "hash", 32))
        return wanted if self._chain.drop(wanted) else None

    def drop_all(self) -> None:
        for waiting in self._chain.pool:
            self._chain.drop(waiting.hash)

    def reorganise(self, depth: Any, replacements: Any = None) -> None:
        """The last blocks are replaced by empty ones; anvil's list of transactions for them is not known here."""
        if replacements:
            raise invalid("invalid argument: give the transactions anew by eth_sendRawTransaction")
        self._chain.reorganise(parse_quantity(depth, "depth"))

    def reorganise_keeping(self, depth: Any, keep: Any = True) -> list[str]:
        """The last blocks are replaced; their transactions stand in the first of the new ones, or are forgotten."""
        return self._chain.reorganise(parse_quantity(depth, "depth"), keep=bool(keep))

    def set_tail(self, count: Any) -> None:
        """How many empty blocks follow the last transaction."""
        self._chain.tail = parse_quantity(count, "count")

    def pool_content(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What waits, by sender and nonce: `pending` can go into the next block, `queued` cannot."""
        ready = {found.hash for found in self._chain.ready()}
        content: dict[str, dict[str, dict[str, Any]]] = {"pending": {}, "queued": {}}
        for found in self._chain.pool:
            body = self._chain.waiting_json(found)
            place = content["pending" if found.hash in ready else "queued"]
            place.setdefault(body["from"], {})[str(found.nonce)] = body
        return content

    def pool_status(self) -> dict[str, str]:
        ready = len(self._chain.ready())
        return {"pending": quantity(ready), "queued": quantity(len(self._chain.pool) - ready)}
