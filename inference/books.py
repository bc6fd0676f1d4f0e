"""What requests say about money, for comparison with the ledger."""

from collections.abc import Sequence
from datetime import timedelta

from django.conf import settings

from clients import books
from clients.books import Check, Purpose, Standing
from inference.models import Inference, Status
from inference.records import GRACE


def _standings(ids: Sequence[int]) -> dict[int, Standing]:
    longest = timedelta(seconds=settings.REQUEST_DEADLINE_S) + GRACE
    rows = Inference.objects.filter(pk__in=ids).values_list("pk", "status", "created_at")
    return {
        pk: Standing(status, ended=status != Status.RUNNING, due=created_at + longest)
        for pk, status, created_at in rows
    }


books.know(Purpose(prefix="inference", page="inference_inference", standings=_standings))

books.watch(
    Check(
        says="Each request that was charged has its transfer, and each of these transfers its request: the same "
        "amount, the same fee, from its consumer to its provider.",
        page="inference_inference",
        sql="""
        SELECT coalesce(t.reference, 'inference:' || i.id), i.id, coalesce(i.charged, 0), coalesce(t.amount, 0),
            CASE WHEN t.reference IS NULL THEN 'charged, without a transfer'
                WHEN i.id IS NULL THEN 'a transfer without a request that was charged'
                WHEN i.charged <> t.amount THEN 'another amount'
                WHEN i.fee <> t.fee THEN 'the same amount, another fee'
                ELSE 'between other people' END
        FROM (
            SELECT id, charged, fee, client_id, provider_id FROM inference_inference WHERE charged > 0
        ) i
        FULL JOIN (
            SELECT t.reference, t.amount, t.fee, source.client_id AS payer, destination.client_id AS payee
            FROM clients_transfer t
            LEFT JOIN clients_account source ON source.id = t.source_id
            LEFT JOIN clients_account destination ON destination.id = t.destination_id
            WHERE t.kind = 'inference'
        ) t ON t.reference = 'inference:' || i.id
        WHERE (i.charged, i.fee, i.client_id, i.provider_id) IS DISTINCT FROM (t.amount, t.fee, t.payer, t.payee)
        """,
    ),
    Check(
        says="Money is held only for requests that run.",
        page="inference_inference",
        sql="""
        SELECT h.reference, i.id, 0, h.amount - h.captured, coalesce(i.status, 'there is no such request')
        FROM clients_hold h
        LEFT JOIN inference_inference i
            ON i.id = CASE WHEN h.reference ~ '^inference:[0-9]{1,18}$' THEN substr(h.reference, 11)::bigint END
        WHERE h.ended_at IS NULL AND h.reference LIKE 'inference:%' AND i.status IS DISTINCT FROM 'running'
        """,
    ),
)
