"""Calling nodes over HTTP/1.1."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gpus.calls import Caller, CallFailed, CannotConnect, Connection, Origin, request_head

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers raw bytes, one script for all connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.script: Callable[[bytes], list[bytes | None]] = lambda request: [OK]

    async def start(self) -> "Server":
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = Origin(False, "127.0.0.1", self.server.sockets[0].getsockname()[1])
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(request)
                for part in self.script(request):
                    if part is None:
                        writer.close()
                        return
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def server(settings: Any) -> AsyncIterator[Server]:
    settings.ALLOW_PRIVATE_NODE_URLS = True
    found = await Server().start()
    yield found
    found.server.close()


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    found = Caller()
    yield found
    found.close()
    await asyncio.sleep(0.01)


async def get(caller: Caller, server: Server) -> tuple[Connection, bytes]:
    request = request_head("GET", "/", server.origin, {}) + b"\r\n"
    connection = await caller.call(server.origin, request)
    body = b"".join([chunk async for chunk in connection.chunks()])
    caller.give_back(server.origin, connection)
    return connection, body


async def test_a_connection_is_used_again(caller: Caller, server: Server) -> None:
    for _ in range(3):
        connection, body = await get(caller, server)
        assert (connection.status, body) == (200, b"ok")
    assert server.connections == 1


async def test_chunks_arrive_whole(caller: Caller, server: Server) -> None:
    server.script = lambda _: [CHUNKED, b"3\r\none\r\n", b"3\r\ntw", b"o\r\n0\r\n", b"\r\n"]
    assert (await get(caller, server))[1] == b"onetwo"
    assert (await get(caller, server))[1] == b"onetwo"
    assert server.connections == 1


async def test_an_answer_may_end_with_the_connection(caller: Caller, server: Server) -> None:
    server.script = lambda _: [b"HTTP/1.1 200 OK\r\n\r\n", b"all", None]
    assert (await get(caller, server))[1] == b"all"
    assert (await get(caller, server))[1] == b"all"
    assert server.connections == 2


async def test_what_comes_before_the_answer_is_passed_over(caller: Caller, server: Server) -> None:
    server.script = lambda _: [b"HTTP/1.1 100 Continue\r\n\r\n", OK]
    assert (await get(caller, server))[0].status == 200


async def test_a_connection_that_was_closed_meanwhile_is_replaced(caller: Caller, server: Server) -> None:
    answers = iter([[OK], [None], [OK]])
    server.script = lambda _: next(answers)
    await get(caller, server)
    assert (await get(caller, server))[1] == b"ok"
    assert server.connections == 2


async def test_a_new_connection_that_breaks_is_a_failure(caller: Caller, server: Server) -> None:
    server.script = lambda _: [None]
    with pytest.raises(CallFailed):
        await get(caller, server)
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        [CHUNKED, b"5\r\nab", None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", None],
        [b"HTTP/1.1 200 OK\r\nContent-Le", None],
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [CHUNKED, b"zz\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", None],
    ],
)
async def test_what_breaks_off_or_is_no_http_fails(
    caller: Caller, server: Server, answer: list[bytes]
) -> None:
    server.script = lambda _: answer
    with pytest.raises(CallFailed):
        await asyncio.wait_for(get(caller, server), 5)


async def test_nobody_there_is_told_apart(caller: Caller, server: Server) -> None:
    server.server.close()
    await server.server.wait_closed()
    with pytest.raises(CannotConnect):
        await get(caller, server)


async def test_private_addresses_are_refused_unless_allowed(
    caller: Caller, server: Server, settings: Any
) -> None:
    settings.ALLOW_PRIVATE_NODE_URLS = False
    with pytest.raises(CannotConnect, match="does not call"):
        await get(caller, server)
    assert server.connections == 0


async def test_a_reader_that_is_slow_holds_back_the_server(caller: Caller, server: Server) -> None:
    piece, pieces, sent = b"8000\r\n" + b"x" * 0x8000 + b"\r\n", 1000, 0

    def script(request: bytes) -> Any:
        nonlocal sent
        yield CHUNKED
        for _ in range(pieces):
            sent += 1
            yield piece
        yield b"0\r\n\r\n"

    server.script = script
    connection = await caller.call(server.origin, request_head("GET", "/", server.origin, {}) + b"\r\n")
    await asyncio.sleep(0.3)
    assert sent < pieces
    size = sum([len(chunk) async for chunk in connection.chunks()])
    assert size == pieces * 0x8000
    connection.close()


def test_a_host_header_names_unusual_ports_and_wraps_ipv6() -> None:
    assert Origin.of("https://node.example/v1").header == "node.example"
    assert Origin.of("http://node.example:8000").header == "node.example:8000"
    assert Origin.of("http://[2001:db8::1]:81/x").header == "[2001:db8::1]:81"
