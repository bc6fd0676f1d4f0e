"""What orders of tasks say about money, for comparison with the ledger."""

from collections.abc import Sequence

from chain.models import TaskOrder
from clients import books
from clients.books import Check, Purpose, Standing


def _standings(ids: Sequence[int]) -> dict[int, Standing]:
    # An order ends some time after its task: confirmations are awaited, and its owner may have a day more to confirm.
    return {
        order.pk: Standing(order.get_status_display(), ended=order.has_ended)
        for order in TaskOrder.objects.filter(pk__in=ids)
    }


books.know(Purpose(prefix="task-order", page="chain_taskorder", standings=_standings))

books.watch(
    Check(
        says="Each order of a task that was paid has its transfer, and each of these transfers its order: the same "
        "amount, from its owner to the world outside.",
        page="chain_taskorder",
        sql="""
        SELECT coalesce(t.reference, 'task-order:' || o.id), o.id, coalesce(o.paid, 0), coalesce(t.amount, 0),
            CASE WHEN t.reference IS NULL THEN 'paid, without a transfer'
                WHEN o.id IS NULL THEN 'a transfer without an order that was paid'
                WHEN o.paid <> t.amount THEN 'another amount'
                ELSE 'between other accounts' END
        FROM (SELECT id, owner_id, paid FROM chain_taskorder WHERE status = 'finished' AND paid > 0) o
        FULL JOIN (
            SELECT t.reference, t.amount, source.client_id AS payer, destination.kind AS payee
            FROM clients_transfer t
            LEFT JOIN clients_account source ON source.id = t.source_id
            LEFT JOIN clients_account destination ON destination.id = t.destination_id
            WHERE t.kind = 'onchain' AND t.reference LIKE 'task-order:%'
        ) t ON t.reference = 'task-order:' || o.id
        WHERE (o.paid, o.owner_id, 'outside') IS DISTINCT FROM (t.amount, t.payer, t.payee)
        """,
    ),
    Check(
        says="Each order of a task that has not ended has its payment held, and no other order has.",
        page="chain_taskorder",
        sql="""
        SELECT coalesce(h.reference, 'task-order:' || o.id), o.id,
            CASE WHEN o.ended_at IS NULL THEN coalesce(o.payment, 0) ELSE 0 END, coalesce(h.amount, 0),
            coalesce(o.status, 'there is no such order')
        FROM chain_taskorder o
        FULL JOIN (
            SELECT reference, amount - captured AS amount FROM clients_hold
            WHERE ended_at IS NULL AND reference LIKE 'task-order:%'
        ) h ON h.reference = 'task-order:' || o.id
        WHERE CASE WHEN o.ended_at IS NULL THEN coalesce(o.payment, 0) ELSE 0 END <> coalesce(h.amount, 0)
            OR o.id IS NULL
        """,
    ),
)
