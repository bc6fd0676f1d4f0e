"""The Treasury of a marketplace: paying coins into an account of its ledger. No part of OpenGPU's own network."""

from chain.client.blocking import operation
from chain.client.chain_config import Network
from chain.client.errors import InvalidValue
from chain.client.keys import PrivateKey
from chain.client.sending import Call, transact
from chain.client.steps import Steps
from chain.client.views import opened


@operation
def deposit(
    account: int, amount: int, private_key: PrivateKey | None = None, *, network: Network | None = None
) -> Steps[str]:
    """Pay `amount` (wei) from the wallet into the marketplace's account of that number; the transaction's hash.

    The number is what `GET /chain/deposits/address/` says. It is credited once the network's confirmations are there.
    """
    if isinstance(account, bool) or not 0 < account < 2**256:
        raise InvalidValue(f"account: {account!r} is no account's number.")
    if isinstance(amount, bool) or amount <= 0:
        raise InvalidValue(f"amount: {amount!r} is not more than nothing.")
    session = yield from opened(private_key, network)
    treasury = session.network.contract("TREASURY")
    call = Call("Treasury", treasury, "deposit", (account,), value=amount)
    return (yield from transact(session, call)).tx_hash
