"""What deposits and withdrawals say about money, for comparison with the ledger."""

from collections.abc import Sequence

from chain.models import OPEN_WITHDRAWALS, Deposit, DepositStatus, Withdrawal
from clients import books
from clients.books import Check, Purpose, Standing


def _withdrawals(ids: Sequence[int]) -> dict[int, Standing]:
    # An operator may take time to decide, and a chain to confirm.
    return {
        row.pk: Standing(row.get_status_display(), ended=row.status not in OPEN_WITHDRAWALS)
        for row in Withdrawal.objects.filter(pk__in=ids)
    }


def _deposits(ids: Sequence[int]) -> dict[int, Standing]:
    # Nothing is held for it: it is credited when it is final.
    return {
        row.pk: Standing(row.get_status_display(), ended=row.status != DepositStatus.SEEN)
        for row in Deposit.objects.filter(pk__in=ids)
    }


books.know(
    Purpose(prefix="withdrawal", page="chain_withdrawal", standings=_withdrawals),
    Purpose(prefix="deposit", page="chain_deposit", standings=_deposits),
)

books.watch(
    Check(
        says="Each deposit from a chain that was credited has its transfer, and each of these transfers its deposit: "
        "the same amount, to whoever it is for.",
        page="chain_deposit",
        sql="""
        SELECT coalesce(t.reference, 'deposit:' || d.id || ':' || d.credits), d.id, coalesce(d.amount, 0),
            coalesce(t.amount, 0),
            CASE WHEN t.reference IS NULL THEN 'credited, without a transfer'
                WHEN d.id IS NULL THEN 'a transfer without a deposit that was credited'
                WHEN d.amount <> t.amount THEN 'another amount'
                ELSE 'between other people' END
        FROM (SELECT * FROM chain_deposit WHERE credits > 0) d
        FULL JOIN (
            SELECT t.reference, t.amount, source.kind AS source, destination.client_id AS payee
            FROM clients_transfer t
            LEFT JOIN clients_account source ON source.id = t.source_id
            LEFT JOIN clients_account destination ON destination.id = t.destination_id
            WHERE t.kind = 'deposit' AND t.reference ~ '^deposit:[0-9]{1,18}:[0-9]{1,9}$'
        ) t ON t.reference = 'deposit:' || d.id || ':' || d.credits
        WHERE (d.amount, d.client_id, 'outside') IS DISTINCT FROM (t.amount, t.payee, t.source)
            -- It may stand there with another amount since the credit was taken back.
            AND NOT (coalesce(d.status, '') IN ('seen', 'unclaimed', 'reversed') AND t.reference IS NOT NULL)
            -- What was credited before it was taken back stays a transfer.
            AND NOT (d.id IS NULL AND EXISTS (
                SELECT 1 FROM chain_deposit o
                WHERE o.id = split_part(t.reference, ':', 2)::bigint
                    AND split_part(t.reference, ':', 3)::int < o.credits))
        """,
    ),
    Check(
        says="Each deposit that was taken back has the reversal of its transfer.",
        page="chain_deposit",
        sql="""
        SELECT 'deposit:' || d.id || ':' || d.credits, d.id, t.amount, coalesce(sum(back.amount), 0), d.status
        FROM chain_deposit d
        JOIN clients_transfer t ON t.reference = 'deposit:' || d.id || ':' || d.credits
        LEFT JOIN clients_transfer back ON back.reverses_id = t.id
        WHERE d.status = 'reversed' AND d.credits > 0
        GROUP BY d.id, d.credits, d.status, t.amount HAVING t.amount <> coalesce(sum(back.amount), 0)
        """,
    ),
    Check(
        says="Each withdrawal that was paid has its transfer, and each of these transfers its withdrawal: the same "
        "amount, from its client to the outside world.",
        page="chain_withdrawal",
        sql="""
        SELECT coalesce(t.reference, 'withdrawal:' || w.number), w.number, coalesce(w.amount, 0), coalesce(t.amount, 0),
            CASE WHEN t.reference IS NULL THEN 'paid, without a transfer'
                WHEN w.number IS NULL THEN 'a transfer without a withdrawal that was paid'
                WHEN w.amount <> t.amount THEN 'another amount'
                ELSE 'between other people' END
        FROM (SELECT number, amount, client_id FROM chain_withdrawal WHERE status = 'confirmed') w
        FULL JOIN (
            SELECT t.reference, t.amount, source.client_id AS payer, destination.kind AS payee
            FROM clients_transfer t
            LEFT JOIN clients_account source ON source.id = t.source_id
            LEFT JOIN clients_account destination ON destination.id = t.destination_id
            WHERE t.kind = 'withdrawal'
        ) t ON t.reference = 'withdrawal:' || w.number
        WHERE (w.amount, w.client_id, 'outside') IS DISTINCT FROM (t.amount, t.payer, t.payee)
        """,
    ),
    Check(
        says="Each withdrawal that is under way has its money held, and no other withdrawal has.",
        page="chain_withdrawal",
        sql="""
        SELECT coalesce(h.reference, 'withdrawal:' || w.number), w.number,
            CASE WHEN w.status IN ('requested', 'approved', 'sending') THEN w.amount ELSE 0 END, coalesce(h.amount, 0),
            coalesce(w.status, 'there is no such withdrawal')
        FROM chain_withdrawal w
        FULL JOIN (
            SELECT reference, amount - captured AS amount FROM clients_hold
            WHERE ended_at IS NULL AND reference LIKE 'withdrawal:%'
        ) h ON h.reference = 'withdrawal:' || w.number
        WHERE w.number IS NULL
            OR CASE WHEN w.status IN ('requested', 'approved', 'sending') THEN w.amount ELSE 0 END
                <> coalesce(h.amount, 0)
        """,
    ),
)
