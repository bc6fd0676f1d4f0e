"""What an agent and the marketplace say to each other over the agent's one connection.

The connection is a WebSocket that the agent opens (`/llm_models/connect/`, node token in the Authorization header).
Each binary message holds one or more frames; each frame belongs to an exchange, which is one request and its answer:

    frame  = length (uint32, big-endian, of what follows) · exchange (uint64) · kind (uint8) · payload

Many exchanges run at once and their frames interleave. Back-pressure is by credit: the agent may have at most
`WINDOW` bytes of BODY on the way per exchange; the marketplace returns what the consumer has taken with CREDIT.

    marketplace → agent   REQUEST  JSON {"path", "deadline_s", "request_id"}, a newline, then the request body as it is
                          CREDIT   uint32: so many more bytes of BODY may be sent
                          CANCEL   empty: stop the work; the agent answers with END
    agent → marketplace   HEAD     JSON {"status", "content_type"}: the engine has begun to answer
                          BODY     bytes of the answer, in order
                          END      JSON {"usage": {…} | null, "usage_source": "engine" | "tokenizer" | "estimate"}
                          ERROR    JSON {"code", "message"} instead of END: `busy`, `no_such_model`, `draining`,
                                   `engine_unreachable` or `engine_failed`; before HEAD the request may go to another
    both                  PING / PONG  empty, exchange 0

Text messages are JSON objects {"type": …} about the node itself: the marketplace says `hello` (after the connection is
accepted), `drain` (finish, then stop), `errands` (there is something at GET /llm_models/errands/) and `bye` (a newer
connection of the same node took over).
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

import orjson

VERSION = "0.1.0"
CONNECT_PATH = "/llm_models/connect/"
# Bytes of BODY on the way per exchange: enough to keep a fast stream busy, little enough to hold for many.
WINDOW = 256 * 1024
# The largest payload of one frame; a longer body is cut into several.
MAX_PAYLOAD = 64 * 1024
MAX_MESSAGE = 64 * 1024 * 1024

_HEADER = struct.Struct(">IQB")
_CREDIT = struct.Struct(">I")


class Kind(IntEnum):
    REQUEST = 1
    CREDIT = 2
    CANCEL = 3
    HEAD = 4
    BODY = 5
    END = 6
    ERROR = 7
    PING = 8
    PONG = 9


class ProtocolError(Exception):
    """The other side sent something that is no frame."""


def encode(exchange: int, kind: Kind, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return _HEADER.pack(len(payload) + 9, exchange, kind) + payload


def decode(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The frames of one message: (exchange, kind, payload). Raises ProtocolError where bytes are missing."""
    at, end = 0, len(message)
    while at < end:
        if end - at < 13:
            raise ProtocolError(f"{end - at} bytes are too few for a frame")
        length, exchange, kind = _HEADER.unpack_from(message, at)
        start, at = at + 13, at + 4 + length
        if at > end or length < 9:
            raise ProtocolError(f"a frame of {length} bytes does not fit into its message")
        yield exchange, kind, message[start:at]


def encode_request(exchange: int, *, path: str, deadline_s: float, request_id: str, body: bytes) -> bytes:
    head = orjson.dumps({"path": path, "deadline_s": deadline_s, "request_id": request_id})
    return encode(exchange, Kind.REQUEST, head + b"\n" + body)


def decode_request(payload: bytes) -> tuple[dict, bytes]:
    """A REQUEST's head and body."""
    head, _, body = payload.partition(b"\n")
    return orjson.loads(head), body


def encode_credit(exchange: int, count: int) -> bytes:
    return encode(exchange, Kind.CREDIT, _CREDIT.pack(count))


def decode_credit(payload: bytes) -> int:
    return int(_CREDIT.unpack(payload)[0])
