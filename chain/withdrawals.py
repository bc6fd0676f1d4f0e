"""Money from accounts to their owners' wallets: held when asked for, sent by the outbox, settled when the chain paid.

The Treasury pays a reference once and never again: keccak256 of the 16 bytes of the withdrawal's `uuid` (as RFC 9562
orders them, `uuid.bytes`). Money is freed only where nothing that was signed can still be carried out.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet
from eth_utils import keccak, to_checksum_address

from chain import acknowledgements, allowances, keys, outbox
from chain.ethereum import encoded
from chain.models import (
    OPEN_WITHDRAWALS,
    Log,
    Network,
    Purpose,
    Transaction,
    TransactionStatus,
    Withdrawal,
    WithdrawalStatus,
)
from clients import audit, ledger, terms
from clients.models import AccountKind, Client, TransferKind, Wallet
from clients.payouts import PayoutsFrozen, ReasonMissing
from marketplace import money
from marketplace.errors import Conflict, InvalidRequest, Unavailable

logger = logging.getLogger(__name__)

MAX_OPEN = 20
KINDS = (AccountKind.SPENDABLE, AccountKind.EARNED)
Status = WithdrawalStatus

# What passes without anybody's withdrawal being at fault: it waits, and is tried again later and later.
_PASSES = {
    "InsufficientBalance": "The Treasury holds too little at the moment.",
    "OverDailyLimit": "The Treasury pays no more today.",
    "Paused": "The Treasury is paused.",
    "NotOperator": "The Treasury does not know the marketplace's key as an operator.",
    "TooLittleGas": "The limit of gas was too low.",
}
_FIRST_WAIT_S, _LONGEST_WAIT_S = 30, 1800
_UNTOLD = "The Treasury has told of no such payment; an operator has to look."


class NoTreasury(Unavailable):
    code, message = (
        "no_treasury",
        "This chain has no Treasury of this marketplace, so nothing is withdrawn to it.",
    )


class WalletNotLinked(InvalidRequest):
    code = "wallet_not_linked"
    message = "Money goes only to a wallet that is linked to your account. Link it first: /client/wallets/."


class WrongAccount(InvalidRequest):
    code, message = "wrong_account", "Withdrawals leave what you can spend or what you have earned."


class BelowMinimum(InvalidRequest):
    code = "below_minimum"


class TooManyWithdrawals(Conflict):
    code, message = "too_many_withdrawals", f"{MAX_OPEN} of your withdrawals are under way already."


class WithdrawalsFrozen(PayoutsFrozen):
    message = (
        "Withdrawals are frozen at the moment. The request stays; approve it when the terms allow it again."
    )


class WithdrawalDecided(Conflict):
    code = "withdrawal_decided"


class WithdrawalSigned(Conflict):
    code, message = (
        "withdrawal_signed",
        "This withdrawal is signed, and may have been sent: it takes its course.",
    )


def of(client: Client) -> QuerySet[Withdrawal]:
    """A client's withdrawals, newest first."""
    return Withdrawal.objects.filter(client=client)


def payment_reference(withdrawal: Withdrawal) -> str:
    """What the Treasury knows a withdrawal by: 0x and 64 hexadecimal digits."""
    return "0x" + keccak(withdrawal.uuid.bytes).hex()


