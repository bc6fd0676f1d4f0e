"""What a request can cost before it runs, and what it did cost afterwards. Pure functions; base units and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.conf import settings

from gpus.prices import Rates
from inference.models import Kind
from marketplace import money

# More answers than this to one request are charged as this many; engines allow fewer.
MOST_ANSWERS = 128


class Bound(NamedTuple):
    """The most tokens that a request can use."""

    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


NOTHING = Bound(0, 0)


def answer_tokens(said: Mapping[str, Any]) -> int | None:
    """The most completion tokens that a request in OpenAI's words asks for, over all its answers; None: no limit."""
    most = said.get("max_completion_tokens")
    if most is None:
        most = said.get("max_tokens")
    count = _count(most)
    return None if count is None else count * answers(said)


def answers(said: Mapping[str, Any]) -> int:
    """How many answers a request asks for."""
    most = max(_count(said.get("n")) or 1, _count(said.get("best_of")) or 1)
    return min(most, MOST_ANSWERS)


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None


def bound(
    kind: Kind, *, request_bytes: int, most_tokens: int | None, copies: int, context_length: int | None
) -> Bound:
    """The most that a request can use where a context has so many tokens.

    No token is shorter than a byte, so that its bytes bound the prompt.
    """
    context = context_length or settings.ASSUMED_CONTEXT_TOKENS
    prompt = min(request_bytes, context)
    if kind is Kind.EMBEDDING:
        # A list of texts has a context for each.
        return Bound(request_bytes, 0)
    whole = context * copies
    return Bound(prompt, whole if most_tokens is None else min(most_tokens, whole))


def cost(rates: Rates, *, prompt_tokens: int, completion_tokens: int, per_request: bool = True) -> int:
    """What tokens cost at a price; each part is rounded up to a base unit."""
    return (
        money.per_million(prompt_tokens, rates.input)
        + money.per_million(completion_tokens, rates.output)
        + (rates.request if per_request else 0)
    )


def most(rates: Rates, bound: Bound) -> int:
    """What a request can cost at a price."""
    return cost(rates, prompt_tokens=bound.prompt, completion_tokens=bound.completion)
