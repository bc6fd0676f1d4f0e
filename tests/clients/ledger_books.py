"""Whether the books add up, worked out from the rows themselves and not by the code under test."""

import time
from datetime import UTC, datetime
from typing import Any

from django.db import connection

# One row per account whose numbers disagree with what is written about it. One statement: one moment.
WRONG = """
    WITH moved AS (
        SELECT destination_id AS id, amount - fee AS amount FROM clients_transfer
        UNION ALL SELECT source_id, -amount FROM clients_transfer
        UNION ALL SELECT (SELECT id FROM clients_account WHERE kind = 'fees'), fee FROM clients_transfer WHERE fee > 0
    ), posted AS (SELECT id, sum(amount) AS amount FROM moved GROUP BY id),
    striped AS (SELECT account_id AS id, sum(balance) AS amount FROM clients_stripe GROUP BY account_id),
    open AS (
        SELECT account_id AS id, sum(amount - captured) AS amount FROM clients_hold WHERE ended_at IS NULL
        GROUP BY account_id
    ), books AS (
        SELECT a.id, a.client_id, a.kind, a.balance, a.held, coalesce(striped.amount, 0) AS striped,
            coalesce(posted.amount, 0) AS posted, coalesce(open.amount, 0) AS open
        FROM clients_account a
        LEFT JOIN posted USING (id) LEFT JOIN striped USING (id) LEFT JOIN open USING (id)
    )
    SELECT 'account', id, client_id, kind, balance, striped, posted, held, open FROM books
    WHERE balance + striped <> posted OR held <> open
        OR (kind NOT IN ('grants', 'outside') AND balance < held)
    UNION ALL
    SELECT 'sum', NULL, NULL, NULL, sum(balance), sum(striped), sum(posted), NULL, NULL FROM books
    HAVING sum(balance + striped) <> 0
"""


def wrong() -> list[tuple[Any, ...]]:
    """What does not add up at this moment; an empty list if all is well."""
    with connection.cursor() as cursor:
        cursor.execute(WRONG)
        return list(cursor.fetchall())


def not_at_the_end_of_a_minute(*, spare_s: float = 2.0) -> datetime:
    """Wait for the next minute if this one is nearly over: what counts by the minute could roll in between."""
    left = 60 - datetime.now(UTC).second
    if left <= spare_s:
        time.sleep(left + 0.1)
    return datetime.now(UTC)
