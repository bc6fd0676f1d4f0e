"""`?dry_run=1` and `X-Dry-Run`: what would become of a request, without a trace."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2 as httpx
import pytest
from aiohttp import web

from clients import keys, ledger
from clients.models import Account, Allowance, Client, Hold, StoredReply, Transfer
from gpus.models import Node
from inference.models import Inference
from marketplace import money
from tests.engine import Engine, answer
from tests.served import Server

CHAT = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
URL = "/v1/chat/completions"
DRY = {"X-Dry-Run": "true"}


@pytest.fixture(autouse=True)
def _credit(alice: Client) -> None:
    ledger.grant(client_id=alice.pk, amount=money.TOKEN, reference="grant:1", reason="test", by_id=None)


def no_trace(engine: Engine) -> bool:
    return not engine.asked and not any(
        rows.exists()
        for rows in (
            Inference.objects.all(),
            Hold.objects.all(),
            Transfer.objects.exclude(kind="grant"),
            StoredReply.objects.all(),
        )
    )


def test_it_says_what_a_request_would_cost_and_who_would_get_it(
    http: httpx.Client, add_priced: Callable[..., Node], engine: Engine
) -> None:
    add_priced("cheap", request="0.1")
    add_priced("dear", request="0.7")
    reply = http.post(URL, json=CHAT, headers=DRY)
    assert reply.status_code == 200, reply.text
    said = reply.json()
    prompt = len(reply.request.content)
    assert said == {
        "object": "dry_run",
        "model": "llama",
        "kind": "chat",
        "price": {
            "input_per_million": "1000",
            "output_per_million": "2000",
            "per_request": "0.1",
            "currency": "OMNIT",
        },
        "tokens": {"prompt_at_most": prompt, "completion_at_most": 50},
        # The prompt's bytes, fifty tokens, and the request; then a quarter of the bytes.
        "cost_at_most": money.render(money.parse("0.2") + prompt * money.parse("0.001")),
        "estimated_cost": money.render(money.parse("0.2") + -(-prompt // 4) * money.parse("0.001")),
        "balance": "1",
        "affordable": True,
        "estimated_wait_s": 0.0,
        "node": "cheap",
        "others": [{"node": "dear", "reason": "slower so far, more outstanding work, or a higher price"}],
        "refusal": None,
    }
    assert no_trace(engine)


@pytest.mark.parametrize("sign", ["?dry_run=1", "?dry_run=true", "/?dry_run=yes"])
def test_the_query_says_it_too(
    http: httpx.Client, add_priced: Callable[..., Node], engine: Engine, sign: str
) -> None:
    add_priced("one")
    assert http.post(URL + sign, json=CHAT).json()["object"] == "dry_run"
    assert no_trace(engine)


@pytest.mark.parametrize(
    ("sign", "headers"), [("?dry_run=0", {}), ("?dry_run", {}), ("", {"X-Dry-Run": "no"})]
)
def test_what_does_not_say_yes_is_a_real_request(
    http: httpx.Client, add_priced: Callable[..., Node], sign: str, headers: dict[str, str]
) -> None:
    add_priced("one")
    assert http.post(URL + sign, json=CHAT, headers=headers).json()["object"] == "chat.completion"


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/inference/", "/inference/stream/", "/ai/models/llama/inference"]
)
def test_every_way_to_ask_a_model_can_be_tried(
    http: httpx.Client, add_priced: Callable[..., Node], engine: Engine, alice: Client, path: str
) -> None:
    add_priced("one")
    body = {
        "model": "llama",
        "prompt": "Hi",
        "client": alice.pk,
        "question_text": "Hi",
        "desired_model": "llama",
        "input": "Hi",
    }
    reply = http.post(path, json=body, headers=DRY)
    assert (reply.status_code, reply.json().get("node")) == (200, "one"), reply.text
    assert no_trace(engine)


def test_an_embedding_has_no_completion(
    http: httpx.Client, server: Server, engine: Engine, add_node: Callable[..., Node]
) -> None:
    server.knows(add_node("one", model="embed", url=engine.url))
    said = http.post("/v1/embeddings", json={"model": "embed", "input": ["Hi"]}, headers=DRY).json()
    assert (said["kind"], said["tokens"]["completion_at_most"]) == ("embedding", 0)
    assert (said["cost_at_most"], said["affordable"]) == ("0", True)


def test_who_cannot_pay_is_told_so(
    http: httpx.Client, add_priced: Callable[..., Node], charlie: Client, engine: Engine
) -> None:
    add_priced("one")
    his = {"Authorization": f"Bearer {keys.create(charlie, name='his').key}"}
    said = http.post(URL, json=CHAT, headers=DRY | his).json()
    assert (said["affordable"], said["balance"], said["node"]) == (False, "0", "one")
    assert said["refusal"]["code"] == "insufficient_balance"
    assert no_trace(engine)
    assert not Account.objects.filter(client=charlie).exists()


def test_a_limit_that_would_refuse_it_is_named_and_not_used_up(
    http: httpx.Client, add_priced: Callable[..., Node], alice: Client, engine: Engine
) -> None:
    add_priced("one")
    Allowance.objects.create(client=alice, budget_day=money.parse("0.6"))
    Account.objects.filter(client=alice).update(limited=True)
    fresh = {"Authorization": f"Bearer {keys.create(alice, name='new').key}"}
    for _ in range(3):
        said = http.post(URL, json=CHAT, headers=DRY | fresh).json()
        assert (said["affordable"], said["refusal"]["code"]) == (False, "budget_exceeded")
    Allowance.objects.update(budget_day=None, requests_per_minute=1)
    for _ in range(3):
        assert http.post(URL, json=CHAT, headers=DRY | fresh).json()["affordable"] is True
    assert no_trace(engine)


def test_where_nobody_can_take_it_the_reasons_are_the_answer(
    http: httpx.Client, add_priced: Callable[..., Node], server: Server, engine: Engine
) -> None:
    add_priced("one", maintenance=True)
    add_priced("two", region="eu")
    reply = http.post(URL, json=CHAT, headers=DRY | {"X-Region": "us"})
    said = reply.json()
    assert (reply.status_code, said["node"], said["estimated_wait_s"]) == (200, None, None)
    assert {each["node"]: each["reason"] for each in said["others"]} == {
        "one": "not in region us",
        "two": "not in region us",
    }
    assert said["refusal"]["code"] == "policy_not_met"
    assert said["price"] is said["cost_at_most"] is said["estimated_cost"] is None
    said = http.post(URL, json=CHAT, headers=DRY | {"X-Region": ""}).json()
    assert (said["node"], said["others"]) == ("two", [{"node": "one", "reason": "maintenance"}])


def test_who_is_down_still_tells_the_price(http: httpx.Client, add_priced: Callable[..., Node]) -> None:
    add_priced("one", maintenance=True)
    said = http.post(URL, json=CHAT, headers=DRY).json()
    assert (said["node"], said["price"]["per_request"]) == (None, "0.5")
    assert said["refusal"]["code"] == "no_capacity"


def test_while_all_are_busy_it_estimates_the_wait(
    http: httpx.Client, add_priced: Callable[..., Node], engine: Engine, server: Server
) -> None:
    go_on = threading.Event()

    async def held_up(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.to_thread(go_on.wait, 10)
        return await answer(request, body)

    engine.behaviour = held_up
    node = add_priced("one", concurrency=1)
    thread = threading.Thread(target=lambda: http.post(URL, json=CHAT))
    thread.start()
    server.until(lambda: bool(engine.asked))
    said = http.post(URL, json=CHAT, headers=DRY).json()
    go_on.set()
    thread.join()
    assert (said["node"], said["estimated_wait_s"] > 0) == (node.name, True)


@pytest.mark.parametrize(
    ("wrong", "headers", "status", "code"),
    [
        ({"messages": []}, {}, 400, "invalid_value"),
        ({"model": "lama"}, {}, 404, "model_not_found"),
        ({}, {"Authorization": "Bearer sk-wrong"}, 401, "unknown_credential"),
        ({}, {"X-Max-Cost": "0.01"}, 400, "over_maximum_cost"),
        ({}, {"X-Allocation": str(uuid4())}, 404, "allocation_not_found"),
        ({}, {"X-Max-Price": "cheap"}, 400, "invalid_amount"),
    ],
)
def test_a_wrong_request_gets_its_own_error(
    http: httpx.Client,
    add_priced: Callable[..., Node],
    engine: Engine,
    wrong: dict[str, Any],
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    add_priced("one")
    reply = http.post(URL, json=CHAT | wrong, headers=DRY | headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert no_trace(engine)


def test_a_key_that_may_not_use_the_model_is_refused(
    http: httpx.Client, add_priced: Callable[..., Node], alice: Client
) -> None:
    add_priced("one")
    narrow = keys.create(alice, name="narrow", allowed_models=["other"]).key
    reply = http.post(URL, json=CHAT, headers=DRY | {"Authorization": f"Bearer {narrow}"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "model_not_allowed")


def test_it_takes_no_idempotency_key(
    http: httpx.Client, add_priced: Callable[..., Node], engine: Engine
) -> None:
    add_priced("one")
    key = {"Idempotency-Key": "order 1"}
    assert http.post(URL, json=CHAT, headers=DRY | key).json()["object"] == "dry_run"
    assert no_trace(engine)
    first = http.post(URL, json=CHAT, headers=key)
    assert first.json()["object"] == "chat.completion"
    assert http.post(URL, json=CHAT, headers=DRY | key).json()["object"] == "dry_run"


@pytest.mark.parametrize("word", ["maybe", "2", "treu"])
def test_a_flag_that_is_neither_yes_nor_no_is_refused_and_nothing_is_asked(
    http: httpx.Client, add_priced: Callable[..., Node], engine: Engine, word: str
) -> None:
    add_priced("one")
    for reply in (
        http.post(URL, json=CHAT, headers={"X-Dry-Run": word}),
        http.post(f"{URL}?dry_run={word}", json=CHAT),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")
    assert no_trace(engine)


def test_who_tries_a_model_that_there_is_not_wants_none(http: httpx.Client, server: Server) -> None:
    assert http.post(URL, json=CHAT | {"model": "nope"}, headers=DRY).status_code == 404
    assert not server.hot.relay.demand._counts
