"""Sends what the outbox holds, and follows it until it is final.

A nonce is given out together with the signed form that uses it, in one database transaction, and only then the form is
sent: whoever dies at any point leaves either nothing, or bytes that the next run sends again. The same bytes sent twice
are one transaction to a chain, and all forms of a row have the same nonce, so that only one of them is carried out.
What had ended, and is gone with its block, is sent again by `chain.revival`.

One process at a time works for a sender (a lock of the database that ends with its connection). That is for the
order's sake: what must never happen is prevented by the rows themselves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db import transaction as database
from django.db.models import Q

from chain import bells, ethereum, fees, forms, gas_costs, keys, outbox, repeats, revival, standing
from chain.ethereum import Ethereum, NodeAway, Refused
from chain.fees import Fees
from chain.models import (
    DONE,
    IN_FLIGHT,
    Block,
    Network,
    Purpose,
    Sender,
    Signed,
    Transaction,
    TransactionStatus,
)
from chain.standing import Receipt, Standing
from marketplace import money

logger = logging.getLogger(__name__)

# Any number that nothing else here locks.
_LOCK = 0x5E4D
# Nodes keep so many of one sender for sure; and so long a round may begin new ones.
MOST_IN_FLIGHT = 16
ROUND_S = 10.0
RESEND_AFTER = timedelta(seconds=15)
# How long nothing is heard of a form whose nonce is used up for good, before it is certain that it was not the form.
CERTAIN_AFTER = timedelta(seconds=60)
LONGEST_WAIT_S = 120
BALANCE_EVERY = timedelta(seconds=60)
GWEI = 10**9

Status = TransactionStatus


def advance(network: Network, *, now: datetime) -> int:
    """Begin what is due on a network, and bring up to date what was sent; how many rows were looked at.

    Nothing is sent to a network that is paused, or that cannot be read at the moment.
    """
    network.refresh_from_db()
    if network.is_paused or network.failing_since is not None:
        return 0
    _end_what_cannot_begin(network, now)
    looked_at = 0
    for address in _senders(network, now):
        sender, _ = Sender.objects.get_or_create(network=network, address=address)
        with _claimed(sender) as is_ours:
            if is_ours:
                looked_at += _look_after(sender, network, now)
    return looked_at


def watch_balances(network: Network, *, now: datetime) -> None:
    """Note once a minute what our addresses have for gas, also while nothing is sent."""
    if network.is_paused or network.failing_since is not None:
        return
    try:
        addresses = keys.addresses()
    except keys.BadKey:
        return
    for address in addresses:
        sender, _ = Sender.objects.get_or_create(network=network, address=address)
        if sender.balance_at is None or now - sender.balance_at >= BALANCE_EVERY:
            try:
                balance = ethereum.of(network).balance(address)
            except (NodeAway, Refused):
                return
            Sender.objects.filter(pk=sender.pk).update(balance=balance, balance_at=now)


def _look_after(sender: Sender, network: Network, now: datetime) -> int:
    try:
        return _Round(sender, network, now).run()
    except NodeAway as away:
        if repeats.is_news(("sending", sender.pk), away.message):
            logger.warning("Sending on %s waits: %s", network, away.message)
        return 0


def _senders(network: Network, now: datetime) -> list[str]:
    """The addresses for which there is something to do."""
    found = Transaction.objects.filter(network=network).filter(Q(status__in=IN_FLIGHT) | _due(now))
    busy = found.order_by("sender").values_list("sender", flat=True).distinct()
    return sorted({*busy, *(row.sender for row in revival.lost(network, now=now))})


def _due(now: datetime) -> Q:
    free = Q(after=None) | Q(after__status=Status.CONFIRMED)
    return Q(status=Status.QUEUED, next_try_at__lte=now) & free


def _end_what_cannot_begin(network: Network, now: datetime) -> None:
    failed = [status for status in DONE if status != Status.CONFIRMED]
    hopeless = Q(expires_at__lte=now) | Q(after__status__in=failed)
    queued = Transaction.objects.filter(hopeless, network=network, status=Status.QUEUED)
    for pk in queued.values_list("pk", flat=True):
        with database.atomic():
            row = Transaction.objects.select_for_update(of=("self",)).select_related("after").get(pk=pk)
            if row.status != Status.QUEUED:
                continue
            reason = "It was too late to send it."
            if row.after is not None and row.after.status in failed:
                reason = f"What it was to follow is {row.after.get_status_display()}: {row.after.reason}"
            _end(row, Status.REFUSED, now=now, reason=reason)


def _end(
    row: Transaction, status: TransactionStatus, *, now: datetime, reason: str, **values: object
) -> None:
    """End a locked row; where somebody who waits for it fails, it is tried again later."""
    try:
        outbox.end(row, status, now=now, reason=reason, **values)
    except Exception:
        logger.exception("What follows on transaction %s failed; it is tried again", row)
        _wait(row, now, reason="What is to follow on it failed here; look at the log.")


def _wait(row: Transaction, now: datetime, *, reason: str) -> None:
    tries = row.tries + 1
    wait = timedelta(seconds=min(2**tries, LONGEST_WAIT_S))
    Transaction.objects.filter(pk=row.pk).exclude(status__in=DONE).update(
        tries=tries, next_try_at=now + wait, reason=reason[:1000]
    )
    row.refresh_from_db()


@contextmanager
def _claimed(sender: Sender) -> Iterator[bool]:
    """Whether nobody else works for this sender; until the block ends, or this process does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [_LOCK, sender.pk])
        is_ours = bool(cursor.fetchone()[0])
    try:
        yield is_ours
    finally:
        if is_ours:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [_LOCK, sender.pk])


