"""What a request costs: held before it goes to a node, settled by what was used, released when it fails."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web

from clients import ledger, terms
from clients.models import Account, AccountKind, Allowance, Client, Hold, Transfer
from gpus.models import Node, Offer, Price
from inference.models import Inference
from marketplace import money
from tests.engine import Engine, answer, chunk, stream, usage
from tests.served import Server, last_record


async def failing(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": "out of memory"}, status=500)


async def slow(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(0.5)
    return await answer(request, body)


CHAT = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}


@pytest.fixture
def priced(server: Server, add_priced: Callable[..., Node], operator: Client) -> Callable[..., Node]:
    """A node with a price (`add_priced`); the fee is 10 %."""
    terms.change(by=operator, reason="A share.", fee_bps=1000)
    server.until(lambda: server.hot.gateway.directory.terms.fee_bps == 1000)

    def add(name: str = "n1", **more: Any) -> Node:
        node = add_priced(name, **more)
        server.knows(node)
        return node

    return add


@pytest.fixture
def rich(alice: Client) -> None:
    ledger.grant(
        client_id=alice.pk, amount=100 * money.TOKEN, reference="grant:test", reason="test", by_id=None
    )


def spendable(person: Client) -> int:
    owned = ledger.account(person.pk, AccountKind.SPENDABLE)
    total, held = ledger.balances([owned])[owned.pk]
    return total - held


def books_balance() -> bool:
    owned = list(Account.objects.all())
    return sum(total for total, _ in ledger.balances(owned).values()) == 0


def test_it_is_charged_by_usage_and_the_provider_gets_its_share(
    http: httpx.Client, priced: Callable[..., Node], rich: None, alice: Client, bob: Client
) -> None:
    node = priced()

    reply = http.post("/v1/chat/completions", json=CHAT)

    record = last_record("completed")
    usage = reply.json()["usage"]
    cost = (
        usage["prompt_tokens"] * 1000 * 10**12 + usage["completion_tokens"] * 2000 * 10**12 + money.TOKEN // 2
    )
    assert reply.status_code == 200, reply.text
    assert (record.charged, record.fee, record.provider_id) == (cost, cost // 10, node.owner_id)
    assert reply.headers["x-cost"] == money.render(cost)
    assert reply.headers["x-receipt"] == f"/inference/{record.pk}/receipt"
    paid = Transfer.objects.get(reference=f"inference:{record.pk}")
    assert (paid.amount, paid.fee, paid.source.client_id, paid.destination.client_id) == (
        cost, cost // 10, alice.pk, bob.pk,
    )  # fmt: skip
    assert spendable(alice) == 100 * money.TOKEN - cost
    assert ledger.balance(ledger.account(bob.pk, AccountKind.EARNED)) == cost - cost // 10
    assert ledger.balance(ledger.account(None, AccountKind.FEES)) == cost // 10
    assert books_balance()
    assert not Hold.objects.filter(ended_at=None).exists()


def test_a_stream_is_charged_before_its_last_byte(
    http: httpx.Client, priced: Callable[..., Node], rich: None, alice: Client
) -> None:
    priced()

    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as reply:
        text = reply.read().decode()
    record = Inference.objects.get()

    assert text.rstrip().endswith("data: [DONE]")
    assert record.status == "completed"
    assert record.charged == Transfer.objects.get(kind="inference").amount > 0
    assert spendable(alice) == 100 * money.TOKEN - record.charged


def test_who_cannot_pay_is_told_the_numbers_and_nothing_is_sent(
    http: httpx.Client, priced: Callable[..., Node], engine: Engine
) -> None:
    priced()

    reply = http.post("/v1/chat/completions", json=CHAT)

    error = reply.json()["error"]
    assert reply.status_code == 402
    assert error["code"] == "insufficient_balance"
    assert error["details"]["available"] == "0"
    assert engine.asked == []
    assert not Inference.objects.exists()
    assert not Hold.objects.exists()


def test_a_request_that_fails_costs_nothing(
    http: httpx.Client, priced: Callable[..., Node], engine: Engine, rich: None, alice: Client
) -> None:
    priced()
    engine.behaviour = failing

    assert http.post("/v1/chat/completions", json=CHAT).status_code == 502

    assert last_record("failed").charged == 0
    assert spendable(alice) == 100 * money.TOKEN
    assert not Hold.objects.exists()


def test_a_price_that_changes_meanwhile_does_not_change_what_runs(
    http: httpx.Client, priced: Callable[..., Node], rich: None, server: Server, engine: Engine
) -> None:
    node = priced()
    engine.behaviour = slow
    replies: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: replies.append(http.post("/v1/chat/completions", json=CHAT)))
    asking.start()
    server.until(lambda: len(engine.asked) == 1)
    old = Offer.objects.get().price_id
    new = Price.objects.create(node=node, owner=node.owner, model="llama", request_price=90 * money.TOKEN)
    Offer.objects.update(price=new)
    asking.join()

    record = last_record("completed")
    assert record.price_id == old
    assert record.charged < money.TOKEN


def test_a_maximum_price_keeps_dear_nodes_away(
    http: httpx.Client, priced: Callable[..., Node], rich: None
) -> None:
    priced()

    reply = http.post(
        "/v1/chat/completions", json=CHAT, headers={"X-Max-Price": "prompt=1000, completion=1999"}
    )

    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "policy_not_met"
    assert "over your maximum price" in reply.json()["error"]["message"]
    assert http.post("/v1/chat/completions", json=CHAT, headers={"X-Max-Price": "2000"}).status_code == 200


def test_a_maximum_cost_refuses_what_could_cost_more(
    http: httpx.Client, priced: Callable[..., Node], rich: None
) -> None:
    priced()

    reply = http.post("/v1/chat/completions", json=CHAT, headers={"X-Max-Cost": "0.5"})

    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "over_maximum_cost"


def test_a_limit_on_requests_is_told_in_openais_headers(
    http: httpx.Client, priced: Callable[..., Node], rich: None, alice: Client, server: Server
) -> None:
    priced()
    Allowance.objects.create(client=alice, requests_per_minute=2, tokens_per_minute=100_000)
    while time.time() % 60 > 55:  # all of it in one minute
        time.sleep(0.2)

    replies = [http.post("/v1/chat/completions", json=CHAT) for _ in range(3)]

    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert replies[1].headers["x-ratelimit-limit-requests"] == "2"
    assert replies[1].headers["x-ratelimit-remaining-requests"] == "0"
    assert int(replies[1].headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert 1 <= int(replies[2].headers["retry-after"]) <= 60
    assert replies[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert replies[2].headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-receipt" not in replies[2].headers
    assert "x-inference-id" not in replies[2].headers


def test_a_retry_on_a_dearer_node_holds_more(
    http: httpx.Client, priced: Callable[..., Node], engine: Engine, rich: None, server: Server
) -> None:
    priced("gone", url="http://127.0.0.1:9", request="0")
    server.until(lambda: True)
    cheap = http.post("/v1/chat/completions", json=CHAT)
    priced("dear", request="3")

    reply = http.post("/v1/chat/completions", json=CHAT)

    assert cheap.status_code == 502
    assert reply.status_code == 200
    assert last_record("completed").charged > 3 * money.TOKEN
    assert books_balance()


async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return await stream(request, [chunk("word ")] * 1000, pause_s=0.01)


async def breaking(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    response = await stream(request, [chunk("word ")] * 5, end=False)
    assert request.transport is not None
    request.transport.abort()
    return response


def test_who_leaves_a_stream_pays_for_what_was_delivered(
    http: httpx.Client, priced: Callable[..., Node], engine: Engine, rich: None, alice: Client
) -> None:
    priced()
    engine.behaviour = endless

    with http.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"stream": True, "max_tokens": 1000}
    ) as reply:
        read = 0
        for part in reply.iter_raw():
            read += part.count(b"data:")
            if read > 20:
                break

    record = last_record("partial")
    assert record.code == "consumer_left"
    assert 20 <= record.completion_tokens < 1000
    assert record.charged > money.TOKEN // 2 + record.completion_tokens * 2000 * 10**12
    assert Transfer.objects.get(kind="inference").amount == record.charged
    assert spendable(alice) == 100 * money.TOKEN - record.charged


def test_a_stream_that_the_node_breaks_off_costs_only_its_tokens(
    http: httpx.Client, priced: Callable[..., Node], engine: Engine, rich: None
) -> None:
    priced()
    engine.behaviour = breaking

    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as reply:
        text = reply.read().decode()

    record = last_record("partial")
    assert '"code":"node_lost"' in text
    assert record.completion_tokens == 5
    assert 0 < record.charged < money.TOKEN // 2  # without the price per request
    assert books_balance()


def test_an_engine_that_reports_too_much_is_paid_at_most_what_was_held(
    http: httpx.Client, priced: Callable[..., Node], engine: Engine, rich: None
) -> None:
    async def boasting(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage(1_000_000, 1_000_000)})

    priced(request="0")
    engine.behaviour = boasting

    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200

    record = last_record("completed")
    assert record.completion_tokens == 1_000_000
    assert record.charged <= 200 * 1000 * 10**12 + 50 * 2000 * 10**12


def test_every_face_is_charged(
    http: httpx.Client, priced: Callable[..., Node], rich: None, alice: Client
) -> None:
    priced()
    question = {"client": alice.pk, "desired_model": "llama", "question_text": "Hi"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"model": "llama", "prompt": "Hi", "max_tokens": 9}),
        ("/inference/", question),
        ("/inference/stream/", question),
        ("/ai/models/llama/inference", {"input": "Hi"}),
    ]

    statuses = [http.post(path, json=body).status_code for path, body in calls]

    assert statuses == [200, 201, 201, 200]
    assert Transfer.objects.filter(kind="inference").count() == len(calls)
    assert books_balance()
