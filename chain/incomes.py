"""What tasks of chains have brought in to those whose nodes did them, for the reports of earnings."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import connection

from inference.earnings import Income, Scope


def of(scope: Scope) -> Iterator[Income]:
    """Confirmed answers, and what operators have given back of them."""
    values = {
        "since": scope.since, "until": scope.until, "provider": scope.provider_id, "node": scope.node_id,
    }  # fmt: skip
    whose = "TRUE" if scope.provider_id is None else "payee.client_id = %(provider)s"
    where = "TRUE" if scope.node_id is None else "f.node_id = %(node)s"
    with connection.cursor() as cursor:
        cursor.execute(_INCOMES.format(whose=whose, where=where), values)
        for provider_id, node_id, name, model, at, amount in cursor.fetchall():
            yield Income(provider_id, node_id, name, model, at, int(amount), of_task=True)


# A node that is gone stands there as number 0.
_INCOMES = """
    WITH paid AS (
        SELECT t.id, t.at, t.amount - t.fee AS amount, payee.client_id AS provider_id,
            coalesce(f.node_id, 0) AS node_id, coalesce(n.name, '') AS name,
            coalesce(i.desired_model, m.name, '') AS model
        FROM chain_fulfilment f
        JOIN clients_transfer t ON t.reference = 'fulfilment:' || f.id AND t.kind = 'onchain'
        JOIN clients_account payee ON payee.id = t.destination_id AND payee.kind = 'earned'
        LEFT JOIN gpus_node n ON n.id = f.node_id
        LEFT JOIN inference_inference i ON i.id = f.inference_id
        LEFT JOIN finetune_job j ON j.id = f.job_id
        LEFT JOIN inference_revision b ON b.id = j.base_id
        LEFT JOIN inference_model m ON m.id = b.model_id
        WHERE f.status = 'confirmed' AND {whose} AND {where}
    ), moved AS (
        SELECT provider_id, node_id, name, model, at, amount FROM paid
        UNION ALL
        SELECT paid.provider_id, paid.node_id, paid.name, paid.model, r.at, -r.amount
        FROM paid
        JOIN clients_transfer r ON r.reverses_id = paid.id AND r.kind = 'reversal'
        JOIN clients_account payer ON payer.id = r.source_id AND payer.kind = 'earned'
    )
    SELECT * FROM moved WHERE at >= %(since)s AND at < %(until)s
"""
