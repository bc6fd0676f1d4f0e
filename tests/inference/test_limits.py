"""Limits as OpenAI's own client meets them: the classes of its errors, and when it tries again by itself."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from aiohttp import web

from clients.models import Allowance, ApiKey, Client
from gpus.models import Node
from inference.models import Inference
from marketplace import money
from tests.engine import Engine, answer
from tests.inference.test_charging import priced, rich
from tests.served import Server

__all__ = ["priced", "rich"]  # fixtures

CHAT: Any = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}


@pytest.fixture
def client(server: Server, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=2, timeout=20) as found:
        yield found


@pytest.fixture
def limit(alice: Client, key: str) -> Callable[..., Allowance]:
    def make(**limits: Any) -> Allowance:
        return Allowance.objects.create(client=alice, api_key=ApiKey.objects.get(), **limits)

    return make


@pytest.fixture
def sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that reach the server."""
    from marketplace.http import Call

    seen: list[str] = []
    whole = Call.json_object

    async def counting(call: Call) -> Any:
        seen.append(call.path)
        return await whole(call)

    monkeypatch.setattr(Call, "json_object", counting)
    return seen


def test_a_budget_that_is_used_up_is_an_insufficient_quota_and_is_not_tried_again(
    client: openai.OpenAI,
    priced: Callable[..., Node],
    rich: None,
    limit: Callable[..., Allowance],
    sent: list[str],
) -> None:
    priced()
    allowance = limit(budget_day=money.parse("1.5"))

    client.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**CHAT)
        client.chat.completions.create(**CHAT)

    answered = Inference.objects.filter(status="completed").count()
    allowance.refresh_from_db()
    assert refused.value.code == refused.value.type == "insufficient_quota"
    assert "budget of this API key for today (UTC) is 1.5 OMNIT" in refused.value.message
    assert len(sent) == answered + 1
    assert allowance.day_used == sum(row.charged for row in Inference.objects.all()) <= money.parse("1.5")


def test_too_little_money_is_a_402_and_is_not_tried_again(
    client: openai.OpenAI, priced: Callable[..., Node], sent: list[str]
) -> None:
    priced()

    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**CHAT)

    assert refused.value.status_code == 402
    assert refused.value.code == "insufficient_balance"
    assert len(sent) == 1


def test_a_rate_limit_is_waited_for(
    client: openai.OpenAI,
    priced: Callable[..., Node],
    rich: None,
    limit: Callable[..., Allowance],
    engine: Engine,
    server: Server,
    sent: list[str],
) -> None:
    async def slow(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.7)
        return await answer(request, body)

    priced()
    limit(concurrency=1)
    engine.behaviour = slow
    first = threading.Thread(target=lambda: client.chat.completions.create(**CHAT))
    first.start()
    server.until(lambda: len(engine.asked) == 1)

    reply = client.chat.completions.create(**CHAT)

    first.join()
    assert reply.choices[0].message.content == "one two three"
    assert len(sent) == 3  # one of them was refused, and sent again after Retry-After
    assert Allowance.objects.get().running == 0


def test_a_rate_limit_that_lasts_is_a_rate_limit_error_with_the_numbers(
    client: openai.OpenAI, priced: Callable[..., Node], rich: None, limit: Callable[..., Allowance]
) -> None:
    priced()
    limit(tokens_per_minute=20)

    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**CHAT)

    error: Any = refused.value.body
    assert error["code"] == "rate_limit_exceeded"
    assert error["details"]["allowed"] == 20
    assert error["details"]["needed"] > 50
    assert "smaller max_tokens" in error["message"]


def test_what_is_left_of_a_limit_is_in_openais_headers(
    client: openai.OpenAI, priced: Callable[..., Node], rich: None, limit: Callable[..., Allowance]
) -> None:
    priced()
    limit(requests_per_minute=100, tokens_per_minute=10_000)

    headers = client.chat.completions.with_raw_response.create(**CHAT).headers

    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("100", "99")
    assert headers["x-ratelimit-limit-tokens"] == "10000"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
