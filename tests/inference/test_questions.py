"""POST /inference/ and /inference/stream/, as the document's client uses them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from aiohttp import web

from clients.models import Client
from gpus.models import Node
from inference.models import Inference
from tests.engine import Engine, chunk, stream
from tests.served import Server, last_record


@pytest.fixture
def node(server: Server, engine: Engine, add_node: Callable[..., Node]) -> Node:
    found = add_node("one", url=engine.url)
    server.knows(found)
    return found


def ask(person: Client, **more: Any) -> dict[str, Any]:
    return {"client": person.pk, "question_text": "Count!", "desired_model": "llama", **more}


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    """Read as the document's client does: line by line, with or without "data: "."""
    return [json.loads(line.removeprefix("data: ")) for line in reply.text.split("\n") if line]


def test_the_answer_comes_with_its_record(
    http: httpx.Client, node: Node, alice: Client, engine: Engine
) -> None:
    reply = http.post("/inference/", json=ask(alice))
    assert reply.status_code == 201
    said = reply.json()
    document = {
        "id",
        "client",
        "client_username",
        "question_text",
        "answer_text",
        "desired_model",
        "created_at",
    }
    assert document <= said.keys()
    assert (said["answer_text"], said["client_username"]) == ("one two three", "alice")
    assert engine.asked[0]["messages"] == [{"role": "user", "content": "Count!"}]
    assert http.get(f"/inference/{said['id']}/").json() == said


def test_a_client_id_may_be_a_text(http: httpx.Client, node: Node, alice: Client) -> None:
    assert http.post("/inference/", json=ask(alice, client=str(alice.pk))).status_code == 201


@pytest.mark.parametrize("path", ["/inference/", "/inference/stream/"])
def test_a_strangers_client_is_refused(
    http: httpx.Client, node: Node, charlie: Client, engine: Engine, path: str
) -> None:
    assert http.post(path, json=ask(charlie)).status_code == 403
    assert engine.asked == []
    assert not Inference.objects.exists()


@pytest.mark.parametrize("path", ["/inference/", "/inference/stream/"])
@pytest.mark.parametrize("field", ["client", "question_text", "desired_model"])
def test_a_missing_field_is_named(
    http: httpx.Client, node: Node, alice: Client, path: str, field: str
) -> None:
    said = ask(alice)
    del said[field]
    reply = http.post(path, json=said)
    assert reply.status_code == 400
    assert reply.json().keys() == {field}


@pytest.mark.parametrize(
    "wrong",
    [
        {"client": [1]},
        {"client": 2**70},
        {"question_text": {}},
        {"question_text": "\0"},
        {"desired_model": 7.5e300},
    ],
)
def test_wrong_types_are_refused(
    http: httpx.Client, node: Node, alice: Client, wrong: dict[str, Any]
) -> None:
    assert http.post("/inference/", json=ask(alice, **wrong)).status_code in (400, 403, 404)
    assert not Inference.objects.exists()


def test_a_stream_is_tokens_and_a_last_event(http: httpx.Client, node: Node, alice: Client) -> None:
    reply = http.post("/inference/stream/", json=ask(alice))
    assert reply.status_code == 201
    found = events(reply)
    record = last_record()
    assert found[:-1] == [{"token": "one "}, {"token": "two "}, {"token": "three"}]
    assert found[-1] == {"done": True, "id": record.pk, "answer_text": "one two three"}
    assert (record.answer_text, record.question_text, record.status) == (
        "one two three",
        "Count!",
        "completed",
    )


def test_everything_is_checked_before_the_first_byte(http: httpx.Client, node: Node, alice: Client) -> None:
    reply = http.post("/inference/stream/", json=ask(alice, desired_model="unknown"))
    assert reply.status_code == 404
    assert "does not exist" in reply.json()["detail"]


def test_a_partial_answer_is_kept_when_the_consumer_leaves(
    http: httpx.Client, node: Node, alice: Client, engine: Engine
) -> None:
    async def go_on(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stream(request, [chunk("word ")] * 1000, pause_s=0.02)

    engine.behaviour = go_on
    with http.stream("POST", "/inference/stream/", json=ask(alice)) as reply:
        next(reply.iter_bytes())
    record = last_record("partial")
    assert record.answer_text.startswith("word ")
    assert record.code == "consumer_left"
    said = http.get(f"/inference/{record.pk}/").json()
    assert said["status"] == "partial"
    assert said["reason"]


def test_a_node_that_dies_ends_the_stream_with_an_error(
    http: httpx.Client, node: Node, alice: Client, engine: Engine
) -> None:
    async def die(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request, [chunk("one ")], end=False)
        assert request.transport is not None
        await asyncio.sleep(0.05)
        request.transport.abort()
        return response

    engine.behaviour = die
    found = events(http.post("/inference/stream/", json=ask(alice)))
    assert found[0] == {"token": "one "}
    assert "failed in the middle" in found[-1]["error"]
    assert last_record("partial").answer_text == "one "


@pytest.mark.parametrize("path", ["/inference/", "/inference/stream/"])
def test_nobody_asks_without_a_credential(server: Server, node: Node, alice: Client, path: str) -> None:
    assert httpx.post(server.url + path, json=ask(alice)).status_code == 401


def test_a_model_of_the_other_document_answers_too(http: httpx.Client, node: Node) -> None:
    reply = http.post("/ai/models/llama/inference", json={"input": "Count!", "params": {"max_tokens": 5}})
    assert reply.status_code == 200
    said = reply.json()
    assert (said["output"], said["status"], said["model_id"]) == ("one two three", "completed", "llama")
    assert said["inference_id"] == str(last_record().pk)
    assert said["latency"] > 0


def test_it_makes_vectors_with_a_model_that_does(
    http: httpx.Client, server: Server, engine: Engine, add_node: Callable[..., Node]
) -> None:
    server.knows(add_node("vectors", model="embed/small", url=engine.url))
    reply = http.post("/ai/models/embed/small/inference", json={"input_data": "x"})
    assert reply.json()["output"] == [0.5, 0.5]


@pytest.mark.parametrize(
    "said", [{}, {"input": None}, {"input": [1, 2]}, {"input": "x", "params": []}, {"input": ""}]
)
def test_an_input_that_fits_nothing_is_refused(http: httpx.Client, node: Node, said: dict[str, Any]) -> None:
    reply = http.post("/ai/models/llama/inference", json=said)
    assert reply.status_code == 400
    assert reply.json()["error"].keys() == {"code", "message", "details"}