@transaction.atomic
def request(
    client: Client,
    *,
    amount: int,
    address: str,
    network: Network,
    account_kind: AccountKind = AccountKind.SPENDABLE,
    now: datetime,
) -> Withdrawal:
    """Ask for base units to be paid to one's wallet; they are held from now on.

    Raises NoTreasury, WalletNotLinked, WrongAccount, BelowMinimum, TooManyWithdrawals, allowances.OverDailyLimit,
    allowances.NotWithdrawable, ledger.InsufficientFunds, ledger.BudgetExceeded (a budget of the account counts what
    leaves it, too).
    """
    if not network.address("TREASURY"):
        raise NoTreasury()
    if account_kind not in KINDS:
        raise WrongAccount(param="account")
    # One at a time for each account, so that two cannot both be the last.
    Client.objects.select_for_update(no_key=True).get(pk=client.pk)
    if not Wallet.objects.filter(client=client, address=address.lower()).exists():
        raise WalletNotLinked(param="address")
    if of(client).filter(status__in=OPEN_WITHDRAWALS).count() >= MAX_OPEN:
        raise TooManyWithdrawals()
    _check_limits(client, amount, account_kind, now)
    above = terms.current().withdrawal_approval_above
    needs_approval = above is not None and amount > above
    withdrawal = Withdrawal(
        network=network,
        client=client,
        account_kind=account_kind,
        address=to_checksum_address(address),
        amount=amount,
        status=Status.REQUESTED if needs_approval else Status.APPROVED,
        requested_at=now,
    )
    withdrawal.payment_reference = payment_reference(withdrawal)
    withdrawal.save()
    ledger.hold(
        reference=withdrawal.reference, client_id=client.pk, amount=amount, kind=account_kind, tokens=None
    )
    return withdrawal


@transaction.atomic
def approve(withdrawal: Withdrawal, *, by: Client, now: datetime, reason: str = "") -> Withdrawal:
    """An operator lets it be sent. Raises WithdrawalsFrozen, WithdrawalDecided."""
    if terms.current().payouts_frozen:
        raise WithdrawalsFrozen()
    waiting = Withdrawal.objects.filter(pk=withdrawal.pk, status=Status.REQUESTED)
    changed = waiting.update(status=Status.APPROVED, decided_by=by, decided_at=now)
    withdrawal.refresh_from_db()
    if not changed:
        raise WithdrawalDecided(f"This withdrawal is {withdrawal.get_status_display()} already.")
    _note("approve_withdrawal", withdrawal, by, reason)
    return withdrawal


def cancel(withdrawal: Withdrawal, *, now: datetime) -> Withdrawal:
    """Its owner takes it back while nothing is signed; the money is free again.

    Raises WithdrawalDecided, WithdrawalSigned.
    """
    return _take_back(withdrawal, Status.CANCELLED, now=now)


def refuse(withdrawal: Withdrawal, *, by: Client, reason: str, now: datetime) -> Withdrawal:
    """An operator does not have it sent, and says why; the money is free again.

    Raises ReasonMissing, WithdrawalDecided, WithdrawalSigned.
    """
    if not reason.strip():
        raise ReasonMissing(
            "Say why; the owner reads it.", fields={"reason": ["Say why; the owner reads it."]}
        )
    return _take_back(withdrawal, Status.REFUSED, now=now, by=by, reason=reason.strip()[:500])


def sweep(network: Network, *, now: datetime) -> int:
    """Hand approved withdrawals to the outbox, and settle what was paid and not settled yet; how many have changed."""
    changed = 0
    mine = Withdrawal.objects.filter(network=network)
    if not terms.current().payouts_frozen:
        for number in mine.filter(status=Status.APPROVED).order_by("number").values_list("pk", flat=True):
            changed += _hand_over(number)
    paid = mine.filter(status=Status.SENDING, transaction__status=TransactionStatus.CONFIRMED)
    for number in paid.values_list("pk", flat=True):
        changed += _look_again(number, now)
    return changed


# --- Asking -------------------------------------------------------------------------------------------------


def _check_limits(client: Client, amount: int, kind: AccountKind, now: datetime) -> None:
    limits = terms.current()
    if amount <= 0 or amount < (limits.withdrawal_minimum or 0):
        least = money.named(limits.withdrawal_minimum or 1)
        raise BelowMinimum(f"A withdrawal is of {least} or more.", param="amount")
    if limits.withdrawal_daily is not None:
        allowances.check_day(client, amount, limits.withdrawal_daily, now)
    available = allowances.withdrawable(client, kind)
    if kind == AccountKind.SPENDABLE and amount > available:
        raise allowances.NotWithdrawable(
            f"{money.named(available)} of this account can be withdrawn: what was deposited or earned, and is still "
            "there. Granted credit, and what others have sent you, can only be spent.",
            details={"available": money.render(available), "needed": money.render(amount)},
        )


