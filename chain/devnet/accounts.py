"""The accounts that own the coins of a development chain.

Their keys are derived from the phrase that Hardhat and anvil use as well ("test test … junk", BIP-39 and BIP-44), so
they are known to everybody: they are worth nothing anywhere else, and nothing sent to them on another network is safe.
"""

from dataclasses import dataclass, field
from functools import cache

from eth_account import Account
from eth_account.hdaccount import HDPath, seed_from_mnemonic

PHRASE = "test test test test test test test test test test test junk"
PATH = "m/44'/60'/0'/0"
COUNT = 20
BALANCE = 1_000_000 * 10**18


@dataclass(frozen=True)
class DevelopmentAccount:
    address: str
    private_key: str = field(repr=False)


@cache
def development_accounts(count: int = COUNT) -> tuple[DevelopmentAccount, ...]:
    seed = seed_from_mnemonic(PHRASE, "")
    keys = [HDPath(f"{PATH}/{index}").derive(seed) for index in range(count)]
    return tuple(
        DevelopmentAccount(address=Account.from_key(key).address, private_key="0x" + key.hex())
        for key in keys
    )
