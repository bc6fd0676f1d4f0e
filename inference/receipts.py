"""Receipts: what a paid request did cost, and why.

A receipt is written anew whenever somebody asks for it, from what never changes: the request's record, its price, the
terms of that time, and its transfer. Asked for twice it is the same, to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from django.conf import settings

from clients import terms
from clients.models import Terms
from gpus import prices
from gpus.models import Price
from gpus.prices import Rates
from inference import verification
from inference.models import Status
from marketplace import money

# The planner overestimates what is new, and would read all records that there ever were.
ONE_BY_ONE = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"


class Issuer(NamedTuple):
    """What a receipt says of who made it out."""

    marketplace: str
    currency: str


class Paid(NamedTuple):
    """A request that was paid, with its transfer; amounts in base units, as texts."""

    transfer_id: int
    reference: str
    amount: str
    fee: str
    paid_at: datetime
    id: int
    request_id: UUID
    client_id: int
    provider_id: int
    node_id: int
    model: str
    revision: str
    kind: str
    face: str
    streamed: bool
    status: str
    code: str
    allocation_id: UUID | None
    prompt_tokens: int
    completion_tokens: int
    usage_source: str
    price_id: int | None
    terms_id: int | None
    attempts: str
    request_sha256: str
    response_sha256: str
    busy_ms: int
    created_at: datetime
    finished_at: datetime


# SQL: the id of the request that a transfer (t) is for, and for how long that kept its node busy.
REQUEST = "CASE WHEN t.reference ~ '^inference:[0-9]{1,18}$' THEN substr(t.reference, 11)::bigint END"
BUSY_MS = "greatest(coalesce(i.latency_ms, 0) - i.queued_ms, 0)"
# The columns of `Paid`.
PAID = f"""
    SELECT t.id, t.reference, t.amount::text, t.fee::text, t.at, i.id, i.request_id, i.client_id, i.provider_id,
        i.node_id, i.desired_model, i.revision, i.kind, i.face, i.streamed, i.status, i.code, i.allocation_id,
        i.prompt_tokens, i.completion_tokens, i.usage_source, i.price_id, i.terms_id, i.attempts::text,
        i.request_sha256, i.response_sha256, {BUSY_MS}, i.created_at,
        coalesce(i.finished_at, t.at)
    FROM clients_transfer t
    JOIN inference_inference i ON i.id = {REQUEST}
    WHERE t.kind = 'inference'
"""  # noqa: S608 - constants


def issuer_now() -> Issuer:
    return Issuer(settings.PUBLIC_URL, settings.CURRENCY)


class Writer:
    """Writes receipts. It remembers prices and terms, of which there are few and which never change."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._prices: dict[int, Price] = {}
        self._terms: dict[int, Terms] = {}
        self._rates: dict[tuple[int | None, int | None], tuple[Rates, int]] = {}

    def prepare(self, rows: Iterable[Paid]) -> None:
        """Read what these receipts need, all at once."""
        rows = list(rows)
        self._prices |= Price.objects.in_bulk({row.price_id for row in rows} - self._prices.keys() - {None})
        self._terms |= Terms.objects.in_bulk({row.terms_id for row in rows} - self._terms.keys() - {None})

    def write(self, paid: Paid) -> dict[str, Any]:
        """The receipt of a request: only texts, whole numbers, booleans and null, in objects and lists."""
        rates, fee_bps = self._of(paid)
        # As `charging.charge` has it.
        whole = paid.status == Status.COMPLETED or paid.code == "consumer_left"
        parts = (
            money.per_million(paid.prompt_tokens, rates.input),
            money.per_million(paid.completion_tokens, rates.output),
            rates.request if whole else 0,
        )
        total, charged, fee = sum(parts), int(paid.amount), int(paid.fee)
        return {
            "version": verification.VERSION,
            "id": f"receipt_{paid.request_id.hex}",
            "marketplace": self._issuer.marketplace,
            "currency": self._issuer.currency,
            "inference": paid.id,
            "request_id": paid.request_id.hex,
            "client": paid.client_id,
            "provider": paid.provider_id,
            "node": paid.node_id,
            "model": paid.model,
            "revision": paid.revision,
            "kind": paid.kind,
            "face": paid.face,
            "streamed": paid.streamed,
            "allocation": paid.allocation_id and str(paid.allocation_id),
            "status": paid.status,
            "code": paid.code,
            "tokens": {
                "prompt": paid.prompt_tokens,
                "completion": paid.completion_tokens,
                "source": paid.usage_source,
            },
            "price": {
                "id": paid.price_id,
                **dict(zip(("input", "output", "request"), map(_shown, rates[:3]), strict=True)),
            },
            "terms": {"id": paid.terms_id, "fee_bps": fee_bps},
            "cost": {
                **dict(zip(("prompt", "completion", "request"), map(money.render, parts), strict=True)),
                "total": money.render(total),
            },
            # What was held for it, and what it can use at most, bound what it is charged.
            "capped": charged < total,
            "charged": money.render(charged),
            "provider_share": money.render(charged - fee),
            "fee": money.render(fee),
            "attempts": _attempts(paid.attempts),
            "ledger": {
                "reference": paid.reference,
                "transfer": paid.transfer_id,
                "at": _instant(paid.paid_at),
            },
            "request_sha256": paid.request_sha256,
            "response_sha256": paid.response_sha256,
            "created_at": _instant(paid.created_at),
            "finished_at": _instant(paid.finished_at),
        }

    def _of(self, paid: Paid) -> tuple[Rates, int]:
        key = paid.price_id, paid.terms_id
        if key not in self._rates:
            self.prepare([paid])
            told = terms.UNSET if paid.terms_id is None else self._terms[paid.terms_id]
            price = None if paid.price_id is None else self._prices[paid.price_id]
            self._rates[key] = prices.of(price, told), told.fee_bps
        return self._rates[key]


def canonical(receipt: dict[str, Any]) -> bytes:
    """The same bytes as `verification.canonical`, sooner."""
    return orjson.dumps(receipt, option=orjson.OPT_SORT_KEYS)


def leaves(rows: Sequence[Paid], issuer: Issuer) -> list[bytes]:
    """The leaf of each request's receipt."""
    writer = Writer(issuer)
    writer.prepare(rows)
    return [verification.leaf(canonical(writer.write(row))) for row in rows]


_shown = lru_cache(maxsize=1024)(money.render)


def _attempts(stored: str) -> list[dict[str, Any]]:
    """The nodes that were tried before. Their names are left out: a receipt tells of nodes by number."""
    if stored == "[]":
        return []
    return [{"node": each.get("node"), "reason": each.get("reason")} for each in json.loads(stored)]


def _instant(at: datetime) -> str:
    return f"{at.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