@transaction.atomic
def _take_back(
    withdrawal: Withdrawal,
    status: WithdrawalStatus,
    *,
    now: datetime,
    by: Client | None = None,
    reason: str = "",
) -> Withdrawal:
    withdrawal.refresh_from_db()
    # The transaction first, as whoever signs it does.
    sending = None
    if withdrawal.transaction_id is not None:
        sending = Transaction.objects.select_for_update().get(pk=withdrawal.transaction_id)
    row = Withdrawal.objects.select_for_update().get(pk=withdrawal.pk)
    if row.status not in OPEN_WITHDRAWALS:
        raise WithdrawalDecided(f"This withdrawal is {row.get_status_display()} already.")
    if row.transaction_id is not None and sending is None:
        sending = Transaction.objects.select_for_update().get(pk=row.transaction_id)
    if sending is not None and sending.status != TransactionStatus.QUEUED:
        raise WithdrawalSigned()
    _end(row, status, now=now, reason=reason, by=by)
    if sending is not None:
        outbox.cancel(sending, reason=reason)
    if by is not None:
        _note("refuse_withdrawal", row, by, reason)
    withdrawal.refresh_from_db()
    return withdrawal


def _end(
    row: Withdrawal, status: WithdrawalStatus, *, now: datetime, reason: str, by: Client | None = None
) -> None:
    """End it without payment; the money is free again."""
    row.status, row.reason, row.ended_at = status, reason[:500], now
    if by is not None:
        row.decided_by, row.decided_at = by, now
    row.save(update_fields=["status", "reason", "ended_at", "decided_by", "decided_at"])
    ledger.release(row.reference)


def _note(action: str, row: Withdrawal, by: Client, reason: str) -> None:
    details = {"client": row.client_id, "amount": money.render(row.amount), "address": row.address}
    audit.note(by=by, action=action, subject=row, reason=reason, details=details)


# --- Sending ------------------------------------------------------------------------------------------------


@transaction.atomic
def _hand_over(number: int) -> int:
    row = (
        Withdrawal.objects.select_for_update(of=("self",))
        .select_related("network")
        .filter(pk=number, status=Status.APPROVED)
        .first()
    )
    if row is None:
        return 0
    if not row.network.address("TREASURY"):
        Withdrawal.objects.filter(pk=number).exclude(reason=NoTreasury.message).update(
            reason=NoTreasury.message
        )
        return 0
    try:
        row.transaction = outbox.queue(
            network=row.network,
            purpose=Purpose.WITHDRAWAL,
            reference=row.reference,
            to=row.network.address("TREASURY"),
            data=encoded(
                "Treasury", "withdraw", bytes.fromhex(payment_reference(row)[2:]), row.address, row.amount
            ),
        )
    except keys.NoKey as error:
        Withdrawal.objects.filter(pk=number).update(reason=error.message[:500])
        return 0
    row.status, row.reason = Status.SENDING, ""
    row.save(update_fields=["transaction", "status", "reason"])
    return 1


def _why_not(sending: Transaction) -> str:
    """Why a withdrawal's transaction must not be signed now."""
    row = Withdrawal.objects.filter(transaction=sending).select_related("client").first()
    if row is None or row.status != Status.SENDING:
        return "The withdrawal has ended." if row else "There is no such withdrawal."
    if not row.client.is_active:
        return "The account is closed or blocked; an operator refuses the withdrawal, or opens the account again."
    if not Wallet.objects.filter(client=row.client_id, address=row.address.lower()).exists():
        return (
            "The wallet is not linked to the account any more: link it again, or have the withdrawal refused."
        )
    if terms.current().payouts_frozen:
        return "Withdrawals are frozen at the moment."
    return acknowledgements.why_not_pay(Network.objects.get(pk=sending.network_id))


