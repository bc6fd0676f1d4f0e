"""What leases say about money, for comparison with the ledger."""

from collections.abc import Sequence

from clients import books
from clients.books import Check, Purpose, Standing
from gpus.models import Lease


def _standings(ids: Sequence[int]) -> dict[int, Standing]:
    return {
        lease.pk: Standing(
            lease.end_code or ("ended" if lease.ended_at else "running"),
            ended=lease.ended_at is not None,
            due=lease.expires_at,
        )
        for lease in Lease.objects.filter(pk__in=ids)
    }


books.know(Purpose(prefix="lease", page="gpus_lease", standings=_standings))

books.watch(
    Check(
        says="What each lease was charged is what its transfers paid, and all of these transfers have a lease.",
        page="gpus_lease",
        sql="""
        SELECT 'lease:' || coalesce(l.id::text, t.lease), l.id, coalesce(l.charged, 0), coalesce(t.amount, 0),
            CASE WHEN t.lease IS NULL THEN 'charged, without a transfer' WHEN l.id IS NULL THEN 'no such lease'
                WHEN l.charged <> t.amount THEN 'another amount' ELSE 'the same amount, another fee' END
        FROM (SELECT id, charged, fee FROM gpus_lease) l
        FULL JOIN (
            SELECT split_part(reference, ':', 2) AS lease, sum(amount) AS amount, sum(fee) AS fee
            FROM clients_transfer WHERE kind = 'allocation' GROUP BY 1
        ) t ON t.lease = l.id::text
        WHERE (coalesce(l.charged, 0), coalesce(l.fee, 0)) <> (coalesce(t.amount, 0), coalesce(t.fee, 0))
        """,
    ),
    Check(
        says="Money is held only for leases that run.",
        page="gpus_lease",
        sql="""
        SELECT h.reference, l.id, 0, h.amount - h.captured, coalesce(l.end_code, 'there is no such lease')
        FROM clients_hold h
        LEFT JOIN gpus_lease l
            ON l.id = CASE WHEN h.reference ~ '^lease:[0-9]{1,18}$' THEN substr(h.reference, 7)::bigint END
        WHERE h.ended_at IS NULL AND h.reference LIKE 'lease:%' AND (l.id IS NULL OR l.ended_at IS NOT NULL)
        """,
    ),
)
