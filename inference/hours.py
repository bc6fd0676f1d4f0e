"""What each model on each node has brought in by the hour: sums that grow when receipts are sealed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from django.db import connection

from inference.receipts import Paid

_SUMMED = ("requests", "prompt_tokens", "completion_tokens", "busy_ms", "charged", "fee")

_ADD = """
    INSERT INTO inference_earning (
        hour, provider_id, node_id, node_name, model, requests, prompt_tokens, completion_tokens, busy_ms, charged, fee)
    SELECT row.hour, provider_id, node_id, coalesce(n.name, ''), model, requests, prompt_tokens, completion_tokens,
        busy_ms, charged, fee
    FROM json_to_recordset(%s) AS row (
        hour timestamptz, provider_id bigint, node_id bigint, model text, requests bigint, prompt_tokens bigint,
        completion_tokens bigint, busy_ms bigint, charged numeric, fee numeric)
    LEFT JOIN gpus_node n ON n.id = node_id
    ON CONFLICT (hour, node_id, model) DO UPDATE SET
        node_name = coalesce(nullif(excluded.node_name, ''), inference_earning.node_name),
        requests = inference_earning.requests + excluded.requests,
        prompt_tokens = inference_earning.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = inference_earning.completion_tokens + excluded.completion_tokens,
        busy_ms = inference_earning.busy_ms + excluded.busy_ms,
        charged = inference_earning.charged + excluded.charged,
        fee = inference_earning.fee + excluded.fee
"""


def add(rows: Iterable[Paid]) -> None:
    """Add requests that are being sealed to the sums of their hours, in the transaction that seals them."""
    sums: dict[tuple[datetime, int, int, str], list[int]] = {}
    for row in rows:
        hour = row.finished_at.replace(minute=0, second=0, microsecond=0)
        found = sums.setdefault((hour, row.provider_id, row.node_id, row.model), [0] * len(_SUMMED))
        values = (
            *(1, row.prompt_tokens, row.completion_tokens, row.busy_ms),
            *(int(row.amount), int(row.fee)),
        )
        for place, value in enumerate(values):
            found[place] += value
    said = [
        dict(zip(("hour", "provider_id", "node_id", "model"), (key[0].isoformat(), *key[1:]), strict=True))
        | dict(zip(_SUMMED, map(str, values), strict=True))
        for key, values in sums.items()
    ]
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [json.dumps(said)])