def _ended(sending: Transaction) -> None:
    """What becomes of a withdrawal when its transaction has ended."""
    row = Withdrawal.objects.select_for_update().filter(transaction=sending, status=Status.SENDING).first()
    if row is None:
        return
    assert sending.ended_at is not None
    now = sending.ended_at
    if sending.status == TransactionStatus.CONFIRMED:
        _settle_by_event(row, now)
    elif sending.status == TransactionStatus.CANCELLED:
        _end(row, Status.FAILED, now=now, reason=f"It was taken out of the queue: {sending.reason}")
    elif payment(row) is not None or "AlreadyPaid" in sending.reason:
        # Whatever the node says of this transaction: what was paid once must not be free again.
        if not _settle_by_event(row, now):
            _try_again(row, sending, now, "The Treasury has paid it before; the event of that is awaited.")
    elif sending.reason in _PASSES:
        _try_again(row, sending, now, _PASSES[sending.reason])
    else:
        _end(row, Status.FAILED, now=now, reason=f"The Treasury refuses it: {sending.reason}")


def _try_again(row: Withdrawal, sending: Transaction, now: datetime, reason: str) -> None:
    wait = min(_FIRST_WAIT_S * 2**sending.tries, _LONGEST_WAIT_S)
    logger.warning("%s on %s waits: %s", row, sending.network, reason)
    outbox.again(sending, at=now + timedelta(seconds=wait), reason=reason)
    Withdrawal.objects.filter(pk=row.pk).update(reason=f"{reason} It is tried again.")


@transaction.atomic
def _look_again(number: int, now: datetime) -> int:
    row = Withdrawal.objects.select_for_update().filter(pk=number, status=Status.SENDING).first()
    return int(row is not None and _settle_by_event(row, now))


def _settle_by_event(row: Withdrawal, now: datetime) -> bool:
    """Settle a locked withdrawal if the Treasury says, finally, that it has paid it."""
    paid = payment(row)
    if paid is None or (int(paid.arguments["amount"]), paid.arguments["to"]) != (row.amount, row.address):
        if row.reason != _UNTOLD:
            row.reason = _UNTOLD
            logger.error("%s was sent, and the Treasury has told of no such payment", row)
            row.save(update_fields=["reason"])
        return False
    row.status, row.reason, row.ended_at = Status.CONFIRMED, "", now
    row.is_claimable = not paid.arguments["sent"]
    if row.is_claimable:
        row.reason = "The wallet refused the money; the Treasury keeps it for the wallet to claim."
    row.save(update_fields=["status", "reason", "ended_at", "is_claimable"])
    settled = ledger.settle(
        reference=row.reference,
        amount=row.amount,
        payee_id=None,
        payee_kind=AccountKind.OUTSIDE,
        kind=TransferKind.WITHDRAWAL,
        memo=f"{row.network}: {paid.transaction_hash}",
    )
    if not settled:
        logger.error("%s was paid, and its hold had ended before: the books are short of it", row)
    return True


def payment(row: Withdrawal) -> Log | None:
    """The Treasury's final event that tells of a payment with a withdrawal's reference."""
    network = row.network
    told = Log.objects.filter(
        network=network,
        name="Withdrawn",
        address=network.address("TREASURY"),
        block_number__lte=Network.objects.get(pk=network.pk).final_block,
        arguments__reference=payment_reference(row),
    )
    sent_by = row.transaction.hash if row.transaction is not None else ""
    # Mostly it is in the transaction that we know of, and that is found at once.
    return told.filter(transaction_hash=sent_by).first() or told.first()


outbox.on_end(Purpose.WITHDRAWAL, _ended)
outbox.before(Purpose.WITHDRAWAL, _why_not)
