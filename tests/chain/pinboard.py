"""What a network has beside its node: a server that keeps files, and knows confirmed responses."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Pinboard:
    """`files` by their link, in the order they came; `confirmed` is what `GET /api/tasks/{address}` tells."""

    url: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    confirmed: dict[str, Any] = field(default_factory=dict)
    # The next uploads are answered with these statuses, or not for so many seconds.
    statuses: list[int] = field(default_factory=list)
    delay: float = 0.0

    @property
    def file_url(self) -> str:
        return f"{self.url}/file/create"

    def keep(self, body: bytes) -> str:
        head, content = body.split(b"\r\n\r\n", 1)
        content = content.rsplit(b"\r\n--", 1)[0]
        name = re.search(rb'name="file"; filename="([^"]+)"', head)
        assert name is not None, "the part is called file"
        self.names.append(name[1].decode())
        link = f"{self.url}/ipfs/{hashlib.sha256(content).hexdigest()}"
        self.files[link] = json.loads(content)
        return link


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        board: Pinboard = self.server.board  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(board.delay)
        status = board.statuses.pop(0) if board.statuses else 201
        self._reply(status, {"link": board.keep(body)} if status < 300 else {"error": "no"})

    def do_GET(self) -> None:
        board: Pinboard = self.server.board  # type: ignore[attr-defined]
        found = board.confirmed.get(self.path.removeprefix("/api/tasks/"))
        self._reply(404 if found is None else 200, {"data": found} if found is not None else {"detail": "no"})

    def _reply(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextmanager
def pinboard() -> Iterator[Pinboard]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    # Clients that have given up are part of the tests.
    server.handle_error = lambda *_arguments: None  # type: ignore[method-assign]
    board = Pinboard(f"http://127.0.0.1:{server.server_address[1]}")
    server.board = board  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield board
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
