"""What fulfilments of tasks on chains say about money, for comparison with the ledger."""

from collections.abc import Sequence

from chain.models import Fulfilment
from clients import books
from clients.books import Check, Purpose, Standing


def _standings(ids: Sequence[int]) -> dict[int, Standing]:
    # Nothing is held for it: it is paid when it is confirmed.
    return {
        each.pk: Standing(each.status, ended=each.has_ended) for each in Fulfilment.objects.filter(pk__in=ids)
    }


books.know(Purpose(prefix="fulfilment", page="chain_fulfilment", standings=_standings))

books.watch(
    Check(
        says="Each confirmed task of a chain that was paid has its transfer, and each of these transfers its task: the "
        "same amount and fee, from the outside world to whoever did the work, or to the fees.",
        page="chain_fulfilment",
        sql="""
        SELECT coalesce(t.reference, 'fulfilment:' || f.id), f.id, coalesce(f.paid, 0), coalesce(t.amount, 0),
            CASE WHEN t.reference IS NULL THEN 'confirmed and paid, without a transfer'
                WHEN f.id IS NULL THEN 'a transfer without a confirmed task'
                WHEN f.paid <> t.amount THEN 'another amount'
                WHEN f.fee <> t.fee THEN 'the same amount, another fee'
                ELSE 'between other people' END
        FROM (SELECT id, paid, fee, provider_id FROM chain_fulfilment WHERE status = 'confirmed' AND paid > 0) f
        FULL JOIN (
            SELECT t.reference, t.amount, t.fee, source.kind AS source, destination.client_id AS payee
            FROM clients_transfer t
            LEFT JOIN clients_account source ON source.id = t.source_id
            LEFT JOIN clients_account destination ON destination.id = t.destination_id
            WHERE t.kind = 'onchain' AND t.reference LIKE 'fulfilment:%'
        ) t ON t.reference = 'fulfilment:' || f.id
        WHERE (f.paid, f.fee, f.provider_id, 'outside') IS DISTINCT FROM (t.amount, t.fee, t.payee, t.source)
        """,
    ),
    Check(
        says="No task of a chain is paid that was not confirmed.",
        page="chain_fulfilment",
        sql="""
        SELECT 'fulfilment:' || f.id, f.id, 0, f.paid, f.status
        FROM chain_fulfilment f
        WHERE f.status <> 'confirmed' AND f.paid IS NOT NULL
        """,
    ),
)
