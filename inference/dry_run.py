"""What would become of a request: its price, its wait, the node that would get it, and why the others would not.

Nothing is sent, recorded or charged. What the ledger would say is asked of the ledger itself, and undone.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections, transaction

from clients import ledger
from clients.credentials import Principal
from clients.models import AccountKind
from gpus import placement
from gpus.directory import Directory
from gpus.placement import LiveOffer, Outlook
from gpus.prices import FREE, Rates
from inference import charging, metering, pricing
from inference.models import Kind
from inference.pricing import Bound
from inference.runs import Ask
from marketplace import money, parsing
from marketplace.errors import MarketplaceError, Unavailable
from marketplace.http import Call

# The length of an answer of which nothing is known.
TYPICAL_ANSWER_TOKENS = 250


def wanted(call: Call) -> bool:
    """Whether a request is only a question: `X-Dry-Run: true` or `?dry_run=1`. Raises InvalidRequest for odd words."""
    header = call.header(b"x-dry-run")
    if header is not None:
        return parsing.is_yes(header, param="X-Dry-Run")
    query: bytes = call.scope.get("query_string", b"")
    if b"dry_run" not in query:
        return False
    return parsing.is_yes(parse_qs(query.decode("latin-1")).get("dry_run", ["no"])[-1], param="dry_run")


async def foresee(ask: Ask, directory: Directory) -> dict[str, Any]:
    """What a request can count on now, as JSON; amounts are decimal strings of tokens.

    `node` and `estimated_wait_s` are null where none would take it, `refusal` is the error that it would get.
    Raises AllocationNotFound, OverMaximumCost, Unavailable.
    """
    pool = directory.pool_for(ask.model, ask.allocation, ask.principal.client_id)
    outlook = placement.foresee(pool, policy=ask.policy)
    offer = outlook.chosen or _cheapest(ask, outlook)
    bound = pricing.bound(
        ask.kind,
        request_bytes=len(ask.body),
        most_tokens=ask.most_tokens,
        copies=ask.copies,
        context_length=offer.context_length if offer else None,
    )
    rates = _rates(ask, offer)
    most = 0 if rates is None else pricing.most(rates, bound)
    if offer is not None:
        charging.check_cost(ask, most, on=offer.node.name)
    to_hold = most if ask.principal.pays else 0
    balance, refusal = await asyncio.to_thread(_rehearse, ask.principal, to_hold, bound.total)
    refused = outlook.error or refusal
    return {
        "object": "dry_run",
        "model": ask.model,
        "kind": ask.kind.value,
        "price": rates and _price(rates),
        "tokens": {"prompt_at_most": bound.prompt, "completion_at_most": bound.completion},
        "cost_at_most": rates and money.render(most),
        "estimated_cost": rates and money.render(_estimate(ask, rates, bound)),
        "balance": money.render(balance),
        "affordable": refusal is None,
        "estimated_wait_s": None if outlook.wait_s is None else round(outlook.wait_s, 3),
        "node": outlook.chosen and outlook.chosen.node.name,
        "others": [{"node": other.node.name, "reason": reason} for other, reason in outlook.others],
        "refusal": refused and {"code": refused.code, "message": refused.message},
    }


def _cheapest(ask: Ask, outlook: Outlook) -> LiveOffer | None:
    """Where nobody can take it now: who would do it, were it there."""
    fitting = (offer for offer, _ in outlook.others if ask.policy.objection(offer) is None)
    return min(fitting, key=lambda offer: offer.price, default=None)


def _rates(ask: Ask, offer: LiveOffer | None) -> Rates | None:
    """An allocation is paid by the hour; its requests cost nothing more."""
    if offer is None:
        return None
    return FREE if ask.allocation else offer.rates


def _price(rates: Rates) -> dict[str, str]:
    return {
        "input_per_million": money.render(rates.input),
        "output_per_million": money.render(rates.output),
        "per_request": money.render(rates.request),
        "currency": settings.CURRENCY,
    }


def _estimate(ask: Ask, rates: Rates, bound: Bound) -> int:
    """What such a request usually costs: its bytes tell of its prompt, nothing of its answer."""
    prompt = metering.estimate(request_bytes=len(ask.body))["prompt_tokens"]
    answer = 0 if ask.kind is Kind.EMBEDDING else TYPICAL_ANSWER_TOKENS * ask.copies
    return pricing.cost(
        rates,
        prompt_tokens=min(prompt, bound.prompt),
        completion_tokens=min(answer, bound.completion),
    )


def _rehearse(principal: Principal, amount: int, tokens: int) -> tuple[int, MarketplaceError | None]:
    """What the account may spend, and what the ledger would say to this hold. All of it is undone."""
    close_old_connections()
    try:
        with transaction.atomic():
            account = ledger.account(principal.client_id, AccountKind.SPENDABLE)
            total, held = ledger.balances([account])[account.pk]
            refusal = _refusal(principal, amount, tokens) if amount or principal.limited else None
            transaction.set_rollback(True)
        return total - held, refusal
    except DatabaseError:
        raise Unavailable("The ledger cannot be asked at the moment.", retry_after=2) from None
    finally:
        close_old_connections()


def _refusal(principal: Principal, amount: int, tokens: int) -> MarketplaceError | None:
    try:
        ledger.hold(
            reference=f"dry-run:{uuid4()}",
            client_id=principal.client_id,
            api_key_id=principal.api_key_id,
            amount=amount,
            tokens=tokens,
        )
    except MarketplaceError as refused:
        return refused
    return None
