"""What fine-tuning jobs say about money, for comparison with the ledger."""

from collections.abc import Sequence

from clients import books
from clients.books import Check, Purpose, Standing
from finetune.models import Job


def _standings(ids: Sequence[int]) -> dict[int, Standing]:
    # A job may wait for a place, or rest, for as long as its owner wants.
    return {job.pk: Standing(job.status, ended=job.has_ended) for job in Job.objects.filter(pk__in=ids)}


books.know(Purpose(prefix="training", page="finetune_job", standings=_standings))

books.watch(
    Check(
        says="Each fine-tuning job that was charged has its transfer, and each of these transfers its job: the same "
        "amount and fee, from its owner to whoever trained it.",
        page="finetune_job",
        sql="""
        SELECT coalesce(t.reference, 'training:' || j.id || ':' || j.run), j.id, coalesce(j.charged, 0),
            coalesce(t.amount, 0),
            CASE WHEN t.reference IS NULL THEN 'charged, without a transfer'
                WHEN j.id IS NULL THEN 'a transfer without a job that was charged'
                WHEN j.charged <> t.amount THEN 'another amount'
                WHEN j.fee <> t.fee THEN 'the same amount, another fee'
                ELSE 'between other people' END
        FROM (SELECT id, run, charged, fee, owner_id, provider_id FROM finetune_job WHERE charged > 0) j
        FULL JOIN (
            SELECT t.reference, t.amount, t.fee, source.client_id AS payer, destination.client_id AS payee
            FROM clients_transfer t
            LEFT JOIN clients_account source ON source.id = t.source_id
            LEFT JOIN clients_account destination ON destination.id = t.destination_id
            WHERE t.kind = 'training'
        ) t ON t.reference = 'training:' || j.id || ':' || j.run
        WHERE (j.charged, j.fee, j.owner_id, j.provider_id) IS DISTINCT FROM (t.amount, t.fee, t.payer, t.payee)
            -- What an earlier run was charged for stays a transfer when the job is restarted.
            AND NOT (j.id IS NULL AND EXISTS (
                SELECT 1 FROM finetune_job o
                WHERE t.reference LIKE 'training:' || o.id || ':%' AND split_part(t.reference, ':', 3)::int < o.run))
        """,
    ),
    Check(
        says="Money is held only for fine-tuning jobs that have not ended.",
        page="finetune_job",
        sql="""
        SELECT h.reference, j.id, 0, h.amount - h.captured, coalesce(j.status, 'there is no such job')
        FROM clients_hold h
        LEFT JOIN finetune_job j ON h.reference = 'training:' || j.id || ':' || j.run
        WHERE h.ended_at IS NULL AND h.reference LIKE 'training:%'
            AND (j.status IS NULL OR j.status NOT IN ('pending', 'running', 'paused'))
        """,
    ),
)
