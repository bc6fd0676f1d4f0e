"""The fastest honest engine: what a model server says on the wire, without a model behind it.

Speaks HTTP/1.1 with keep-alive and answers in OpenAI's shapes:

    POST /v1/chat/completions   plain, with usage; or streamed: 20 content chunks, each written by itself, the
                                usage chunk if `stream_options.include_usage` asks for it, and [DONE]
    POST /v1/embeddings         8 numbers per input
    GET  /v1/models             the names given with --model; any other name is answered all the same

Every request is read to its end and its JSON is parsed; no answer is delayed. One process, one thread.

    python -m benchmarks.mock_engine --port 9000 --model bench
"""

import argparse
import asyncio
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, cast

import orjson
import uvloop

CHUNKS = 20
# Unique, and found in no other part of an answer, so that a reader can check order and completeness.
PIECES = tuple(f"piece{number:02d} " for number in range(CHUNKS))
ANSWER = "".join(PIECES)
CREATED = 1_750_000_000
DIMENSIONS = 8

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_LAST = b"0\r\n\r\n"
_IDS = itertools.count(1)


class Engine(asyncio.Protocol):
    """One connection. Requests that arrive while an answer is being streamed wait in the buffer."""

    def __init__(self, models: tuple[str, ...]) -> None:
        self.models = models
        self.buffer = b""
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.stream: Iterator[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = self.stream = None

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        while self.buffer and self.stream is None and self.transport is not None:
            if not self._take_request():
                return

    def _take_request(self) -> bool:
        """Answer the first request in the buffer; False if its end has not arrived."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self.buffer[:end]
        length = _content_length(head)
        if length is None:
            self._write(_reply(411, {"error": {"message": "Content-Length is required."}}))
            self.transport.close()  # type: ignore[union-attr]
            return False
        start, stop = end + 4, end + 4 + length
        if len(self.buffer) < stop:
            return False
        body, self.buffer = self.buffer[start:stop], self.buffer[stop:]
        method, path, _ = head.split(b" ", 2)
        self._answer(method, path, body)
        return True

    def _answer(self, method: bytes, path: bytes, body: bytes) -> None:
        if path == b"/v1/chat/completions" and method == b"POST":
            self._chat(orjson.loads(body))
        elif path == b"/v1/embeddings" and method == b"POST":
            self._write(_reply(200, _embeddings(orjson.loads(body))))
        elif path == b"/v1/models":
            self._write(_reply(200, _model_list(self.models)))
        else:
            self._write(_reply(404, {"error": {"message": "No such path.", "type": "invalid_request_error"}}))

    def _chat(self, request: dict[str, Any]) -> None:
        if not request.get("stream"):
            self._write(_reply(200, _chat_completion(request)))
            return
        self.stream = _chat_stream(request)
        self._write(_STREAM_HEAD)
        self._write_next()

    def _write_next(self) -> None:
        """Write one piece and come back in the loop's next turn, so that each leaves by itself."""
        if self.stream is None:
            return
        piece = next(self.stream, None)
        if piece is not None:
            self._write(piece)
            self.loop.call_soon(self._write_next)
            return
        self.stream = None
        self.data_received(b"")

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


def _content_length(head: bytes) -> int | None:
    """The length of the body, 0 if there is none; None if it comes chunked."""
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    if at < 0:
        return None if b"\r\ntransfer-encoding:" in lowered else 0
    stop = lowered.find(b"\r\n", at + 17)
    return int(lowered[at + 17 : stop if stop >= 0 else None])


def _reply(status: int, content: object) -> bytes:
    body = orjson.dumps(content)
    head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _usage(request: dict[str, Any]) -> dict[str, int]:
    contents = (message.get("content") for message in request.get("messages") or ())
    prompt = sum(len(content.split()) for content in contents if isinstance(content, str))
    return {"prompt_tokens": prompt, "completion_tokens": CHUNKS, "total_tokens": prompt + CHUNKS}


def _chat_completion(request: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    return {
        "id": f"chatcmpl-{next(_IDS):012x}",
        "object": "chat.completion",
        "created": CREATED,
        "model": request.get("model"),
        "choices": [choice],
        "usage": _usage(request),
    }


def _chat_stream(request: dict[str, Any]) -> Iterator[bytes]:
    """The events of one answer, each framed as one HTTP chunk; the last one carries the end of the body."""
    head = {
        "id": f"chatcmpl-{next(_IDS):012x}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": request.get("model"),
    }
    # The common part is serialised once per answer, the pieces once per process.
    prefix = b"data: " + orjson.dumps(head)[:-1]
    for choices in _CHOICES:
        yield _chunk(prefix + choices)
    if (request.get("stream_options") or {}).get("include_usage"):
        yield _chunk(prefix + b',"choices":[],"usage":' + orjson.dumps(_usage(request)) + b"}\n\n")
    yield _chunk(b"data: [DONE]\n\n") + _LAST


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _choices() -> Iterable[bytes]:
    for number, piece in enumerate(PIECES):
        delta = {"role": "assistant", "content": piece} if number == 0 else {"content": piece}
        last = number == CHUNKS - 1
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if last else None}
        yield b',"choices":[' + orjson.dumps(choice) + b"]}\n\n"


_CHOICES = tuple(_choices())


def _embeddings(request: dict[str, Any]) -> dict[str, Any]:
    given = request.get("input")
    inputs = given if isinstance(given, list) else [given]
    tokens = sum(len(text.split()) for text in inputs if isinstance(text, str))
    vector = [0.125] * DIMENSIONS
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(inputs))]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.get("model"), "usage": usage}


def _model_list(models: tuple[str, ...]) -> dict[str, Any]:
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "mock"} for name in models]
    return {"object": "list", "data": data}


async def serve(*, port: int, models: tuple[str, ...]) -> None:
    """Answer on 127.0.0.1 until cancelled; port 0 takes a free one. Prints the address when ready."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Engine(models), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--model", action="append", help="a name for /v1/models; may be repeated")
    options = parser.parse_args()
    uvloop.run(serve(port=options.port, models=tuple(options.model or ["bench"])))


if __name__ == "__main__":
    main()
