"""The only module that moves money.

Every movement names a unique reference; repeating a call returns what the first one did. Accounts are locked in the
order of their ids. What must be quick, holds and settlements, is done by two functions of the database
(`clients/migrations/0002_ledger.sql`), here one at a time and on the hot path in groups (`HOLD`, `LOCK`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Q, Sum

from clients.models import Account, AccountKind, Hold, Transfer, TransferKind
from clients.models.ledger import UNBOUNDED_KINDS
from marketplace import money
from marketplace.errors import Conflict, InvalidRequest, MarketplaceError, PaymentRequired, TooManyRequests
from marketplace.groupcommit import Statement

# Locks the accounts that a batch will touch, in one order for all processes: $1 is a JSON array of client ids.
LOCK = Statement(
    "ledger_lock",
    """
    SELECT count(*) FROM (
        SELECT id FROM clients_account
        WHERE kind = 'spendable' AND client_id IN (SELECT value::bigint FROM json_array_elements_text($1))
        ORDER BY id FOR NO KEY UPDATE
    ) AS locked
    """,
)


# Holds on accounts that have no limits and enough money, many at once. Whoever is not served here asks `ledger_hold`.
# $1: [{"reference", "client_id", "api_key_id", "amount", "tokens"}].
HOLD = Statement(
    "ledger_hold_quickly",
    """
    WITH said AS MATERIALIZED (
        SELECT * FROM json_to_recordset($1)
            AS row (reference text, client_id bigint, api_key_id bigint, amount numeric, tokens bigint)
    ), able AS MATERIALIZED (
        SELECT a.id, a.client_id
        FROM (SELECT client_id, sum(amount) AS total FROM said GROUP BY client_id) AS wanted
        JOIN clients_account a ON a.client_id = wanted.client_id AND a.kind = 'spendable'
            AND NOT a.limited AND a.balance - a.held >= wanted.total
        WHERE a.client_id = ANY (ARRAY(SELECT client_id FROM said))
        FOR NO KEY UPDATE OF a
    ), held AS (
        INSERT INTO clients_hold (reference, account_id, api_key_id, amount, captured, tokens, created_at, outcome)
        SELECT said.reference, able.id, said.api_key_id, said.amount, 0, said.tokens, clock_timestamp(), ''
        FROM said JOIN able USING (client_id)
        ON CONFLICT DO NOTHING
        RETURNING account_id, amount
    )
    UPDATE clients_account a SET held = a.held + more.amount
    FROM (SELECT account_id, sum(amount) AS amount FROM held GROUP BY account_id) AS more
    WHERE a.id = more.account_id
    """,
    locks="client_id",
)

# What `ledger_settle` does, for holds that end for good and leave no trace, to payees whose accounts are known.
# $1: [{"reference", "client_id", "captured", "fee", "payee", "fees" (accounts), "kind", "tokens", "stripe"}].
SETTLE = Statement(
    "ledger_settle_quickly",
    """
    WITH said AS MATERIALIZED (
        -- Each once: what is said twice in one batch must not be taken twice.
        SELECT DISTINCT ON (reference) * FROM json_to_recordset($1) AS row (
            reference text, captured numeric, fee numeric, payee bigint, fees bigint, kind text, tokens bigint,
            stripe smallint)
    ), gone AS (
        DELETE FROM clients_hold h
        WHERE h.reference = ANY (ARRAY(SELECT reference FROM said)) AND h.ended_at IS NULL
        RETURNING h.reference, h.account_id, h.api_key_id, h.created_at, h.grown_at, h.grown_day, h.grown_month,
            h.amount - h.captured AS amount, h.tokens AS reserved_tokens
    ), ended AS MATERIALIZED (
        SELECT h.account_id, h.api_key_id, h.created_at, h.grown_at, h.grown_day, h.grown_month, h.amount,
            h.reserved_tokens, said.*
        FROM said JOIN gone h ON h.reference = said.reference
    ), posted AS (
        INSERT INTO clients_transfer (reference, kind, source_id, destination_id, amount, fee, memo, at)
        SELECT reference, kind, account_id, payee, captured, fee, '', clock_timestamp() FROM ended WHERE captured > 0
    ), taken AS (
        UPDATE clients_account a SET balance = a.balance - each.captured, held = a.held - each.amount
        FROM (
            SELECT account_id, sum(captured) AS captured, sum(amount) AS amount FROM ended GROUP BY account_id
        ) AS each
        WHERE a.id = each.account_id
        RETURNING a.id, a.client_id, a.limited
    ), given AS (
        INSERT INTO clients_stripe (account_id, number, balance)
        SELECT id, stripe, sum(amount) FROM (
            SELECT payee AS id, stripe, captured - fee AS amount FROM ended
            UNION ALL SELECT fees, stripe, fee FROM ended WHERE captured > 0
        ) AS due
        WHERE amount > 0
        GROUP BY id, stripe ORDER BY id, stripe
        ON CONFLICT (account_id, number) DO UPDATE SET balance = clients_stripe.balance + excluded.balance
    )
    UPDATE clients_allowance l SET
        running = greatest(l.running - each.ended, 0),
        minute_tokens = greatest(l.minute_tokens - each.minute_tokens, 0),
        day_used = greatest(l.day_used - each.day, 0),
        month_used = greatest(l.month_used - each.month, 0),
        total_used = greatest(l.total_used - each.total, 0)
    FROM (
        SELECT l.id, count(*) AS ended,
            coalesce(sum(e.reserved_tokens - e.tokens)
                FILTER (WHERE l.minute = date_trunc('minute', e.created_at)), 0) AS minute_tokens,
            sum(hold_back(e.amount - e.captured, e.created_at, e.grown_at, e.grown_day, 'day', l.day)) AS day,
            sum(hold_back(e.amount - e.captured, e.created_at, e.grown_at, e.grown_month, 'month', l.day)) AS month,
            sum(e.amount - e.captured) AS total
        FROM ended e
        JOIN taken ON taken.id = e.account_id AND taken.limited
        JOIN clients_allowance l
            ON l.client_id = taken.client_id AND (l.api_key_id IS NULL OR l.api_key_id = e.api_key_id)
        GROUP BY l.id
    ) AS each
    WHERE l.id = each.id
    """,
    locks="client_id",
)


class InsufficientFunds(PaymentRequired):
    """The account holds less than this costs. Details: `available`, `needed`, decimal strings of tokens."""

    code = "insufficient_balance"


class BudgetExceeded(TooManyRequests):
    """A budget of the account or the API key is used up, for the day, the month, or altogether."""

    code, should_retry = "budget_exceeded", False


class RateLimited(TooManyRequests):
    """Requests or tokens per minute, or requests at the same time, are more than a limit allows."""

    code = "rate_limit_exceeded"


class HoldEnded(Conflict):
    code, message = "hold_ended", "What this money was reserved for has ended already."


class ReferenceTaken(Conflict):
    code, message = "reference_taken", "Another movement of money has this reference already."


class CannotReverse(Conflict):
    code = "cannot_be_reversed"


def account(client_id: int | None, kind: AccountKind) -> Account:
    """The account of a client, or of the marketplace (`None`); made where it is missing."""
    owner = Q(client=None) if client_id is None else Q(client_id=client_id)
    found = Account.objects.filter(owner, kind=kind).first()
    if found is None:
        (pk,) = _call("SELECT ledger_account(%s, %s)", [client_id, kind.value])
        found = Account.objects.get(pk=pk)
    return found


def balance(owned: Account) -> int:
    """What an account holds, the held part included, as of now."""
    return balances([owned])[owned.pk][0]


def balances(owned: list[Account]) -> dict[int, tuple[int, int]]:
    """(what it holds, how much of that is held) by account id, at one moment."""
    ids = [each.pk for each in owned]
    with transaction.atomic():
        # One statement, since between two of them a process may gather stripes.
        rows = Account.objects.filter(pk__in=ids).annotate(striped=Sum("stripes__balance"))
        return {row.pk: (row.balance + int(row.striped or 0), row.held) for row in rows}


@transaction.atomic
def transfer(
    *,
    source: Account,
    destination: Account,
    amount: int,
    reference: str,
    kind: TransferKind,
    fee: int = 0,
    memo: str = "",
    by_id: int | None = None,
    reverses: Transfer | None = None,
) -> Transfer:
    """Move money exactly once, `fee` of it to the marketplace; a repeated reference returns the first transfer.

    Raises InsufficientFunds, ReferenceTaken when that transfer was another one.
    """
    if amount <= 0 or not 0 <= fee <= amount or source.pk == destination.pk:
        raise InvalidRequest("Money moves from one account to another, and more than nothing.")
    fees = [account(None, AccountKind.FEES).pk] if fee else []
    locked = _lock(source.pk, destination.pk, *fees)
    done = _done(reference, source, destination, amount)
    if done is not None:
        return done
    payer = locked[source.pk]
    if payer.kind not in UNBOUNDED_KINDS:
        _check_funds(payer, amount)
    Account.objects.filter(pk=source.pk).update(balance=F("balance") - amount)
    Account.objects.filter(pk=destination.pk).update(balance=F("balance") + amount - fee)
    Account.objects.filter(pk__in=fees).update(balance=F("balance") + fee)
    return Transfer.objects.create(
        source=source,
        destination=destination,
        amount=amount,
        fee=fee,
        reference=reference,
        kind=kind,
        memo=memo,
        by_id=by_id,
        reverses=reverses,
    )


@transaction.atomic
def hold(
    *,
    reference: str,
    client_id: int,
    amount: int,
    kind: AccountKind = AccountKind.SPENDABLE,
    api_key_id: int | None = None,
    tokens: int | None = 0,
) -> Hold:
    """Reserve money for what is about to begin. An open hold with this reference grows to `amount`.

    `tokens` is the most that a request can use; None is not a request, and only budgets bind it.

    Raises InsufficientFunds, BudgetExceeded, RateLimited, HoldEnded.
    """
    row = {
        "reference": reference,
        "client_id": client_id,
        "account": kind.value,
        "api_key_id": api_key_id,
        "amount": str(amount),
        "tokens": tokens,
    }
    for _, code, details in _rows("SELECT * FROM ledger_hold(%s)", [json.dumps([row])]):
        if code:
            raise refusal(code, details, is_request=tokens is not None)
    return Hold.objects.get(pk=reference)


@transaction.atomic
def settle(
    *,
    reference: str,
    amount: int,
    payee_id: int | None,
    kind: TransferKind,
    payee_kind: AccountKind = AccountKind.EARNED,
    fee: int = 0,
    memo: str = "",
    by_id: int | None = None,
    tokens: int | None = None,
) -> bool:
    """End a hold: take `amount` of it, `fee` thereof for the marketplace, and free the rest.

    False when it has ended before; nothing moves then. Raises InvalidRequest for more than is held.
    """
    return _settle(
        reference=reference, captured=amount, payee_client=payee_id, payee_kind=payee_kind.value, fee=fee,
        kind=kind.value, memo=memo, by_id=by_id, tokens=tokens,
    )  # fmt: skip


@transaction.atomic
def capture(
    *,
    reference: str,
    amount: int,
    transfer_reference: str,
    payee_id: int | None,
    kind: TransferKind,
    payee_kind: AccountKind = AccountKind.EARNED,
    fee: int = 0,
    memo: str = "",
) -> bool:
    """Take a part of an open hold and keep the rest held; False when that was done before, or the hold has ended."""
    return _settle(
        reference=reference, captured=amount, payee_client=payee_id, payee_kind=payee_kind.value, fee=fee,
        kind=kind.value, memo=memo, transfer=transfer_reference, final=False,
    )  # fmt: skip


@transaction.atomic
def release(reference: str) -> bool:
    """End a hold and take nothing of it; False when it has ended before."""
    return _settle(reference=reference, captured=0, tokens=0)


@transaction.atomic
def release_all(references: Sequence[str]) -> int:
    """End all of these holds that are still open, and take nothing; how many."""
    rows = [{"reference": reference, "captured": 0, "tokens": 0} for reference in references]
    return len(_rows("SELECT ledger_settle(%s)", [json.dumps(rows)]))


def lock(client_ids: Collection[int], *, payees: Collection[int] = ()) -> None:
    """Lock what clients spend from until the transaction ends, and what others earn on and the fees' account where
    these will be paid more than once: all in one order.
    """
    accounts = Q(client_id__in=client_ids, kind=AccountKind.SPENDABLE)
    if payees:
        for pk in sorted(set(payees)):
            account(pk, AccountKind.EARNED)
        accounts |= Q(client_id__in=payees, kind=AccountKind.EARNED) | Q(kind=AccountKind.FEES)
        account(None, AccountKind.FEES)
    locked = Account.objects.filter(accounts).select_for_update(no_key=True).order_by("pk")
    list(locked.values_list("pk"))


def grant(*, client_id: int, amount: int, reference: str, reason: str, by_id: int | None) -> Transfer:
    """Give a client credit that nobody has paid for. Raises ReferenceTaken."""
    return transfer(
        source=account(None, AccountKind.GRANTS),
        destination=account(client_id, AccountKind.SPENDABLE),
        amount=amount,
        reference=reference,
        kind=TransferKind.GRANT,
        memo=reason,
        by_id=by_id,
    )


@transaction.atomic
def reverse(original: Transfer, *, reason: str, by_id: int | None) -> Transfer:
    """Give back what a transfer took, its fee included, by further transfers; once.

    Raises InsufficientFunds when the payee no longer has it, CannotReverse for a reversal.
    """
    if original.kind == TransferKind.REVERSAL:
        raise CannotReverse("This is a reversal itself. Make the transfer again instead.")
    reference = f"reverse:{original.reference}"
    common: dict[str, Any] = {"kind": TransferKind.REVERSAL, "memo": reason, "by_id": by_id}
    fees = account(None, AccountKind.FEES)
    _lock(original.source_id, original.destination_id, fees.pk)
    # Stripes in the order of their accounts, as settlements lock them.
    for pk in sorted({original.destination_id, fees.pk}):
        _call("SELECT ledger_gather(%s)", [pk])
    back: Transfer | None = None
    if original.amount > original.fee:
        back = transfer(
            source=original.destination, destination=original.source, amount=original.amount - original.fee,
            reference=reference, reverses=original, **common,
        )  # fmt: skip
    if original.fee:
        of_fee = transfer(
            source=fees, destination=original.source, amount=original.fee,
            reference=f"{reference}:fee" if back else reference, reverses=None if back else original, **common,
        )  # fmt: skip
        back = back or of_fee
    assert back is not None
    return back


def refusal(code: str, details: Mapping[str, Any] | None, *, is_request: bool = True) -> MarketplaceError:
    """The error for what `ledger_hold` refused. A request may turn out to cost less than it needs."""
    if code == "hold_ended" or details is None:
        return HoldEnded()
    if code == "insufficient_balance":
        available, needed = int(Decimal(details["available"])), int(Decimal(details["needed"]))
        return InsufficientFunds(
            f"This {'can cost up to' if is_request else 'needs'} {money.named(needed)}; "
            f"{money.named(available)} are available.",
            details={"available": money.render(available), "needed": money.render(needed)},
        )
    if details["limit"].startswith("budget_"):
        return _budget_exceeded(details)
    return _rate_limited(details)


def _budget_exceeded(details: Mapping[str, Any]) -> BudgetExceeded:
    numbers = {name: int(Decimal(details[name])) for name in ("allowed", "used", "needed")}
    whose = "this API key" if details["scope"] == "api_key" else "this account"
    period = {"budget_day": " for today (UTC)", "budget_month": " for this month (UTC)"}.get(
        details["limit"], ""
    )
    return BudgetExceeded(
        f"The budget of {whose}{period} is {money.named(numbers['allowed'])}; {money.render(numbers['used'])} "
        f"are spent or held, and this can cost up to {money.render(numbers['needed'])}.",
        details={
            **{name: money.render(number) for name, number in numbers.items()},
            "limit": details["limit"],
            "scope": details["scope"],
        },
        retry_after=details.get("retry_after"),
    )


_PER = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "concurrency": "requests at the same time",
}


def _rate_limited(details: Mapping[str, Any]) -> RateLimited:
    whose = "this API key" if details["scope"] == "api_key" else "this account"
    sentence = (
        f"The limit of {whose} is {details['allowed']} {_PER[details['limit']]}; {details['used']} are used, "
        f"and this needs {details['needed']}."
    )
    if details.get("retry_after") is None:
        sentence += (
            " No single request may need more than the limit: ask for less, such as a smaller max_tokens."
        )
    return RateLimited(
        sentence,
        details={name: details[name] for name in ("limit", "scope", "allowed", "used", "needed")},
        retry_after=details.get("retry_after"),
    )


def _settle(**row: Any) -> bool:
    captured, still_open = row["captured"], Hold.objects.filter(pk=row["reference"], ended_at=None)
    if captured:
        seen = still_open.first()
        if seen is None:
            return False
        # Under the lock, so that nobody takes a part of it meanwhile.
        _lock(seen.account_id)
        held = still_open.first()
        if held is None:
            return False
        left = held.amount - held.captured
        if captured > left:
            raise InvalidRequest(
                f"{money.named(captured)} is more than the {money.named(left)} that are held."
            )
    said = {**row, "captured": str(captured), "fee": str(row.get("fee", 0))}
    return bool(_rows("SELECT ledger_settle(%s)", [json.dumps([said])]))


def _lock(*ids: int) -> dict[int, Account]:
    return {
        row.pk: row
        for row in Account.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    }


def _check_funds(payer: Account, amount: int) -> None:
    """Raise InsufficientFunds unless a locked account has so much free; its stripes are gathered if need be."""
    if payer.balance - payer.held < amount:
        _call("SELECT ledger_gather(%s)", [payer.pk])
        payer.refresh_from_db()
    free = payer.balance - payer.held
    if free < amount:
        raise InsufficientFunds(
            f"{money.named(amount)} are needed; {money.named(max(free, 0))} are available.",
            details={"available": money.render(max(free, 0)), "needed": money.render(amount)},
        )


def _done(reference: str, source: Account, destination: Account, amount: int) -> Transfer | None:
    found = Transfer.objects.filter(reference=reference).first()
    if found is not None and (found.source_id, found.destination_id, found.amount) != (
        source.pk,
        destination.pk,
        amount,
    ):
        raise ReferenceTaken()
    return found


def _call(sql: str, parameters: list[Any]) -> Any:
    return _rows(sql, parameters)[0]


def _rows(sql: str, parameters: list[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()
