"""POST /v1/chat/completions through the whole hot path, to nodes that we call."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import openai
import pytest
from aiohttp import web
from django.utils import timezone

from clients import keys, providers
from clients.models import ApiKey, Client
from gpus.models import Node
from inference.models import Inference
from tests.engine import Background, Engine, answer, chunk, stream
from tests.served import Server, last_record

ASK = {"model": "llama", "messages": [{"role": "user", "content": "count"}]}
URL = "/v1/chat/completions"
AddNode = Callable[..., Node]


@pytest.fixture
def node(server: Server, engine: Engine, add_node: AddNode) -> Node:
    found = add_node("one", url=engine.url)
    server.knows(found)
    return found


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_it_answers_and_records(http: httpx.Client, node: Node, engine: Engine, alice: Client) -> None:
    reply = http.post(URL, json=ASK)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "one two three"
    record = last_record()
    assert str(record.pk) == reply.headers["x-inference-id"]
    assert reply.headers["x-node"] == "one"
    assert (record.status, record.client, record.node) == ("completed", alice, node)
    assert (record.prompt_tokens, record.completion_tokens, record.usage_source) == (4, 3, "engine")
    assert record.latency_ms is not None
    assert record.answer_text == record.question_text == ""
    assert len(record.request_sha256) == len(record.response_sha256) == 64


def test_every_parameter_reaches_the_engine_as_it_was_sent(
    http: httpx.Client, node: Node, engine: Engine
) -> None:
    content = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    ask = ASK | {
        "messages": [{"role": "user", "content": content}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "temperature": 0.1,
        "unknown_to_us": {"a": [1, None]},
    }
    http.post(URL, json=ask)
    assert engine.asked == [ask]


def test_the_node_is_called_with_its_own_secret_and_not_the_consumers(
    http: httpx.Client, node: Node, engine: Engine, key: str
) -> None:
    http.post(URL, json=ASK)
    assert engine.headers[0]["Authorization"].startswith("Bearer mp-")
    assert key not in str(engine.headers)


def test_a_stream_arrives_whole_and_in_order(http: httpx.Client, node: Node) -> None:
    reply = http.post(URL, json=ASK | {"stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    found = events(reply)
    assert found.pop() == "[DONE]"
    assert [each["choices"][0]["delta"]["content"] for each in found] == ["one ", "two ", "three"]
    record = last_record()
    assert (record.status, record.streamed, record.completion_tokens) == ("completed", True, 3)
    assert record.first_token_ms is not None


def test_usage_is_streamed_only_to_who_asks(http: httpx.Client, node: Node, engine: Engine) -> None:
    reply = http.post(URL, json=ASK | {"stream": True, "stream_options": {"include_usage": True}})
    assert events(reply)[-2]["usage"]["completion_tokens"] == 3
    http.post(URL, json=ASK | {"stream": True})
    assert all(asked["stream_options"] == {"include_usage": True} for asked in engine.asked)


def test_the_openai_client_works_unchanged(server: Server, node: Node, key: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        _use(client)


def _use(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**ASK)
    assert reply.choices[0].message.content == "one two three"
    parts = client.chat.completions.create(**ASK, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "one two three"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**ASK | {"model": "lama"})
    assert missing.value.code == "model_not_found"
    assert "Did you mean 'llama'?" in missing.value.message
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").chat.completions.create(**ASK)
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="llama", messages=[])
    assert wrong.value.param == "messages"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b'{"model":"llama"}', b'{"model":7,"messages":[1]}', b"\xff"]
)
def test_a_bad_body_is_a_400_in_openais_shape(http: httpx.Client, body: bytes) -> None:
    reply = http.post(URL, content=body)
    assert reply.status_code == 400
    assert set(reply.json()["error"]) >= {"message", "type", "param", "code"}
    assert not Inference.objects.exists()


def test_nobody_gets_in_without_a_key(server: Server, node: Node, engine: Engine) -> None:
    reply = httpx.post(server.url + URL, json=ASK)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Token"
    assert engine.asked == []


def test_a_key_that_was_cut_off_stops_at_once(http: httpx.Client, node: Node, alice: Client) -> None:
    assert http.post(URL, json=ASK).status_code == 200
    keys.revoke(ApiKey.objects.get(), now=timezone.now())
    end = time.monotonic() + 2
    while (status := http.post(URL, json=ASK).status_code) == 200:
        assert time.monotonic() < end
    assert status == 401


def test_a_key_may_be_limited_to_models(server: Server, node: Node, alice: Client) -> None:
    key = keys.create(alice, name="narrow", allowed_models=["other"]).key
    reply = httpx.post(server.url + URL, json=ASK, headers={"Authorization": f"Bearer {key}"})
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "model_not_allowed"


def test_a_key_may_be_limited_per_minute(server: Server, node: Node, alice: Client) -> None:
    key = keys.create(alice, name="slow", requests_per_minute=2).key
    headers = {"Authorization": f"Bearer {key}"}
    replies = [httpx.post(server.url + URL, json=ASK, headers=headers) for _ in range(5)]
    # Two pass, and two more if a minute ended in between; never all five.
    assert [reply.status_code for reply in replies[:2]] == [200, 200]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert refused
    assert 1 <= int(refused[0].headers["retry-after"]) <= 60
    assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"


def test_a_broken_node_is_passed_over(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode, background: Background
) -> None:
    bad, good = add_node("bad", url="http://127.0.0.1:9", concurrency=1000), add_node("good", url=engine.url)
    server.knows(bad, good)
    replies = [http.post(URL, json=ASK) for _ in range(6)]
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.headers["x-node"] for reply in replies} == {"good"}
    tried = [record for record in Inference.objects.all() if record.attempts]
    # Whoever has read the node's row just before may try it once more.
    assert len(tried) in (1, 2)
    assert tried[0].attempts[0]["name"] == "bad"
    server.until(lambda: Node.objects.get(name="bad").unreachable_since is not None)
    assert "could not call" in Node.objects.get(name="bad").unreachable_why


def test_a_node_that_can_be_called_again_is_used_again(
    http: httpx.Client, server: Server, background: Background, add_node: AddNode
) -> None:
    engine = Engine(background)
    node = add_node("one", url=engine.url)
    server.knows(node)
    assert http.post(URL, json=ASK).status_code == 200
    engine.stop()
    assert http.post(URL, json=ASK).status_code == 502
    reply = http.post(URL, json=ASK)
    assert (reply.status_code, "unreachable" in reply.json()["error"]["message"]) == (503, True)
    again = Engine(background, port=engine.port)
    server.knows(node)
    assert http.post(URL, json=ASK).status_code == 200
    again.stop()


def test_a_connection_that_the_engine_has_closed_meanwhile_is_no_failure(
    http: httpx.Client, node: Node, engine: Engine
) -> None:
    async def close_after(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        reply = await answer(request, body)
        transport = request.transport
        asyncio.get_running_loop().call_later(0.01, lambda: transport and transport.abort())
        return reply

    engine.behaviour = close_after
    replies = [http.post(URL, json=ASK) for _ in range(20)]
    assert [reply.status_code for reply in replies] == [200] * 20
    assert not any(record.attempts for record in Inference.objects.all())


def test_a_node_gets_work_when_its_owner_is_approved(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode, bob: Client, operator: Client
) -> None:
    Client.objects.filter(pk=bob.pk).update(provider_status="pending")
    node = add_node("one", url=engine.url)
    server.until(lambda: node.pk in server.hot.gateway.directory.nodes)
    assert "1 is pending" in http.post(URL, json=ASK).json()["error"]["message"]
    bob.refresh_from_db()
    providers.approve(bob, by=operator, now=timezone.now())
    server.knows(node)
    assert http.post(URL, json=ASK).status_code == 200


def test_an_engine_that_fails_is_passed_over(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode, background: Background
) -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "out of memory"}}, status=500)

    other = Engine(background)
    other.behaviour = fail
    server.knows(add_node("bad", url=other.url), add_node("good", url=engine.url))
    replies = [http.post(URL, json=ASK | {"stream": stream}) for stream in (True, False) * 4]
    assert {reply.status_code for reply in replies} == {200}
    other.stop()


def test_when_every_node_fails_the_reasons_are_named(http: httpx.Client, node: Node, engine: Engine) -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "out of memory"}}, status=500)

    engine.behaviour = fail
    reply = http.post(URL, json=ASK)
    assert reply.status_code == 502
    assert "one: The engine answered with status 500: out of memory" in reply.json()["error"]["message"]
    record = last_record("failed")
    assert record.code == "node_failed"
    assert record.completion_tokens == 0


def test_what_the_engine_says_of_a_wrong_request_reaches_the_consumer(
    http: httpx.Client, node: Node, engine: Engine
) -> None:
    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        error = {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}
        return web.json_response({"error": error}, status=400)

    engine.behaviour = refuse
    for streamed in (False, True):
        reply = http.post(URL, json=ASK | {"stream": streamed})
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == "too long"
        assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert len(engine.asked) == 2


def test_a_stream_that_breaks_ends_with_an_error_and_keeps_what_was_delivered(
    http: httpx.Client, node: Node, engine: Engine
) -> None:
    async def break_off(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request, [chunk("one "), chunk("two ")], end=False)
        assert request.transport is not None
        await asyncio.sleep(0.05)
        request.transport.abort()
        return response

    engine.behaviour = break_off
    found = events(http.post(URL, json=ASK | {"stream": True}))
    assert [each["choices"][0]["delta"]["content"] for each in found[:-1]] == ["one ", "two "]
    assert found[-1]["error"]["code"] == "node_lost"
    record = last_record("partial")
    assert (record.code, record.completion_tokens, record.usage_source) == ("node_lost", 2, "estimate")


def test_a_consumer_that_leaves_stops_the_node_within_a_second(
    http: httpx.Client, node: Node, engine: Engine, server: Server
) -> None:
    async def go_on(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, [chunk("word ")] * 1000, pause_s=0.02)

    engine.behaviour = go_on
    with http.stream("POST", URL, json=ASK | {"stream": True}) as reply:
        next(reply.iter_bytes())
    assert engine.left.wait(1.0)
    record = last_record("partial")
    assert record.code == "consumer_left"
    assert 0 < record.completion_tokens < 100
    assert server.hot.gateway.directory.pools["llama"].offers[node.pk].outstanding == 0


def test_a_consumer_that_leaves_before_the_answer_costs_nothing(
    http: httpx.Client, node: Node, engine: Engine
) -> None:
    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(10)
        return web.json_response({})

    engine.behaviour = wait
    with pytest.raises(httpx.ReadTimeout):
        http.post(URL, json=ASK, timeout=0.3)
    assert engine.left.wait(1.0)
    record = last_record("cancelled")
    assert (record.code, record.completion_tokens) == ("consumer_left", 0)


def test_the_deadline_ends_a_request(http: httpx.Client, node: Node, engine: Engine) -> None:
    async def wait(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(10)
        return web.json_response({})

    engine.behaviour = wait
    reply = http.post(URL, json=ASK, headers={"X-Deadline-S": "0.5"})
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "deadline_exceeded"
    assert last_record("failed").code == "deadline_exceeded"
    assert engine.left.wait(1.0)


def test_no_capacity_is_said_at_once_with_the_reasons(http: httpx.Client, node: Node, server: Server) -> None:
    Node.objects.filter(pk=node.pk).update(maintenance=True)
    Node.objects.get(pk=node.pk).save()
    server.until(lambda: not server.hot.gateway.directory.nodes[node.pk].takes_work)
    reply = http.post(URL, json=ASK)
    assert reply.status_code == 503
    assert reply.headers["retry-after"]
    assert reply.json()["error"]["message"] == "1 node holds llama: 1 is maintenance."
    assert last_record("failed").code == "no_capacity"


def test_what_could_answer_instead_is_suggested(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode
) -> None:
    add_node("away", maintenance=True)
    server.knows(
        add_node("other", model="mistral", url=engine.url), add_node("v", model="embed", url=engine.url)
    )
    server.until(lambda: "llama" in server.hot.gateway.directory.pools)
    error = http.post(URL, json=ASK).json()["error"]
    assert error["message"].endswith("mistral could answer now.")
    assert error["details"]["suggestions"] == ["mistral"]


def test_a_demand_that_no_node_meets_is_a_400(http: httpx.Client, node: Node) -> None:
    reply = http.post(URL, json=ASK, headers={"X-Region": "moon"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "policy_not_met"
    assert "not in region moon" in reply.json()["error"]["message"]


def test_requests_wait_for_a_full_node(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode, background: Background
) -> None:
    async def slowly(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return await answer(request, body)

    engine.behaviour = slowly
    server.knows(add_node("narrow", url=engine.url, concurrency=1))

    async def several() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, headers=http.headers, timeout=20) as client:
            replies = await asyncio.gather(*(client.post(URL, json=ASK) for _ in range(4)))
            return [reply.status_code for reply in replies]

    assert background.run(several()) == [200] * 4
    assert max(Inference.objects.values_list("queued_ms", flat=True)) >= 400


def test_an_embedding_model_is_not_for_chat(
    http: httpx.Client, server: Server, engine: Engine, add_node: AddNode
) -> None:
    server.knows(add_node("vectors", model="embed-small", url=engine.url))
    reply = http.post(URL, json=ASK | {"model": "embed-small"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "unsupported_kind"
    reply = http.post("/v1/embeddings", json={"model": "embed-small", "input": "x"})
    assert reply.json()["data"][0]["embedding"] == [0.5, 0.5]
    assert last_record().kind == "embedding"


def test_other_methods_are_refused_in_openais_shape(http: httpx.Client) -> None:
    reply = http.get(URL)
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    assert reply.json()["error"]["code"] == "method_not_allowed"
