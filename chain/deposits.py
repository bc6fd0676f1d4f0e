"""Money that comes to the Treasury, credited once when its block is final.

A deposit is known by its transaction and its place among the deposits in there. Where its block vanishes before it was
credited, it is forgotten; afterwards it is orphaned, until it is found again (its credit stands) or has been gone for
long enough (its credit is taken back, as soon as the account has the money).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import partial

from django.db import transaction
from django.db.models import QuerySet, Value
from django.db.models.functions import Lower, Now

from chain import repeats
from chain.models import Deposit, DepositStatus, Log, Network
from clients import audit, ledger
from clients.models import Account, AccountKind, Client, Transfer, TransferKind, Wallet
from marketplace import money
from marketplace.errors import Conflict, InvalidRequest, MarketplaceError

logger = logging.getLogger(__name__)

# How many confirmations' time a credited deposit may be gone before its credit is taken back; and blocks at the least,
# where one block alone is not final.
_PATIENCE = 2
_PATIENCE_BLOCKS = 20
_ROWS_AT_ONCE = 500
_MOST_ID = 2**63 - 1

Status = DepositStatus


class NotToAssign(Conflict):
    code = "deposit_not_to_assign"


class ReasonMissing(InvalidRequest):
    code, message = "reason_missing", "Say why; it is kept with the deposit."


def of(client: Client) -> QuerySet[Deposit]:
    """A client's deposits, newest first."""
    return Deposit.objects.filter(client=client)


# --- What the indexer tells, within its transaction ---------------------------------------------------------


def seen(network: Network, logs: list[Log]) -> None:
    """The Treasury's `Deposited` events of new blocks, in the chain's order, within the caller's transaction."""
    hashes = {log.transaction_hash for log in logs}
    known = {
        (row.transaction_hash, row.ordinal): row
        for row in Deposit.objects.select_for_update().filter(network=network, transaction_hash__in=hashes)
    }
    new = []
    for log, ordinal in _numbered(logs):
        found = _from(network, log, ordinal)
        before = known.get((log.transaction_hash, ordinal))
        if before is None:
            if found.amount:
                new.append(found)
        else:
            _found_again(before, found)
    Deposit.objects.bulk_create(new, batch_size=_ROWS_AT_ONCE)


def forget_from(network: Network, block_number: int) -> None:
    """All that was in blocks beyond this one is gone, within the caller's transaction; `network` has its old cursor."""
    gone = Deposit.objects.filter(network=network, block_number__gt=block_number)
    gone.filter(credits=0, status__in=(Status.SEEN, Status.UNCLAIMED)).delete()
    # It was taken back before, and had come once more.
    gone.filter(status__in=(Status.SEEN, Status.UNCLAIMED)).update(
        status=Status.REVERSED, block_number=None, log_index=None
    )
    gone.filter(status=Status.CREDITED).update(
        status=Status.ORPHANED,
        block_number=None,
        log_index=None,
        orphaned_at=Now(),
        orphaned_block=Value(max(network.cursor_block, block_number)),
        reason="The block that it was in is no longer part of the chain.",
    )


def _numbered(logs: Iterable[Log]) -> Iterable[tuple[Log, int]]:
    """Each with its number among the deposits of its transaction."""
    counts: defaultdict[str, int] = defaultdict(int)
    for log in logs:
        yield log, counts[log.transaction_hash]
        counts[log.transaction_hash] += 1


def _from(network: Network, log: Log, ordinal: int) -> Deposit:
    return Deposit(
        network=network,
        transaction_hash=log.transaction_hash,
        ordinal=ordinal,
        block_number=log.block_number,
        log_index=log.log_index,
        sender=log.arguments["sender"],
        account_number=int(log.arguments["account"]),
        amount=int(log.arguments["amount"]),
        at=log.at,
    )


