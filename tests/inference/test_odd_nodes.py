"""Nodes that fail, are full, or answer what no database takes: the consumer is served, and nothing stays open."""

import threading
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web

from clients.models import Allowance, Client, Hold, Transfer
from gpus.models import Node
from inference import relay
from inference.models import Inference, Running
from tests.engine import Background, Engine, chunk
from tests.inference.test_charging import CHAT, failing, priced, rich
from tests.served import Server, last_record

__all__ = ["priced", "rich"]  # fixtures

Behaviour = Callable[[web.Request, dict[str, Any]], Any]


def answering(body: Any, *, status: int = 200, **headers: str) -> Behaviour:
    async def answer(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(
            body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return answer


@pytest.fixture
def other(background: Background) -> Any:
    """A second engine."""
    found = Engine(background)
    yield found
    found.stop()


def nothing_is_open() -> bool:
    return not Running.objects.exists() and not Hold.objects.filter(ended_at=None).exists()


@pytest.mark.parametrize("behaviour", [failing, answering({"error": "full"}, status=503)])
def test_what_a_free_node_does_not_answer_a_paid_one_does(
    http: httpx.Client, server: Server, other: Engine, add_node: Callable[..., Node], priced: Callable[..., Node],
    rich: None, behaviour: Behaviour,
) -> None:  # fmt: skip
    other.behaviour = behaviour
    server.knows(add_node("free", url=other.url))
    priced("paid")
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(http.post("/v1/chat/completions", json=CHAT).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert other.asked, "the free node was never tried"
    assert set(Inference.objects.values_list("status", flat=True)) == {"completed"}
    charged = list(Inference.objects.values_list("charged", flat=True))
    assert Transfer.objects.filter(kind="inference").count() == sum(amount > 0 for amount in charged) == 4
    assert nothing_is_open()


def test_a_node_that_fails_with_odd_words_does_not_cost_the_next_one_its_pay(
    http: httpx.Client, other: Engine, priced: Callable[..., Node], rich: None
) -> None:
    other.behaviour = answering({"error": {"message": "boom \0 boom"}}, status=500)
    priced("bad", url=other.url, input="1", output="1", request="0.1")
    priced("good")
    replies = [http.post("/v1/chat/completions", json=CHAT) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200] * 3
    assert other.asked
    assert Transfer.objects.filter(kind="inference").count() == 3
    assert nothing_is_open()


@pytest.mark.parametrize("code", ["x" * 80, "a\0b", "two words", 7])
def test_an_engines_own_code_is_passed_on_only_where_it_is_one(
    http: httpx.Client, engine: Engine, priced: Callable[..., Node], rich: None, alice: Client, code: Any
) -> None:
    engine.behaviour = answering({"error": {"message": "too long", "code": code}}, status=400)
    priced()
    Allowance.objects.create(client=alice, concurrency=1)
    for _ in range(2):
        reply = http.post("/v1/chat/completions", json=CHAT)
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, "too long")
    assert nothing_is_open()
    assert Allowance.objects.get().running == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_usage_that_is_no_number_is_not_believed(
    http: httpx.Client, engine: Engine, priced: Callable[..., Node], rich: None, streamed: bool
) -> None:
    usage = {"prompt_tokens": True, "completion_tokens": 3}

    async def odd(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not streamed:
            return web.json_response({"choices": [{"message": {"content": "all of it"}}], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk("all of it"))
        await response.write(
            b'data: {"choices":[],"usage":{"prompt_tokens":true,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
        )
        return response

    engine.behaviour = odd
    priced()
    reply = http.post("/v1/chat/completions", json=CHAT | {"stream": streamed})
    assert reply.status_code == 200
    record = last_record("completed")
    assert record.usage_source == "estimate"
    assert record.charged > 0
    assert nothing_is_open()


def test_an_end_that_the_database_refuses_is_written_without_what_it_refuses(
    http: httpx.Client, engine: Engine, priced: Callable[..., Node], rich: None, alice: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whatever else a node may come to say: it keeps no request open, no money held, no place taken."""
    monkeypatch.setattr(relay, "_CODE", relay.re.compile("x*"))
    engine.behaviour = answering({"error": {"message": "no", "code": "x" * 80}}, status=400)
    priced()
    Allowance.objects.create(client=alice, concurrency=1)
    for _ in range(2):
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 400
    record = last_record("failed")
    assert (record.code, record.charged) == ("unrecordable", 0)
    assert nothing_is_open()
    assert Allowance.objects.get().running == 0
