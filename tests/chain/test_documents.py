"""Fetching what strangers' links lead to: whatever answers there."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from chain import documents
from chain.documents import NotFetched
from tests.chain import fulfilled

Answer = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def listening(*answers: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A server whose connections are answered by these, in their order, the last one for all that follow."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []
    waiting = list(answers)
    closing = threading.Event()

    def serve() -> None:
        while not closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    heard.append(connection.recv(65536))
                    (waiting.pop(0) if len(waiting) > 1 else waiting[0])(connection)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        closing.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def says(body: bytes, head: bytes = OK) -> Answer:
    return lambda connection: connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def redirects(location: str, status: int = 302) -> Answer:
    return says(b"", b"HTTP/1.1 %d Found\r\nLocation: %s\r\n" % (status, location.encode()))


@pytest.fixture
def private(settings: Any) -> None:
    """Servers of tests are on this machine."""
    settings.ALLOW_PRIVATE_NODE_URLS = True


def refusal(url: str, **options: Any) -> NotFetched:
    with pytest.raises(NotFetched) as caught:
        documents.fetch_json(url, **options)
    return caught.value


def test_it_fetches_json(private: None) -> None:
    with listening(says(b'{"a": [1]}')) as (url, heard):
        assert documents.fetch_json(f"{url}/x?y=1") == {"a": [1]}
    assert heard[0].startswith(b"GET /x?y=1 HTTP/1.1\r\n")
    assert b"authorization" not in heard[0].lower()
    assert b"cookie" not in heard[0].lower()


def test_it_reads_an_answer_in_chunks_and_one_that_ends_with_the_connection(private: None) -> None:
    def chunked(connection: socket.socket) -> None:
        connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n")

    with listening(chunked, lambda connection: connection.sendall(OK + b"\r\n[3]")) as (url, _):
        assert documents.fetch_json(url) == [1, 2]
        assert documents.fetch_json(url) == [3]


def test_ten_megabytes_are_too_many(private: None, settings: Any) -> None:
    settings.PIN_MAX_BYTES = 100_000
    sent = [0]

    def pour(connection: socket.socket) -> None:
        connection.sendall(OK + b"\r\n")
        for _ in range(10_000):
            connection.sendall(b"x" * 1000)
            sent[0] += 1000

    with listening(pour) as (url, _):
        found = refusal(url)
    assert (found.code, found.may_pass) == ("too_large", False)
    assert sent[0] < 10_000_000


def test_exactly_the_limit_is_taken_and_a_byte_more_is_not(private: None) -> None:
    with listening(says(b"[123456]")) as (url, _):
        assert documents.fetch(url, limit=8) == b"[123456]"
        assert refusal(url, limit=7).code == "too_large"


def test_a_slow_answer_is_given_up_altogether(private: None) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(OK + b"\r\n")
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.05)

    with listening(drip) as (url, _):
        begun = time.monotonic()
        found = refusal(url, timeout_s=0.5)
        assert time.monotonic() - begun < 2
    assert (found.code, found.may_pass) == ("fetch_timeout", True)


def test_a_slow_head_is_given_up(private: None) -> None:
    def drip(connection: socket.socket) -> None:
        for byte in OK * 20:
            connection.sendall(bytes((byte,)))
            time.sleep(0.05)

    with listening(drip) as (url, _):
        assert refusal(url, timeout_s=0.5).code == "fetch_timeout"


def test_an_endless_head_is_given_up(private: None) -> None:
    def pour(connection: socket.socket) -> None:
        connection.sendall(OK)
        while True:
            connection.sendall(b"X-A: " + b"b" * 1000 + b"\r\n")

    with listening(pour) as (url, _):
        assert refusal(url).code == "unreachable"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirections_are_followed_to_where_we_may_call(private: None, status: int) -> None:
    with listening(says(b"[1]")) as (there, _), listening(redirects(f"{there}/there", status)) as (url, _):
        assert documents.fetch_json(url) == [1]


def test_a_redirection_may_be_relative(private: None) -> None:
    with listening(redirects("/there"), says(b"[1]")) as (url, heard):
        assert documents.fetch_json(f"{url}/here") == [1]
    assert heard[1].startswith(b"GET /there ")


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://100.100.100.200/",
        "http://0.0.0.0/",
        "http://[::ffff:169.254.169.254]/",
    ],
)
def test_redirections_to_where_clouds_keep_credentials_are_refused(private: None, location: str) -> None:
    with listening(redirects(location)) as (url, heard):
        found = refusal(url)
    assert (found.code, found.may_pass) == ("address_refused", False)
    assert len(heard) == 1


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1:6379/_x", ""]
)
def test_redirections_to_what_is_no_web_page_are_refused(private: None, location: str) -> None:
    with listening(redirects(location)) as (url, _):
        assert refusal(url).code in ("bad_url", "bad_redirect")


def test_endless_redirections_are_given_up(private: None) -> None:
    with listening(redirects("/again")) as (url, heard):
        assert refusal(url).code == "too_many_redirects"
    assert len(heard) == documents.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "10.0.0.1", "192.168.1.1", "localhost", "2130706433", "0x7f000001"]
)
def test_private_addresses_are_refused_in_every_spelling(host: str) -> None:
    assert refusal(f"http://{host}:1/x").code == "address_refused"


def test_a_name_that_leads_to_a_private_address_is_never_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that changes its address between the check and the call gains nothing: both look at what it is then."""
    with listening(says(b"[1]")) as (url, heard):
        port = int(url.rpartition(":")[2])
        answers = [("93.184.216.34", port), ("127.0.0.1", port)]

        def resolve(*_said: Any, **_options: Any) -> Any:
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", found)]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        found = refusal(f"http://rebinding.example:{port}/")
    assert not heard
    assert found.code in ("unreachable", "address_refused")