def _found_again(before: Deposit, found: Deposit) -> None:
    """The same transaction stands in another block now; what it has done there may be something else."""
    is_same = (before.amount, int(before.account_number), before.sender) == (
        found.amount,
        int(found.account_number),
        found.sender,
    )
    if before.status == Status.CREDITED and not is_same:
        # Its block was never gone: this is another one, in a place that was read wrongly before.
        logger.error("%s on %s is told of with another content; its credit stands", before, before.network)
        return
    if before.status == Status.ORPHANED and not is_same and not _take_back(before):
        reason = (
            "It was found again with another content, and the account has too little to take its credit back."
        )
        Deposit.objects.filter(pk=before.pk).update(reason=reason)
        return
    status, reason = before.status, before.reason
    if status == Status.ORPHANED:
        status, reason = Status.CREDITED, ""
    elif status == Status.REVERSED or not is_same:
        status, reason = Status.SEEN, ""
    Deposit.objects.filter(pk=before.pk).update(
        status=status,
        block_number=found.block_number,
        log_index=found.log_index,
        sender=found.sender,
        account_number=found.account_number,
        amount=found.amount,
        at=found.at,
        orphaned_at=None,
        orphaned_block=None,
        reason=reason,
    )


# --- Crediting ----------------------------------------------------------------------------------------------


def sweep(network: Network, *, now: datetime) -> int:
    """Credit what is final, what has an owner by now, and take back what is gone for good; how many have changed."""
    steps = [partial(_settle, pk, now=now) for pk in _waiting(network)]
    steps += [partial(_reverse, pk) for pk in _lost(network)]
    return sum(map(_carried_out, steps))


def _carried_out(step: partial[int]) -> int:
    try:
        return step()
    except MarketplaceError as error:
        # Whatever is odd about one, the others are credited.
        if repeats.is_news(("deposit", step.args[0]), error):
            logger.exception("Deposit %s on its way fails", step.args[0])
        return 0


def assign(deposit: Deposit, *, client: Client, by: Client, reason: str, now: datetime) -> Deposit:
    """An operator says whose an unclaimed deposit is: it is credited there. Raises NotToAssign, ReasonMissing."""
    if not reason.strip():
        raise ReasonMissing(fields={"reason": [ReasonMissing.message]})
    with transaction.atomic():
        row = Deposit.objects.select_for_update(of=("self",)).select_related("network").get(pk=deposit.pk)
        if row.status != Status.UNCLAIMED or not _is_final(row):
            raise NotToAssign(
                f"This deposit is {row.get_status_display()}; only an unclaimed one is assigned."
            )
        if not client.is_active:
            raise NotToAssign("This account is closed.")
        _credit(row, client, now=now, reason=reason.strip()[:500], by=by)
        audit.note(
            by=by,
            action="assign_deposit",
            subject=row,
            reason=reason.strip(),
            details={"client": client.pk, "amount": money.render(row.amount), "sender": row.sender},
        )
    deposit.refresh_from_db()
    return deposit


def _waiting(network: Network) -> list[int]:
    """What is final and not credited; of what nobody claimed, that whose sender is somebody's wallet by now."""
    final = Deposit.objects.filter(network=network, block_number__lte=network.final_block)
    linked = final.annotate(wallet=Lower("sender")).filter(
        # Those of closed accounts stay unclaimed: they must not stand in the way of the others.
        status=Status.UNCLAIMED, account_number=0,
        wallet__in=Wallet.objects.filter(client__is_active=True).values("address"),
    )  # fmt: skip
    found = [
        *final.filter(status=Status.SEEN).values_list("pk", flat=True),
        *linked.values_list("pk", flat=True),
    ]
    return sorted(found)[:_ROWS_AT_ONCE]


