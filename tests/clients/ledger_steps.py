"""What the tests of the ledger do, in tokens, and what they look at."""

from typing import Any

from clients import ledger
from clients.models import Account, AccountKind, Client, Hold, Transfer, TransferKind
from marketplace.money import TOKEN

SPENDABLE, EARNED, STAKED = AccountKind.SPENDABLE, AccountKind.EARNED, AccountKind.STAKED


def has(client: Client | None, kind: AccountKind = SPENDABLE) -> tuple[float, float]:
    """(tokens, how many of them are held) of an account."""
    owned = ledger.account(client.pk if client else None, kind)
    balance, held = ledger.balances([owned])[owned.pk]
    return balance / TOKEN, held / TOKEN


def move(
    source: Account, destination: Account, tokens: int = 4, reference: str = "t:1", **more: Any
) -> Transfer:
    return ledger.transfer(
        source=source, destination=destination, amount=tokens * TOKEN, reference=reference,
        kind=TransferKind.TRANSFER, **more,
    )  # fmt: skip


def spendable(client: Client) -> Account:
    return ledger.account(client.pk, SPENDABLE)


def earned(client: Client) -> Account:
    return ledger.account(client.pk, EARNED)


def hold(client: Client, amount: float = 3, reference: str = "h:1", **more: Any) -> Hold:
    return ledger.hold(reference=reference, client_id=client.pk, amount=int(amount * TOKEN), **more)


def settle(client: Client, tokens: float = 2, fee: float = 0, reference: str = "h:1", **more: Any) -> bool:
    return ledger.settle(
        reference=reference, amount=int(tokens * TOKEN), payee_id=client.pk, kind=TransferKind.INFERENCE,
        fee=int(fee * TOKEN), **more,
    )  # fmt: skip


def capture(client: Client, tokens: float, part: str = "h:1:1", **more: Any) -> bool:
    return ledger.capture(
        reference="h:1", amount=int(tokens * TOKEN), transfer_reference=part, payee_id=client.pk,
        kind=TransferKind.ALLOCATION, **more,
    )  # fmt: skip
