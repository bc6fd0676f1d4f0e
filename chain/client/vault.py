"""The Vault: the account that tasks are paid from, and providers' stakes. Amounts are in wei."""

from functools import partial
from typing import Any

from chain.client import keys
from chain.client.blocking import operation
from chain.client.chain_config import Network
from chain.client.errors import InvalidValue
from chain.client.interface import checksum
from chain.client.keys import PrivateKey
from chain.client.sending import Call, transact
from chain.client.steps import Blocking, Steps
from chain.client.task import deposit_call
from chain.client.types import VaultAccount
from chain.client.views import View, chosen_network, opened, read

FIELDS = ("balanceOf", "lockupOf", "unbondingOf", "unbondingTimestamp", "frozenPayment", "totalEarningsOf")


@operation
def deposit(
    amount: int,
    private_key: PrivateKey | None = None,
    *,
    account: str | None = None,
    network: Network | None = None,
) -> Steps[str]:
    """Pay `amount` from the wallet into the Vault, for the signer's account or another; the transaction's hash."""
    _check(amount)
    session = yield from opened(private_key, network)
    call = deposit_call(session, amount)
    if account is not None:
        call = Call("Vault", call.address, "deposit", (checksum(account, "account"),), value=amount)
    return (yield from transact(session, call)).tx_hash


@operation
def withdraw(
    amount: int, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """Take `amount` of the balance back to the wallet; the transaction's hash. Raises `InsufficientBalance`."""
    return (yield from _vault("withdraw", amount, private_key, network, "CLIENT"))


@operation
def vault_balance(
    account: str | None = None, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[int]:
    """What an account (the signer's) can pay for tasks with."""
    address = yield from _whose(account, private_key)
    chosen = yield from chosen_network(network)
    vault = chosen.contract("VAULT")
    (found,) = yield from read(chosen, [View("Vault", vault, "getBalanceOf", (address,))])
    return int(found)


@operation
def vault_account(
    account: str | None = None, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[VaultAccount]:
    """All that an account (the signer's) has in the Vault, in one round trip."""
    address = yield from _whose(account, private_key)
    chosen = yield from chosen_network(network)
    vault = chosen.contract("VAULT")
    values = yield from read(chosen, [View("Vault", vault, name, (address,)) for name in FIELDS])
    return VaultAccount(address, *values)


@operation
def lock(amount: int, private_key: PrivateKey | None = None, *, network: Network | None = None) -> Steps[str]:
    """Move `amount` from the balance into the stake that providers need; the transaction's hash."""
    return (yield from _vault("lock", amount, private_key, network, "PROVIDER"))


@operation
def unbond(
    amount: int, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """Begin to take `amount` out of the stake; `claim` ends it after the unbonding period. The transaction's hash."""
    return (yield from _vault("unbond", amount, private_key, network, "PROVIDER"))


@operation
def cancel_unbonding(private_key: PrivateKey | None = None, *, network: Network | None = None) -> Steps[str]:
    """Put what is unbonding back into the stake; the transaction's hash."""
    return (yield from _vault("cancelUnbonding", None, private_key, network, "PROVIDER"))


@operation
def claim(private_key: PrivateKey | None = None, *, network: Network | None = None) -> Steps[str]:
    """Put what has unbonded into the balance; the transaction's hash. Raises `UnbondingNotElapsed`."""
    return (yield from _vault("claim", None, private_key, network, "PROVIDER"))


def _vault(
    function: str, amount: int | None, private_key: PrivateKey | None, network: Network | None, role: str
) -> Steps[str]:
    arguments: tuple[Any, ...] = ()
    if amount is not None:
        _check(amount)
        arguments = (amount,)
    session = yield from opened(private_key, network, role=role)
    call = Call("Vault", session.network.contract("VAULT"), function, arguments)
    return (yield from transact(session, call)).tx_hash


def _check(amount: int) -> None:
    if isinstance(amount, bool) or not isinstance(amount, int) or amount <= 0:
        raise InvalidValue(f"An amount is a positive whole number of wei, not {amount!r}.")


def _whose(account: str | None, private_key: PrivateKey | None) -> Steps[str]:
    if account is not None:
        return checksum(account, "account")
    signer = yield Blocking(partial(keys.account, private_key))
    return str(signer.address)
