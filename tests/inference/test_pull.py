"""Nodes that pull: one outbound connection each, many requests on it, from any web process."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from websockets.exceptions import InvalidStatus

from gpus.models import Node
from gpus.protocol import Kind
from inference.models import Inference
from tests.agent import HEAD, Agent
from tests.engine import Background, chunk
from tests.served import Server, last_record

ASK = {"model": "llama", "messages": [{"role": "user", "content": "count"}], "stream": True}
URL = "/v1/chat/completions"
AddNode = Callable[..., Node]
Connect = Callable[..., Agent]


async def words(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
    await agent.send(number, Kind.HEAD, HEAD)
    for word in ("one ", "two ", "three"):
        await agent.body(number, chunk(word))
        await asyncio.sleep(0)
    await agent.end(number, {"prompt_tokens": 4, "completion_tokens": 3})


@pytest.fixture
def connect(background: Background) -> Iterator[Connect]:
    opened: list[Agent] = []

    def connect(server: Server, node: Node, behaviour: Callable[..., Awaitable[None]] = words) -> Agent:
        async def make() -> Agent:
            return await Agent(server.url, node.token, behaviour).open()  # type: ignore[attr-defined]

        agent = background.run(make())
        opened.append(agent)
        server.knows(node)
        return agent

    yield connect
    for agent in opened:
        background.run(agent.close())


def text(reply: httpx.Response) -> str:
    data = [line[6:] for line in reply.text.split("\n\n") if line and line != "data: [DONE]"]
    return "".join(json.loads(line)["choices"][0]["delta"]["content"] for line in data)


def test_it_streams_through_the_agents_connection(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect
) -> None:
    connect(server, add_node("home"))
    reply = http.post(URL, json=ASK)
    assert text(reply) == "one two three"
    assert reply.headers["x-node"] == "home"
    record = last_record()
    assert (record.status, record.completion_tokens, record.usage_source) == ("completed", 3, "engine")


def test_a_node_without_a_connection_is_unreachable(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect, background: Background
) -> None:
    node = add_node("home")
    agent = connect(server, node)
    background.run(agent.close())
    server.until(lambda: server.hot.gateway.directory.nodes[node.pk].state == "unreachable")
    reply = http.post(URL, json=ASK)
    assert reply.status_code == 503
    assert "1 is unreachable" in reply.json()["error"]["message"]


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_wrong_token_is_refused_before_the_connection_opens(
    server: Server, background: Background, token: str
) -> None:
    async def attempt() -> None:
        await Agent(server.url, token, words).open()

    with pytest.raises(InvalidStatus) as refused:
        background.run(attempt())
    assert refused.value.response.status_code == 401


def test_many_requests_share_one_connection(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect, background: Background
) -> None:
    connect(server, add_node("home", concurrency=50))

    async def several() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, headers=http.headers, timeout=20) as client:
            return [
                text(reply)
                for reply in await asyncio.gather(*(client.post(URL, json=ASK) for _ in range(40)))
            ]

    assert background.run(several()) == ["one two three"] * 40


def test_a_request_reaches_a_node_that_is_connected_to_another_process(
    http: httpx.Client, server: Server, serve: Callable[[], Server], add_node: AddNode, connect: Connect
) -> None:
    other = serve()
    node = add_node("home")
    connect(other, node)
    server.knows(node)
    for _ in range(3):
        assert text(http.post(URL, json=ASK)) == "one two three"
    plain = last_record()
    assert (plain.status, plain.completion_tokens) == ("completed", 3)


def test_a_slow_reader_holds_back_the_agent(
    http: httpx.Client, server: Server, serve: Callable[[], Server], add_node: AddNode, connect: Connect
) -> None:
    pieces, size = 400, 50_000

    async def flood(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        await agent.send(number, Kind.HEAD, HEAD)
        for _ in range(pieces):
            await agent.body(number, chunk("x" * size))
        await agent.end(number, {"prompt_tokens": 1, "completion_tokens": pieces})

    other = serve()
    node = add_node("home")
    agent = connect(other, node, flood)
    server.knows(node)
    with http.stream("POST", URL, json=ASK) as reply:
        parts = reply.iter_bytes(65536)
        next(parts)
        time.sleep(1)
        held = agent.sent[1]
        # What fills the window and the buffers of two sockets, and far from all of it.
        assert held < pieces * size / 2
        rest = sum(map(len, parts))
    assert rest > 0.99 * pieces * size
    assert agent.sent[1] > pieces * size


def test_leaving_cancels_at_the_agent_and_counts_what_it_says(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect
) -> None:
    async def slowly(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        await agent.send(number, Kind.HEAD, HEAD)
        while True:
            await agent.body(number, chunk("word "))
            await asyncio.sleep(0.05)

    agent = connect(server, add_node("home"), slowly)
    with http.stream("POST", URL, json=ASK) as reply:
        next(reply.iter_bytes())
    server.until(lambda: agent.cancelled == [1], timeout=1.0)
    record = last_record("partial")
    assert (record.code, record.completion_tokens, record.usage_source) == ("consumer_left", 7, "tokenizer")


@pytest.mark.parametrize("through_another_process", [False, True])
def test_a_connection_that_breaks_in_the_middle_ends_the_stream_clearly(
    http: httpx.Client,
    server: Server,
    serve: Callable[[], Server],
    add_node: AddNode,
    connect: Connect,
    through_another_process: bool,
) -> None:
    async def die(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        await agent.send(number, Kind.HEAD, HEAD)
        await agent.body(number, chunk("one "))
        await asyncio.sleep(0.1)
        agent.socket.transport.abort()

    node = add_node("home")
    connect(serve() if through_another_process else server, node, die)
    server.knows(node)
    reply = http.post(URL, json=ASK)
    assert '"node_lost"' in reply.text
    assert last_record("partial").code == "node_lost"


def test_a_connection_that_breaks_before_the_answer_moves_the_request(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect
) -> None:
    async def die(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        agent.socket.transport.abort()

    connect(server, add_node("bad", concurrency=1000), die)
    connect(server, add_node("good"))
    replies = [http.post(URL, json=ASK) for _ in range(8)]
    assert [text(reply) for reply in replies] == ["one two three"] * 8
    assert {reply.headers["x-node"] for reply in replies} == {"good"}


def test_a_busy_agent_is_asked_again_while_nobody_else_is_free(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect
) -> None:
    async def busy_twice(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        if number < 3:
            await agent.send(number, Kind.ERROR, json.dumps({"code": "busy", "message": "full"}).encode())
        else:
            await words(agent, number, head, body)

    connect(server, add_node("home"), busy_twice)
    assert text(http.post(URL, json=ASK)) == "one two three"
    assert last_record().attempts == []


def test_the_newest_connection_of_a_node_counts(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect, background: Background
) -> None:
    node = add_node("home")

    async def wrong(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        raise AssertionError("the old connection was used")

    old = connect(server, node, wrong)
    connect(server, node)
    assert text(http.post(URL, json=ASK)) == "one two three"
    background.run(old.close())
    time.sleep(0.2)
    assert text(http.post(URL, json=ASK)) == "one two three"


def test_bytes_that_are_no_frames_end_the_connection(
    server: Server, add_node: AddNode, connect: Connect, background: Background
) -> None:
    agent = connect(server, add_node("home"))
    background.run(agent.socket.send(b"garbage"))
    background.run(agent.socket.wait_closed())
    assert agent.socket.close_code == 4002


def test_the_deadline_travels_with_the_request(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect
) -> None:
    heads: list[dict[str, Any]] = []

    async def note(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        heads.append(head)
        await words(agent, number, head, body)

    connect(server, add_node("home"), note)
    http.post(URL, json=ASK, headers={"X-Deadline-S": "33"})
    assert heads[0]["path"] == URL
    assert 30 < heads[0]["deadline_s"] <= 33
    assert heads[0]["request_id"] == Inference.objects.get().request_id.hex


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.HEAD, b"{")],
        [(Kind.HEAD, b"[]")],
        [(Kind.HEAD, b"{}")],
        [(Kind.HEAD, b'{"status":"200"}')],
        [(Kind.BODY, b"no head")],
        [(Kind.HEAD, HEAD), (Kind.END, b"nonsense")],
        [(Kind.ERROR, b"7")],
        [(Kind.HEAD, HEAD), (Kind.BODY, b"\xff\xfe"), (Kind.END, b'{"usage":[1],"usage_source":7}')],
    ],
)
def test_an_agent_that_talks_nonsense_fails_the_request_and_nothing_else(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect, frames: list[tuple[Kind, bytes]]
) -> None:
    async def nonsense(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        for kind, payload in frames:
            await agent.send(number, kind, payload)

    node = add_node("home")
    connect(server, node, nonsense)
    for streamed in (True, False):
        reply = http.post(URL, json=ASK | {"stream": streamed})
        assert reply.status_code == 502, reply.text
        assert last_record("failed").code == "node_failed"
    assert server.hot.gateway.directory.pools["llama"].offers[node.pk].outstanding == 0


def test_an_agent_that_ignores_its_credit_fills_no_memory(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect
) -> None:
    async def flood(agent: Agent, number: int, head: dict[str, Any], body: dict[str, Any]) -> None:
        await agent.send(number, Kind.HEAD, HEAD)
        for _ in range(2000):
            await agent.send(number, Kind.BODY, chunk("x" * 50_000))

    agent = connect(server, add_node("home"), flood)
    with http.stream("POST", URL, json=ASK) as reply:
        next(reply.iter_bytes())
        server.until(lambda: 1 in agent.cancelled, timeout=10)
    server.until(lambda: Inference.objects.get().status in ("partial", "failed"))


def test_a_nodes_name_cannot_add_headers(
    http: httpx.Client, server: Server, add_node: AddNode, connect: Connect
) -> None:
    connect(server, add_node("home\r\nX-Evil: 1\u00e9"))
    reply = http.post(URL, json=ASK)
    assert reply.headers["x-node"] == "home??X-Evil: 1?"
    assert "x-evil" not in reply.headers
