"""The measuring instruments themselves: what they count, and that nothing broken is ever counted."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from benchmarks import load
from benchmarks.calls import Caller
from benchmarks.load import LoadError, Target
from benchmarks.mock_engine import ANSWER, CHUNKS, PIECES, Engine

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def serve() -> AsyncIterator[Callable]:
    """Start a server from a protocol factory; its address."""
    servers = []

    async def start(factory) -> str:
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    await asyncio.sleep(0.01)  # the server's ends of the connections close a moment after the others


@pytest.fixture
async def engine(serve) -> str:
    return await serve(lambda: Engine(("bench",)))


def saying(*parts: bytes, then_close: bool = False):
    """A server that answers whatever comes with these bytes."""

    class Answering(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            for part in parts:
                self.transport.write(part)
            if then_close:
                self.transport.close()

    return Answering


def chunked(*events: str) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(event.encode()), event.encode()) for event in events]


@pytest.mark.parametrize("stream", [False, True])
async def test_every_answer_of_the_engine_is_counted(engine, stream):
    result = await load.run(Target(engine, "any"), connections=4, stream=stream, count=40)
    assert (result.answered, result.requests) == (40, 40)
    assert 0 < result.percentile_ms(0.5) <= result.percentile_ms(0.99)


async def test_only_what_arrives_in_the_window_is_measured_and_everything_is_counted(engine):
    result = await load.run(Target(engine, "any"), connections=2, seconds=0.1, warm_up=0.1)
    assert 0 < result.requests < result.answered
    assert result.rate == pytest.approx(result.requests / 0.1)


async def test_the_engine_reports_usage_plain_and_streamed(engine):
    asked = {"model": "any", "messages": [{"role": "user", "content": "two words"}]}
    async with Caller(engine) as caller:
        _, plain = await caller.post("/v1/chat/completions", asked)
        streaming = asked | {"stream": True, "stream_options": {"include_usage": True}}
        status, body = await caller.send(caller.request("POST", "/v1/chat/completions", streaming))
    usage = {"prompt_tokens": 2, "completion_tokens": CHUNKS, "total_tokens": CHUNKS + 2}
    assert plain["usage"] == usage
    assert plain["choices"][0]["message"]["content"] == ANSWER
    assert status == 200
    assert body.count(b'"content":') == CHUNKS
    assert b'"completion_tokens":20' in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_chunk_is_missing(serve):
    events = chunked(*(f"data: {piece}\n\n" for piece in PIECES[:-1]), "data: [DONE]\n\n")
    url = await serve(saying(HEAD, *events, b"0\r\n\r\n"))
    with pytest.raises(LoadError, match="incomplete"):
        await load.run(Target(url, "any"), connections=1, stream=True, count=1)


async def test_chunks_come_in_the_wrong_order(serve):
    events = chunked(*(f"data: {piece}\n\n" for piece in reversed(PIECES)), "data: [DONE]\n\n")
    url = await serve(saying(HEAD, *events, b"0\r\n\r\n"))
    with pytest.raises(LoadError, match="incomplete"):
        await load.run(Target(url, "any"), connections=1, stream=True, count=1)


async def test_a_stream_ends_without_done(serve):
    url = await serve(saying(HEAD, *chunked(*(f"data: {piece}\n\n" for piece in PIECES)), b"0\r\n\r\n"))
    with pytest.raises(LoadError, match=r"without \[DONE\]"):
        await load.run(Target(url, "any"), connections=1, stream=True, count=1)


async def test_the_connection_breaks_before_the_last_chunk(serve):
    events = chunked(*(f"data: {piece}\n\n" for piece in PIECES), "data: [DONE]\n\n")
    url = await serve(saying(HEAD, *events, then_close=True))
    with pytest.raises(LoadError, match="connection was closed"):
        await load.run(Target(url, "any"), connections=1, stream=True, count=1)


async def test_an_error_status_ends_the_run(serve):
    url = await serve(saying(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 2\r\n\r\n{}"))
    with pytest.raises(LoadError, match="not 200"):
        await load.run(Target(url, "any"), connections=3, count=3)


async def test_an_answer_that_never_comes_ends_the_run(serve):
    url = await serve(saying())
    with pytest.raises(LoadError, match="2 of 2 connections still wait"):
        await load.run(Target(url, "any"), connections=2, count=2, patience=0.1)


def test_a_body_that_looks_like_its_own_end_is_read_on():
    text = b"0\r\n\r\n"
    framed = HEAD + b"%x\r\n%b" % (len(text), text)
    assert load.whole_body(framed) is None
    assert load.whole_body(framed + b"\r\n0\r\n\r\n") == text