@pytest.mark.parametrize(
    "url",
    [
        "", " ", "x", "http://", "http://a b/", "http://user:secret@example.com/", "javascript:alert(1)", "http://é.example/",
        "http://example.com:99999/", "http://example.com:0/", "http://example.com/\r\nHost: x", "//example.com/x", "\0",
        "http://example.com/" + "x" * 5000, "http://[::1", "data:application/json,{}",
    ],
)  # fmt: skip
def test_what_is_no_link_is_refused_and_not_repeated(url: str) -> None:
    found = refusal(url)
    assert (found.code, found.may_pass) == ("bad_url", False)
    assert "secret" not in found.message


@pytest.mark.parametrize(
    ("status", "may_pass"), [(404, False), (403, False), (204, False), (500, True), (503, True), (429, True)]
)
def test_other_statuses_are_told_and_some_may_pass(private: None, status: int, may_pass: bool) -> None:
    with listening(says(b"[1]", b"HTTP/1.1 %d Hm\r\n" % status)) as (url, _):
        assert refusal(url).may_pass is may_pass


def test_a_server_that_is_away_may_come_back(private: None) -> None:
    with listening(says(b"")) as (url, _):
        pass
    found = refusal(url)
    assert (found.code, found.may_pass) == ("unreachable", True)


@pytest.mark.parametrize(
    "answer", [b"", b"\0\0\0", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[1"]
)
def test_what_is_no_http_or_breaks_off_is_told(private: None, answer: bytes) -> None:
    with listening(lambda connection: connection.sendall(answer)) as (url, _):
        assert refusal(url).code == "unreachable"


def test_what_is_compressed_is_not_unpacked(private: None) -> None:
    with listening(says(b"\x1f\x8b", OK + b"Content-Encoding: gzip\r\n")) as (url, _):
        assert refusal(url).code == "compressed"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"<html>", "not_json"),
        (b"", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"NaN", "not_json"),
        (b"[1e400]", "not_json"),
        (b'"\\ud800"', "not_json"),
        (b'{"a": "x\\u0000y"}', "not_text"),
        (b'{"a\\u0000": 1}', "not_text"),
        (b"[" * 100_000 + b"]" * 100_000, "not_json"),
        (b"[" * 100 + b"]" * 100, "too_deep"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "too_deep"),
    ],
)
def test_json_that_the_database_would_choke_on_is_refused(content: bytes, code: str) -> None:
    with pytest.raises(NotFetched) as caught:
        documents.read_json(content)
    assert caught.value.code == code


def test_json_is_as_deep_as_it_needs_to_be() -> None:
    depth = documents.MAX_DEPTH - 1
    assert documents.read_json(b"[" * depth + b"]" * depth)
    assert documents.read_json(b"123456789012345678901234567890")


@pytest.mark.django_db
def test_our_own_links_are_read_without_a_call(settings: Any) -> None:
    link = fulfilled.pin({"a": 1})
    assert link.startswith(f"{settings.PUBLIC_URL}/ipfs/")
    assert documents.fetch_json(link) == {"a": 1}
    assert documents.fetch_json(f"{link}/") == {"a": 1}
    assert documents.fetch_json(f"ipfs://{link.rpartition('/')[2]}") == {"a": 1}
    settings.INTERNAL_URL = "http://10.0.0.7:8000"
    assert documents.fetch_json(f"http://10.0.0.7:8000/ipfs/{link.rpartition('/')[2]}") == {"a": 1}


@pytest.mark.django_db
def test_our_own_links_have_the_same_limits(settings: Any) -> None:
    link = fulfilled.pin(orjson.dumps("x" * 100))
    assert refusal(link, limit=50).code == "too_large"


@pytest.mark.django_db
def test_our_own_links_to_nothing_are_not_called(settings: Any) -> None:
    assert refusal(f"{settings.PUBLIC_URL}/ipfs/bafkrei{'a' * 52}").code == "not_found"
    assert refusal(f"{settings.PUBLIC_URL}/ipfs/../admin/").code == "not_found"
    assert refusal(f"ipfs://bafkrei{'a' * 52}").code == "not_pinned"
    assert refusal("ipfs://QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG").code == "not_pinned"