class _Round:
    """One look at everything that an address has on its way, and the beginning of what is due."""

    def __init__(self, sender: Sender, network: Network, now: datetime) -> None:
        self.sender, self.network, self.now = sender, network, now
        self.limit = settings.CHAIN_MAX_FEE_GWEI * GWEI
        self.bump_after = timedelta(seconds=settings.CHAIN_BUMP_AFTER_S)
        self.node: Ethereum = ethereum.of(network)

    def run(self) -> int:
        mine = Transaction.objects.filter(network=self.network, sender=self.sender.address)
        under_way = list(mine.filter(status__in=IN_FLIGHT).order_by("nonce").prefetch_related("forms"))
        due = list(mine.filter(_due(self.now)).order_by("id")[:MOST_IN_FLIGHT])
        lost = [row for row in revival.lost(self.network, now=self.now) if row.sender == self.sender.address]
        self.standing = self._ask([form.hash for row in [*lost, *under_way] for form in forms.live(row)])
        for row in lost:
            revival.revive(row, node=self.node, standing=self.standing, limit=self.limit, now=self.now)
        self.lowest = min((_nonce(row) for row in under_way if row.status != Status.MINED), default=None)
        for row in under_way:
            self._follow(row)
        self.committed = sum(forms.cost(row) for row in under_way if _is_unmined(row))
        self._begin_all(due, room=MOST_IN_FLIGHT - sum(map(_is_unmined, under_way)))
        if not due:
            self._fill_gap(under_way)
        return len(under_way) + len(due)

    def _ask(self, hashes: list[str]) -> Standing:
        found = standing.ask(self.node, self.sender.address, hashes, final_block=self.network.final_block)
        if found.chain_id != self.network.chain_id:
            raise NodeAway(f"The node is one of chain {found.chain_id}, not {self.network.chain_id}.")
        Sender.objects.filter(pk=self.sender.pk).update(balance=found.balance, balance_at=self.now)
        gas_costs.note(self.network, base_fee=found.head.base_fee, tip=found.priority_fee)
        return found

    # --- What is under way --------------------------------------------------------------------------------------

    def _follow(self, row: Transaction) -> None:
        receipts = self.standing.receipts
        carried_out = next((form for form in forms.live(row) if form.hash in receipts), None)
        if carried_out is not None:
            self._mined(row, carried_out, receipts[carried_out.hash])
        elif self.standing.nonce > _nonce(row):
            self._overtaken(row)
        else:
            self._keep_going(row)

    def _mined(self, row: Transaction, form: Signed, receipt: Receipt) -> None:
        is_known = row.status == Status.MINED and row.block_hash == receipt.block_hash
        reason = (
            "" if receipt.has_succeeded else row.reason if is_known else self._revert_reason(row, receipt)
        )
        is_final = self._is_final(receipt)
        if is_known and (not is_final or row.next_try_at > self.now):
            return
        if not is_known:
            self._note_mined(row, form, receipt, reason)
        if is_final:
            with database.atomic():
                row = Transaction.objects.select_for_update().get(pk=row.pk)
                status = Status.CONFIRMED if receipt.has_succeeded else Status.REVERTED
                _end(row, status, now=self.now, reason=reason)

    def _note_mined(self, row: Transaction, form: Signed, receipt: Receipt, reason: str) -> None:
        Transaction.objects.filter(pk=row.pk, status__in=IN_FLIGHT, nonce=row.nonce).update(
            status=Status.MINED, hash=form.hash, reason=reason[:1000], block_number=receipt.block_number,
            block_hash=receipt.block_hash, gas_used=receipt.gas_used, gas_price=receipt.gas_price,
            sent_at=row.sent_at or self.now, mined_at=self.now, overtaken_at=None, is_bump_wanted=False, tries=0,
            next_try_at=self.now,
        )  # fmt: skip

    def _is_final(self, receipt: Receipt) -> bool:
        """Whether its block has the confirmations that are wanted, and is the one that was read here too."""
        if receipt.block_number > self.network.final_block:
            return False
        read = Block.objects.filter(network=self.network, number=receipt.block_number).first()
        return read is None or read.hash == receipt.block_hash

    def _revert_reason(self, row: Transaction, receipt: Receipt) -> str:
        """What the contract says to the same call at its block, or before it; nodes do not keep what it said then."""
        for block in (receipt.block_number, receipt.block_number - 1):
            try:
                self.node.call(_call(row), block=block)
            except Refused as refusal:
                if refusal.by_contract and refusal.reason:
                    return refusal.reason
            except NodeAway:
                break
        return "The contract refused it."

    def _overtaken(self, row: Transaction) -> None:
        """Something has used its nonce, and it is none of its forms, as far as the node knows."""
        if row.status == Status.MINED:
            # Its block is gone. Its nonce may be used again by then; that is for the next look to see.
            self._back_to_sent(row)
        elif row.overtaken_at is None:
            Transaction.objects.filter(pk=row.pk).update(
                overtaken_at=self.now,
                reason=f"Something else has used its nonce {row.nonce}: is the key of {row.sender} used elsewhere?",
            )
        elif self._is_spent_for_good(row):
            logger.warning(
                "%s is used elsewhere: nonce %s on %s is not ours. %s gets another one",
                row.sender, row.nonce, self.network, row,
            )  # fmt: skip
            self._give_up_nonce(row)

    @database.atomic
    def _give_up_nonce(self, row: Transaction) -> None:
        asked = {form.hash for form in forms.live(row)}
        row = Transaction.objects.select_for_update().get(pk=row.pk)
        # Not where another form was made since we asked about those.
        if row.status in IN_FLIGHT and {form.hash for form in forms.live(row)} == asked:
            Transaction.objects.filter(pk=row.pk).update(
                status=Status.QUEUED, nonce=None, hash="", overtaken_at=None, next_try_at=self.now
            )

    def _is_spent_for_good(self, row: Transaction) -> bool:
        assert row.overtaken_at is not None
        final_nonce = self.standing.final_nonce
        return (
            final_nonce is not None
            and final_nonce > _nonce(row)
            and self.now - row.overtaken_at >= CERTAIN_AFTER
        )

    def _back_to_sent(self, row: Transaction) -> None:
        Transaction.objects.filter(pk=row.pk, status=Status.MINED).update(
            status=Status.SENT, block_number=None, block_hash="", gas_used=None, gas_price=None, mined_at=None,
            reason="The block that it was in is no longer part of the chain.",
        )  # fmt: skip
        row.refresh_from_db()

    def _keep_going(self, row: Transaction) -> None:
        """It is in no block: send it, once more where need be, or with higher fees."""
        form = forms.live(row)[-1]
        if row.overtaken_at is not None:
            Transaction.objects.filter(pk=row.pk).update(overtaken_at=None)
        if row.status == Status.MINED:
            self._back_to_sent(row)
            self._send(row, form)
        elif row.next_try_at > self.now:
            return
        elif self._is_stuck(row, form):
            self._bump(row, form)
        elif row.status == Status.SIGNED or form.sent_at is None or self.now - form.sent_at >= RESEND_AFTER:
            self._send(row, form)

    def _is_stuck(self, row: Transaction, form: Signed) -> bool:
        if row.is_bump_wanted:
            return True
        if row.status != Status.SENT or self.now - form.signed_at < self.bump_after:
            return False
        # What only waits for an earlier one is not made dearer.
        return row.nonce == self.lowest or form.max_fee < self.standing.head.base_fee

    def _send(self, row: Transaction, form: Signed) -> None:
        """Hand in a form that is written down. Raises NodeAway."""
        try:
            self.node.send(bytes.fromhex(form.raw.removeprefix("0x")))
        except Refused as refusal:
            self._not_taken(row, refusal.reason)
            return
        Signed.objects.filter(pk=form.pk).update(sent_at=self.now)
        Transaction.objects.filter(pk=row.pk, status__in=(Status.SIGNED, Status.SENT)).update(
            status=Status.SENT, sent_at=row.sent_at or self.now, hash=form.hash, reason="", tries=0
        )
        # A development chain has it in a block already.
        bells.ring("follow_networks")

    def _not_taken(self, row: Transaction, said: str) -> None:
        text = said.lower()
        if "nonce too low" in text or "nonce is too low" in text or "oldnonce" in text:
            # One of its forms is in a block already, or something else is: the next look tells.
            return
        if "insufficient funds" in text or "upfront cost" in text:
            logger.warning("%s cannot pay for gas on %s: %s", row.sender, self.network, said)
        else:
            # Fees that are too low, or a limit of gas: another form may be taken.
            Transaction.objects.filter(pk=row.pk).update(is_bump_wanted=True)
        _wait(row, self.now, reason=f"The node does not take it: {said}")

    def _bump(self, row: Transaction, form: Signed) -> None:
        higher = fees.raised(
            Fees(form.max_fee, form.priority_fee),
            base_fee=self.standing.head.base_fee,
            tip=self.standing.priority_fee,
            limit=self.limit,
        )
        if higher is None:
            said = f"It is stuck, and higher fees would pass the limit of {settings.CHAIN_MAX_FEE_GWEI} gwei."
            logger.warning("Transaction %s on %s: %s", row, self.network, said)
            self._send(row, form)
            _wait(row, self.now, reason=said)
            return
        made = forms.replacement(row, form, at=higher, now=self.now)
        if made is not None:
            self._send(row, made)

    # --- What begins --------------------------------------------------------------------------------------------

    def _begin_all(self, due: list[Transaction], *, room: int) -> None:
        deadline, away = time.monotonic() + ROUND_S, 0
        for row in due[: max(room, 0)]:
            try:
                self._begin(row)
            except NodeAway as error:
                away += 1
                _wait(row, self.now, reason=error.message)
                if away > 1:
                    raise
            if time.monotonic() > deadline:
                break

    def _begin(self, row: Transaction) -> None:
        try:
            has_key = row.sender in keys.addresses()
        except keys.BadKey as error:
            return _wait(row, self.now, reason=error.message)
        if not has_key:
            return _wait(row, self.now, reason=f"The key of {row.sender} is not here.")
        if why := outbox.reason_to_wait(row):
            return _wait(row, self.now, reason=why)
        at = fees.usual(
            base_fee=self.standing.head.base_fee, tip=self.standing.priority_fee, limit=self.limit
        )
        if at is None:
            dear = f"Gas costs more than the limit of {settings.CHAIN_MAX_FEE_GWEI} gwei at the moment."
            return _wait(row, self.now, reason=dear)
        gas = self._gas(row)
        if gas is None or not self._is_affordable(row, gas, at):
            return None
        form = forms.first(row, self.sender, standing=self.standing, gas=gas, at=at, now=self.now)
        if form is not None:
            self._send(row, form)
        return None

    def _gas(self, row: Transaction) -> int | None:
        """The limit of gas; None where it would fail, which is written down."""
        try:
            if row.gas is None:
                return fees.gas_limit(self.node.estimate(_call(row)))
            self.node.call({**_call(row), "gas": row.gas})
            return row.gas
        except Refused as refusal:
            if not refusal.by_contract and not _would_fail(refusal.reason):
                _wait(row, self.now, reason=f"The node cannot say what it costs: {refusal.reason}")
                return None
            with database.atomic():
                row = Transaction.objects.select_for_update().get(pk=row.pk)
                if row.status == Status.QUEUED:
                    _end(row, Status.REFUSED, now=self.now, reason=refusal.message)
            return None

    def _is_affordable(self, row: Transaction, gas: int, at: Fees) -> bool:
        cost = gas * at.max_fee + row.value
        free = self.standing.balance - self.committed
        if cost <= free:
            self.committed += cost
            return True
        reason = (
            f"{row.sender} has {money.render(max(free, 0))} coins free for value and gas; this may need "
            f"{money.render(cost)}. Send coins there."
        )
        logger.warning("Transaction %s on %s waits: %s", row, self.network, reason)
        _wait(row, self.now, reason=reason)
        return False

    def _fill_gap(self, under_way: list[Transaction]) -> None:
        """Have a nonce used up that something else had used, and that a reorganisation has freed."""
        nonce = self.standing.nonce
        waiting = [row for row in under_way if _is_unmined(row)]
        is_old = any(row.sent_at is not None and self.now - row.sent_at >= self.bump_after for row in waiting)
        if not is_old or min(map(_nonce, waiting)) <= nonce or self.standing.pending_nonce != nonce:
            return
        if forms.is_gap(self.network, self.sender.address, nonce):
            outbox.queue(
                network=self.network, purpose=Purpose.FILL, sender=self.sender.address, to=self.sender.address,
                reference=f"fill:{self.network.chain_id}:{self.sender.address}:{nonce}", data="",
                gas=fees.PLAIN_SENDING,
            )  # fmt: skip


_FAILURES = ("out of gas", "execution failed", "invalid opcode", "stack underflow", "invalid jump")


def _would_fail(said: str) -> bool:
    return any(words in said.lower() for words in _FAILURES)


def _call(row: Transaction) -> ethereum.TxParams:
    return {"from": row.sender, "to": row.to, "value": row.value, "data": row.data or "0x"}  # type: ignore[typeddict-item]


def _nonce(row: Transaction) -> int:
    assert row.nonce is not None
    return row.nonce


def _is_unmined(row: Transaction) -> bool:
    return row.status in (Status.SIGNED, Status.SENT)
