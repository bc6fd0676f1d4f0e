"""A node that is hostile or broken: whatever it answers, it is a node that is away, and within its time."""

import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from chain import wire
from chain.ethereum import Ethereum, NodeAway, Refused

Answer = Callable[[Any], None]


@contextmanager
def serving(answer: Answer, *, timeout_s: float = 1) -> Iterator[Ethereum]:
    """A node that answers every question with what `answer` writes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Ethereum(f"http://127.0.0.1:{server.server_port}", timeout_s=timeout_s)
    finally:
        server.shutdown()
        server.server_close()


def saying(body: bytes, **headers: str) -> Answer:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


QUESTION = ("eth_blockNumber", [])
NONSENSE = [
    b"",
    b"null",
    b"5",
    b'"x"',
    b"[]",
    b"[1]",
    b"[null]",
    b"{}",
    b"[[[[]]]]",
    b'[{"id": "x"}, {"id": 1}]',
    b'[{"jsonrpc": "2.0", "id": {}, "result": 1}, {"jsonrpc": "2.0", "id": 0, "result": 1}]',
    b"<html>",
    b"[" * 200_000,
    b'{"jsonrpc": "2.0", "id": 0, "result": {"number": null}}',
    b'{"jsonrpc": "2.0", "id": 0, "result": [1]}',
    b'{"jsonrpc": "2.0", "id": 0, "error": 5}',
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_a_node_that_is_away(body: bytes) -> None:
    asked: list[Callable[[Ethereum], Any]] = [
        lambda node: node.ask([QUESTION, QUESTION]),
        lambda node: node.chain_id(),
        lambda node: node.head(),
        lambda node: node.blocks([1, 2]),
        lambda node: node.balance("0x" + "11" * 20),
        lambda node: node.nonce("0x" + "11" * 20),
        lambda node: node.estimate({"to": "0x" + "11" * 20}),
        lambda node: node.receipt("0x" + "11" * 32),
        lambda node: node.send(b"\x01"),
    ]
    with serving(saying(body)) as node:
        for question in asked:
            with pytest.raises((NodeAway, Refused)):
                question(node)
                # What is not told apart from a good answer is no harm.
                raise NodeAway


def test_an_answer_that_drips_ends_in_time() -> None:
    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(200):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.1)

    begun = time.monotonic()
    with serving(drip, timeout_s=0.5) as node, pytest.raises(NodeAway):
        node.ask([QUESTION])
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("is_packed", [False, True])
def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, is_packed: bool
) -> None:
    monkeypatch.setattr(wire, "MOST_BYTES", 1_000_000)
    body = b" " * 50_000_000 + b"1"
    headers = {"Content_Encoding": "gzip"} if is_packed else {}
    answer = saying(gzip.compress(body, 1) if is_packed else body, **headers)
    with serving(answer, timeout_s=5) as node, pytest.raises(NodeAway):
        node.ask([QUESTION])


def test_a_good_answer_is_read_packed_or_not() -> None:
    body = b'[{"jsonrpc": "2.0", "id": 0, "result": "0x5"}]'
    for answer in (saying(body), saying(gzip.compress(body), Content_Encoding="gzip")):
        with serving(answer) as node:
            assert node.ask([QUESTION]) == ["0x5"]
            assert node.ask([QUESTION]) == ["0x5"]


@pytest.mark.parametrize("value", ["-0x1", "0x" + "f" * 17, "x", ""])
def test_numbers_that_no_block_has(value: str) -> None:
    with pytest.raises(ValueError):
        wire.number(value)


@pytest.mark.parametrize("value", ["0x", "0x12", "0x" + "12" * 33, "0x" + "zz" * 32])
def test_hashes_that_are_none(value: str) -> None:
    with pytest.raises(ValueError):
        wire.digest(value)


def test_depth_without_end_is_an_error_and_not_the_end_of_the_process() -> None:
    says = (
        "import django, json; django.setup(); import chain.tasks, marketplace.urls; json.loads('[' * 300_000)"
    )
    ended = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended
    assert "RecursionError" in ended.stderr