@transaction.atomic
def _settle(pk: int, *, now: datetime) -> int:
    row = (
        Deposit.objects.select_for_update(of=("self",))
        .select_related("network")
        .filter(pk=pk, status__in=(Status.SEEN, Status.UNCLAIMED))
        .first()
    )
    # Meanwhile its block may have vanished.
    if row is None or not _is_final(row):
        return 0
    client, reason = _owner(row)
    if client is not None:
        _credit(row, client, now=now)
    elif row.status == Status.UNCLAIMED:
        return 0
    else:
        logger.warning("%s on %s is unclaimed: %s", row, row.network, reason)
        Deposit.objects.filter(pk=pk).update(status=Status.UNCLAIMED, reason=reason)
    return 1


def _owner(row: Deposit) -> tuple[Client | None, str]:
    """Whose it is; else why nobody's."""
    number = int(row.account_number)
    if number == 0:
        wallet = Wallet.objects.filter(address=row.sender.lower()).select_related("client").first()
        if wallet is None:
            return None, "It names no account, and nobody has linked the wallet that sent it."
        client = wallet.client
    else:
        account = None
        if number <= _MOST_ID:
            account = Account.objects.filter(pk=number, client__isnull=False).select_related("client").first()
        if account is None or account.client is None:
            return None, "It names an account that is nobody's."
        client = account.client
    if not client.is_active:
        return None, "The account that it is for is closed."
    return client, ""


def _credit(
    row: Deposit, client: Client, *, now: datetime, reason: str = "", by: Client | None = None
) -> None:
    row.client, row.status, row.credited_at, row.reason = client, Status.CREDITED, now, reason
    # Each credit has a name of its own: a further one comes only after the one before was taken back.
    row.credits += 1
    row.save(update_fields=["client", "status", "credited_at", "reason", "credits"])
    ledger.transfer(
        source=ledger.account(None, AccountKind.OUTSIDE),
        destination=ledger.account(client.pk, AccountKind.SPENDABLE),
        amount=row.amount,
        reference=row.reference,
        kind=TransferKind.DEPOSIT,
        memo=f"{row.network}: {row.transaction_hash}",
        by_id=by.pk if by is not None else None,
    )


def _is_final(row: Deposit) -> bool:
    # As of now: the row of the network that a caller holds may be older than a reorganisation.
    final_block = Network.objects.get(pk=row.network_id).final_block
    return row.block_number is not None and row.block_number <= final_block


# --- Taking back --------------------------------------------------------------------------------------------


def patience(network: Network) -> int:
    """How many blocks a credited deposit may be gone."""
    least = _PATIENCE_BLOCKS if network.confirmations > 1 else 0
    return max(_PATIENCE * network.confirmations, least)


def _lost(network: Network) -> list[int]:
    orphaned = Deposit.objects.filter(network=network, status=Status.ORPHANED)
    gone = orphaned.filter(orphaned_block__lte=network.cursor_block - patience(network))
    # In no order that would have the same ones, whose accounts are empty, tried for ever before all others.
    return list(gone.order_by("?").values_list("pk", flat=True)[:_ROWS_AT_ONCE])


@transaction.atomic
def _reverse(pk: int) -> int:
    row = (
        Deposit.objects.select_for_update(of=("self",))
        .select_related("network")
        .filter(pk=pk, status=Status.ORPHANED)
        .first()
    )
    if row is None:
        return 0
    if _take_back(row):
        return 1
    Deposit.objects.filter(pk=pk).update(
        reason="Its block is gone for good, and the account has too little to take its credit back."
    )
    return 0


def _take_back(row: Deposit) -> bool:
    """Reverse the credit of a locked row; False where the account no longer has the money."""
    credit = Transfer.objects.get(reference=row.reference)
    try:
        with transaction.atomic():
            ledger.reverse(credit, reason=f"The block of {row} is no longer part of the chain.", by_id=None)
    except ledger.InsufficientFunds:
        return False
    logger.warning("%s on %s was taken back: its block is gone", row, row.network)
    Deposit.objects.filter(pk=row.pk).update(status=Status.REVERSED, reason="Its block is gone for good.")
    row.refresh_from_db()
    return True
