"""Money from one client to another, and from what a provider earned to what it can spend."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import uuid4

from django.db import transaction

from clients import ledger
from clients.models import Account, AccountKind, Client, Transfer, TransferKind, Wallet
from clients.models.ledger import CLIENT_KINDS
from marketplace.errors import Forbidden, InvalidRequest, NotFound

_ACCOUNT = re.compile(rf"{Account.PREFIX}([0-9]{{1,18}})")
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_NUMBER = re.compile(r"[0-9]{1,18}")


class UnknownRecipient(NotFound):
    code = "unknown_recipient"
    message = (
        "No active user, account or linked wallet is called this. Name a username, a user's number, an account "
        "(acc_…), a linked wallet (0x…), or an e-mail address that its owner has confirmed."
    )


class AmbiguousRecipient(InvalidRequest):
    code = "ambiguous_recipient"
    message = "This names more than one user. Name the account (acc_…) instead."


class SelfTransfer(InvalidRequest):
    code, message = "self_transfer", "This would move money to where it is already."


class NotForKeys(Forbidden):
    code = "login_required"
    message = (
        "What was earned goes to others only by its owner's login: an API key's budgets do not count it."
    )


@dataclass(frozen=True, slots=True)
class Balances:
    """What a client has, in base units; `spendable` and `earned` without what is held of them."""

    account: Account
    spendable: int
    held: int
    earned: int
    earned_held: int
    staked: int


def balances(client: Client) -> Balances:
    """All of a client's money, at one moment."""
    owned = {kind: ledger.account(client.pk, kind) for kind in CLIENT_KINDS}
    found = ledger.balances(list(owned.values()))
    spendable, held = found[owned[AccountKind.SPENDABLE].pk]
    earned, earned_held = found[owned[AccountKind.EARNED].pk]
    return Balances(
        account=owned[AccountKind.SPENDABLE],
        spendable=spendable - held,
        held=held,
        earned=earned - earned_held,
        earned_held=earned_held,
        staked=found[owned[AccountKind.STAKED].pk][0],
    )


def recipient(name: str) -> Client:
    """Whom a username, number, account, wallet address or confirmed e-mail address means.

    Raises UnknownRecipient, also for closed and blocked accounts, and AmbiguousRecipient: nobody gets another's money
    by choosing a username that looks like something else.
    """
    found = {client.pk: client for client in _called(name.strip()) if client.is_active}
    if not found:
        raise UnknownRecipient(param="recipient")
    if len(found) > 1:
        raise AmbiguousRecipient(param="recipient")
    return found.popitem()[1]


def send(
    *,
    payer: Client,
    to: Client,
    amount: int,
    memo: str = "",
    source: AccountKind = AccountKind.SPENDABLE,
    api_key_id: int | None = None,
) -> Transfer:
    """Move base units from `payer` to what `to` can spend. What an API key sends counts against its budgets.

    Raises SelfTransfer, NotForKeys, ledger.InsufficientFunds, ledger.BudgetExceeded, ledger.RateLimited.
    """
    if payer.pk == to.pk and source == AccountKind.SPENDABLE:
        raise SelfTransfer(param="recipient")
    if payer.pk != to.pk and source != AccountKind.SPENDABLE and api_key_id is not None:
        raise NotForKeys()
    reference = f"transfer:{uuid4()}"
    if api_key_id is not None and source == AccountKind.SPENDABLE:
        return _send_within_limits(payer, to, amount, memo, api_key_id, reference)
    return ledger.transfer(
        source=ledger.account(payer.pk, source),
        destination=ledger.account(to.pk, AccountKind.SPENDABLE),
        amount=amount,
        reference=reference,
        kind=TransferKind.TRANSFER,
        memo=memo,
    )


@transaction.atomic
def _send_within_limits(
    payer: Client, to: Client, amount: int, memo: str, api_key_id: int, reference: str
) -> Transfer:
    ledger.account(to.pk, AccountKind.SPENDABLE)
    # Both at once: the payee's stripe is written under the lock of its account, like everything that gathers it.
    ledger.lock([payer.pk, to.pk])
    ledger.hold(reference=reference, client_id=payer.pk, amount=amount, api_key_id=api_key_id, tokens=None)
    ledger.settle(
        reference=reference,
        amount=amount,
        payee_id=to.pk,
        payee_kind=AccountKind.SPENDABLE,
        kind=TransferKind.TRANSFER,
        memo=memo,
    )
    return Transfer.objects.get(reference=reference)


def _called(name: str) -> list[Client]:
    """Everybody whom a name can mean."""
    if "@" in name:
        found = Client.objects.by_email(name)
        # Anybody can open an account with an address that is somebody else's.
        return [found] if found is not None and found.email_confirmed_at is not None else []
    people = Client.objects.filter(username=name)
    if number := _NUMBER.fullmatch(name):
        people |= Client.objects.filter(pk=int(number[0]))
    if account := _ACCOUNT.fullmatch(name):
        owned = Account.objects.filter(pk=int(account[1]), kind__in=CLIENT_KINDS)
        people |= Client.objects.filter(pk__in=owned.values("client_id"))
    if address := _ADDRESS.fullmatch(name.lower()):
        linked = Wallet.objects.filter(address=address[0])
        people |= Client.objects.filter(pk__in=linked.values("client_id"))
    return list(people)
