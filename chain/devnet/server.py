"""JSON-RPC 2.0 over HTTP: single and batch requests, for many clients at once."""

import json
import logging
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chain.devnet.errors import (
    INVALID_REQUEST,
    PARSE_ERROR,
    RpcError,
)
from chain.devnet.methods import Methods

logger = logging.getLogger(__name__)

INTERNAL_ERROR = -32603
MOST_BYTES = 8 * 1024 * 1024
MOST_IN_BATCH = 1_000
MOST_CONNECTIONS = 512
# How long a client may take for one request, and how long a connection may be silent between two.
REQUEST_SECONDS = 15.0
IDLE_SECONDS = 120.0


class Dispatcher:
    """Bodies in, bodies out."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    def answer(self, body: bytes) -> bytes:
        """Empty where nothing is to be answered: notifications only."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return _encoded(_error(None, RpcError(PARSE_ERROR, "parse error")))
        if isinstance(request, list):
            return self._batch(request)
        found = self._one(request)
        return b"" if found is None else _encoded(found)

    def _batch(self, requests: list[Any]) -> bytes:
        if not requests:
            return _encoded(_error(None, RpcError(INVALID_REQUEST, "empty batch")))
        if len(requests) > MOST_IN_BATCH:
            return _encoded(
                _error(None, RpcError(INVALID_REQUEST, f"batch too large: at most {MOST_IN_BATCH}"))
            )
        found = [answer for answer in map(self._one, requests) if answer is not None]
        return _encoded(found) if found else b""

    def _one(self, request: Any) -> dict[str, Any] | None:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _error(None, RpcError(INVALID_REQUEST, "invalid request"))
        number, params = request.get("id"), request.get("params") or []
        if not isinstance(params, list):
            return _error(number, RpcError(INVALID_REQUEST, "params must be a list"))
        try:
            result = self._methods.call(request["method"], params)
        except RpcError as error:
            return _error(number, error)
        except Exception:
            # A server answers whatever happens; the log has the rest.
            logger.exception("%s failed", request["method"])
            return _error(number, RpcError(INTERNAL_ERROR, "internal error"))
        return None if "id" not in request else {"jsonrpc": "2.0", "id": number, "result": result}


def _error(number: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": error.as_json()}


def _encoded(answer: Any) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "devnet"
    # Answers leave in one packet and at once; else each call waits 40 ms for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: "Server"

    def do_POST(self) -> None:
        length = self._length()
        if length is None:
            return
        self.connection.settimeout(REQUEST_SECONDS)
        body = self.rfile.read(length)
        self.connection.settimeout(IDLE_SECONDS)
        if len(body) < length:
            self.close_connection = True
            return
        self._reply(HTTPStatus.OK, self.server.dispatcher.answer(body))

    def do_GET(self) -> None:
        self._reply(HTTPStatus.OK, b'{"service":"chain.devnet"}')

    def _length(self) -> int | None:
        """The length of the body, if it can be taken; else the refusal is on its way."""
        try:
            length = int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a Content-Length is needed")
            return None
        if not 0 <= length <= MOST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MOST_BYTES} bytes")
            return None
        return length

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True
        self._reply(status, _encoded(_error(None, RpcError(INVALID_REQUEST, message))))

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], methods: Methods) -> None:
        self.dispatcher = Dispatcher(methods)
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave in the middle; that is no news."""
        logger.debug("a connection broke", exc_info=True)
