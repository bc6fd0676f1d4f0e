"""What requests bring: bounded, from people who may, and nobody waits for who is slow. Against the real server."""

import asyncio
import base64
import http.client
import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.utils import timezone

from clients import files
from finetune.models import Dataset
from marketplace import bodies
from tests.served import Server

ROW = b'{"text": "some words that are learned"}\n'


@pytest.fixture
def send(server: Server) -> Iterator[Any]:
    """`send("POST", path, body, headers)`: status, headers, body."""
    open_ones: list[http.client.HTTPConnection] = []

    def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
        open_ones.append(connection)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    yield ask
    for connection in open_ones:
        connection.close()


def raw(server: Server, head: str) -> socket.socket:
    where = urlsplit(server.url)
    found = socket.create_connection((where.hostname, where.port), timeout=20)
    found.sendall(head.encode())
    return found


def heard(connection: socket.socket) -> str:
    found = b""
    while piece := connection.recv(65536):
        found += piece
    connection.close()
    return found.decode()


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/data/upload", "OMNITENSOR"),
        ("/v1/files", "OPENAI"),
        ("/client/register/", "DRF"),
        ("/fine-tuning/task", "FT"),
    ],
)
def test_too_much_is_refused_before_it_is_sent(server, settings, path, shape):
    settings.MAX_UPLOAD_BYTES = settings.MAX_REQUEST_BYTES = 2000
    started = time.monotonic()
    answer = heard(raw(server, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2001\r\n\r\n"))

    assert answer.startswith("HTTP/1.1 413")
    assert time.monotonic() - started < 5
    body = json.loads(answer.split("\r\n\r\n")[1])
    assert "2000" in (body.get("error") or body).get("message", "") + str(body.get("detail"))


def test_what_was_not_announced_is_counted(server, settings, key):
    settings.MAX_REQUEST_BYTES = 10_000
    head = f"POST /data/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = raw(server, head)
    connection.sendall(b"1388\r\n" + b"x" * 5000 + b"\r\n")
    connection.sendall(b"1389\r\n" + b"x" * 5001 + b"\r\n")

    assert heard(connection).startswith("HTTP/1.1 413")


def test_nobody_unknown_sends_much(server, send, key, alice):
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: {bodies.FREE_BYTES + 1}\r\n"
    for authorization in ("", "Authorization: Bearer sk-wrong\r\n", "Cookie: sessionid=wrong\r\n"):
        answer = heard(raw(server, f"{head}{authorization}\r\n"))
        assert answer.startswith("HTTP/1.1 401")
        assert json.loads(answer.split("\r\n\r\n")[1])["error"]["code"]
    linked = heard(raw(server, head.replace("/v1/files", "/llm_models/training/files/nonsense") + "\r\n"))
    assert linked.startswith("HTTP/1.1 403")

    unlinked = heard(raw(server, head.replace("/v1/files", f"/v1/user/0x{'1' * 40}/dataset") + "\r\n"))
    assert unlinked.startswith("HTTP/1.1 403")

    body = {"file": base64.b64encode(ROW * 10_000).decode(), "format": "text"}
    status, _, said = send(
        "POST",
        "/data/upload",
        json.dumps(body),
        Authorization=f"Bearer {key}",
        Content_Type="application/json",
    )
    assert status == 201, said


def test_anybody_leaves_a_file_as_large_as_a_pin_may_be_and_no_larger(server, send, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    content = b"x" * (bodies.FREE_BYTES * 2)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n'
        b"Content-Type: application/json\r\n\r\n" + content + b"\r\n--b--\r\n"
    )
    status, _, said = send("POST", "/file/create", form, Content_Type="multipart/form-data; boundary=b")
    assert (status, json.loads(said)["size"]) == (201, len(content))
    status, headers, read = send("GET", f"/ipfs/{json.loads(said)['cid']}")
    assert (status, read, headers["X-Content-Type-Options"]) == (200, content, "nosniff")

    most = settings.PIN_MAX_BYTES + bodies.FORM_BYTES
    head = f"POST /file/create HTTP/1.1\r\nHost: x\r\nContent-Length: {most + 1}\r\n\r\n"
    assert heard(raw(server, head)).startswith("HTTP/1.1 413")


def test_who_is_logged_in_to_the_pages_may_send_much(server, send, operator):
    from django.test import Client as Browser

    browser = Browser()
    browser.force_login(operator)
    cookie = f"sessionid={browser.cookies['sessionid'].value}"
    body = json.dumps({"file": base64.b64encode(ROW * 10_000).decode()})
    status, _, said = send("POST", "/data/upload", body, Cookie=cookie, Content_Type="application/json")

    assert (status, json.loads(said)["error"]["code"]) == (403, "FORBIDDEN")  # there is no CSRF token


def test_a_large_form_is_taken(server, send, key, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    lines = ROW * 300_000  # 12 MB
    form = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        + lines
        + b"\r\n--b--\r\n"
    )
    status, _, said = send(
        "POST",
        "/v1/files",
        form,
        Authorization=f"Bearer {key}",
        Content_Type="multipart/form-data; boundary=b",
    )

    assert status == 200, said
    assert Dataset.objects.get().summary["rows"] == 300_000
    assert list((tmp_path / "spool").iterdir()) == []
    status, headers, found = send(
        "GET", f"/data/{json.loads(said)['id']}/download", Authorization=f"Bearer {key}"
    )
    assert (status, found == lines) == (200, True)
    assert headers["Content-Length"] == str(len(lines))


def test_who_leaves_while_sending_leaves_nothing(server, key, settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    connection = raw(
        server,
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 9000000\r\n\r\n",
    )
    connection.sendall(b"x" * 5_000_000)
    connection.close()
    status = heard(raw(server, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))

    assert status.startswith("HTTP/1.1 200")
    assert not (tmp_path / "spool").exists() or list((tmp_path / "spool").iterdir()) == []


def test_who_sends_slowly_keeps_nobody_waiting(server, settings, key, serve):
    settings.DJANGO_CONCURRENCY = 2
    narrow = serve()
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 900000\r\n\r\n"
    )
    slow = [raw(narrow, head) for _ in range(6)]
    for connection in slow:
        connection.sendall(b"x" * 300_000)
    answer = heard(raw(narrow, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    for connection in slow:
        connection.close()

    assert answer.startswith("HTTP/1.1 200")


def test_who_reads_slowly_keeps_nobody_waiting(settings, serve, transactional_db):
    settings.DJANGO_CONCURRENCY = 2
    narrow = serve()
    blob = files.keep_all([b"x" * 2**20] * 32, limit=2**30)
    link = files.link(blob, expires_at=timezone.now() + timedelta(minutes=1))
    slow = [raw(narrow, f"GET {link} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") for _ in range(6)]
    first = [connection.recv(100) for connection in slow]
    answer = heard(raw(narrow, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    whole = [heard(connection) for connection in slow[:2]]
    for connection in slow[2:]:
        connection.close()

    assert all(each.startswith(b"HTTP/1.1 200") for each in first)
    assert answer.startswith("HTTP/1.1 200")
    assert [each.count("x") >= 32 * 2**20 for each in whole] == [True, True]


def test_who_sends_nothing_more_is_told_so(server, settings, key, monkeypatch):
    monkeypatch.setattr(bodies, "PAUSE_S", 0.3)
    connection = raw(server, "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")

    assert heard(connection).startswith("HTTP/1.1 408")


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/data/upload", "up"), ("/data/upload/", "up"), ("/data/upload/parts/1/2", "up"), ("/v1/files", "up"),
     ("/v1/uploads/1/parts", "up"), ("/ai/models/upload", "up"), ("/ai/models/upload/parts/1/2/config.json", "up"),
     ("/data/uploadx", "else"), ("/v1/files/1", "else"), ("/v1/chat/completions", "else"), ("/", "else"),
     ("/llm_models/training/files/abc", "file"), (f"/v1/user/0x{'a' * 40}/dataset", "signed")],
)  # fmt: skip
def test_only_where_files_come_more_is_taken(settings, path, limit):
    settings.MAX_REQUEST_BYTES, settings.MAX_UPLOAD_BYTES, settings.MAX_FILE_BYTES = 10, 20, 30

    assert bodies.limit_of(path) == {"up": 20, "else": 10, "file": 30, "signed": bodies.SIGNED_BYTES}[limit]


def test_large_bodies_wait_for_each_other(monkeypatch):
    monkeypatch.setattr(bodies, "LARGE_AT_ONCE", 1)

    async def story() -> list[str]:
        said: list[str] = []

        async def admit(scope: Any) -> None:
            said.append("admitted")

        found = bodies.Bodies(admit)
        async with found.admitted({"path": "/"}):
            second = asyncio.ensure_future(found.admitted({"path": "/"}).__aenter__())
            await asyncio.sleep(0.01)
            said.append(str(second.done()))
        await second
        return said

    assert asyncio.run(story()) == ["admitted", "admitted", "False"]
