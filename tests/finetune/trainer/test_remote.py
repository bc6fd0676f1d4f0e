"""A node's program and the marketplace: calls that repeat, files that break off, things that are not what they seem."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune.trainer import fetching, packing, remote
from finetune.trainer.fetching import Cache, WrongContent
from finetune.trainer.remote import Away, Link, Over, Refused, RemoteDesk
from finetune.trainer.session import CalledOff

CONTENT = bytes(range(256)) * 4000
PATH = "/llm_models/training/1/"


class Market:
    """An HTTP server with the marketplace's bad days. `answers`: for each call one; then it is well again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.calls: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.files: dict[str, bytes] = {"/files/x": CONTENT}
        self.breaks_after: int | None = None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        market = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                market.calls.append((self.command, self.path, body, dict(self.headers)))
                if self.command == "GET" and self.path in market.files and not market.answers:
                    self._file(market.files[self.path])
                    return
                status, said = (
                    market.answers.pop(0) if market.answers else (200, {"order": "go on", "url": "/up"})
                )
                text = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def _file(self, content: bytes) -> None:
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                end, market.breaks_after = market.breaks_after, None
                self.wfile.write(content[start:end])
                if end is not None:
                    self.close_connection = True

            do_GET = do_POST = do_PUT = _answer

            def log_message(self, *_said: Any) -> None:
                return

        return Handler


@pytest.fixture
def market() -> Iterator[Market]:
    found = Market()
    yield found
    found.close()


@pytest.fixture
def link(market: Market, monkeypatch: pytest.MonkeyPatch) -> Link:
    monkeypatch.setattr(remote.random, "uniform", lambda low, high: 0.01)
    return Link(market.url, PATH, token="node-token", away_for_s=5)


def always() -> bool:
    return True


def about(content: bytes = CONTENT, url: str = "/files/x", **more: Any) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "url": url} | more


# --- Calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_marketplace_that_is_away_is_waited_for(market: Market, link: Link, status: int) -> None:
    market.answers = [(status, {})] * 3 + [(200, {"well": 1})]
    assert link.call("POST", "events/", {}) == {"well": 1}
    assert len(market.calls) == 4
    assert market.calls[0][3]["Authorization"] == "Bearer node-token"


def test_not_for_ever(market: Market) -> None:
    market.close()
    with pytest.raises(Away):
        Link(market.url, PATH, token="t", away_for_s=0).call("GET", "")


def test_an_attempt_that_is_over_is_over(market: Market, link: Link) -> None:
    market.answers = [(409, {"code": "attempt_over"}), (404, {"code": "attempt_not_found"})]
    for _ in range(2):
        with pytest.raises(Over):
            link.call("POST", "events/", {})


def test_another_token_is_waited_for(market: Market, link: Link) -> None:
    market.answers = [(401, {})] * 2
    threading.Timer(0.05, link.renew, ["another"]).start()
    assert link.call("GET", "")["order"] == "go on"
    link.renew("another")
    link.call("GET", "")
    assert market.calls[-1][3]["Authorization"] == "Bearer another"


def test_an_errand_does_not_lead_elsewhere(market: Market) -> None:
    for path in ("http://elsewhere.example/", "//elsewhere.example/x", "file:///etc/passwd"):
        with pytest.raises(Refused):
            Link(market.url, path, token="t")


def test_a_link_of_another_kind_is_not_opened(link: Link) -> None:
    with pytest.raises(Refused):
        link.opened("file:///etc/passwd")


def test_events_keep_their_numbers(market: Market, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MOST_EVENTS", 2)
    RemoteDesk(link, next_event=5).report([{"event": "message", "n": n} for n in range(5)])
    firsts = [json.loads(body)["first"] for _, _, body, _ in market.calls]
    assert firsts == [5, 7, 9]


@pytest.mark.parametrize(
    ("answer", "order"), [((200, {"order": "pause"}), "pause"), ((409, {}), "stop"), ((403, {}), "stop")]
)
def test_the_order_is_the_marketplaces(market: Market, link: Link, answer: Any, order: str) -> None:
    market.answers = [answer]
    assert RemoteDesk(link, next_event=1).order() == order


# --- Sending ----------------------------------------------------------------------------------------------


def test_a_file_is_announced_and_sent_again_where_it_broke(
    market: Market, link: Link, tmp_path: Path
) -> None:
    archive = tmp_path / "state.tar"
    archive.write_bytes(CONTENT)
    market.answers = [(200, {"url": "/up"}), (503, {}), (200, {}), (200, {})]
    RemoteDesk(link, next_event=1).keep_checkpoint(archive, step=3, metrics={}, wanted=always)
    announced, *sent, said = market.calls
    assert json.loads(announced[2])["size"] == len(CONTENT)
    assert [(method, path, body == CONTENT) for method, path, body, _ in sent] == [("PUT", "/up", True)] * 2
    assert "Authorization" not in sent[0][3], "a link may lead to another server"
    assert json.loads(said[2]) == {"step": 3, "sha256": hashlib.sha256(CONTENT).hexdigest(), "metrics": {}}


def test_what_is_there_already_is_not_sent_again(market: Market, link: Link, tmp_path: Path) -> None:
    archive = tmp_path / "state.tar"
    archive.write_bytes(b"x")
    market.answers = [(200, {"url": None}), (200, {})]
    RemoteDesk(link, next_event=1).keep_checkpoint(archive, step=3, metrics={}, wanted=always)
    assert [method for method, *_ in market.calls] == ["POST", "POST"]


def test_sending_can_be_called_off(link: Link, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(CONTENT)
    with pytest.raises(CalledOff):
        RemoteDesk(link, next_event=1).finish(tmp_path, {}, wanted=lambda: False)


def test_a_result_that_is_refused_has_failed(market: Market, link: Link, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"x")
    market.answers = [(200, {"url": None}), (400, {"detail": "bad"}), (200, {})]
    RemoteDesk(link, next_event=1).finish(tmp_path, {}, wanted=always)
    assert market.calls[-1][1] == PATH + "fail/"
    assert json.loads(market.calls[-1][2])["code"] == "result_refused"


# --- Fetching ---------------------------------------------------------------------------------------------


@pytest.fixture
def cache(link: Link, tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", link, most_bytes=10**9)


def test_a_file_goes_on_where_it_broke_off(market: Market, cache: Cache) -> None:
    market.breaks_after = 100_000
    assert cache.file(about(), always).read_bytes() == CONTENT
    assert [headers.get("Range") for *_, headers in market.calls] == [None, "bytes=100000-"]
    cache.file(about(), always)
    assert len(market.calls) == 2, "it was kept"


def test_a_file_with_another_hash_is_not_used(market: Market, cache: Cache, tmp_path: Path) -> None:
    market.files["/files/x"] = CONTENT[:-1] + b"!"
    with pytest.raises(WrongContent):
        cache.file(about(), always)
    assert list((tmp_path / "cache" / "files").iterdir()) == []


def test_a_file_that_is_longer_than_announced_is_not_taken_to_its_end(market: Market, cache: Cache) -> None:
    market.files["/files/x"] = CONTENT * 20
    with pytest.raises(WrongContent):
        cache.file(about(), always)


def test_fetching_can_be_called_off(cache: Cache) -> None:
    with pytest.raises(CalledOff):
        cache.file(about(), lambda: False)


def test_a_link_that_has_expired_says_so_without_naming_it(market: Market, cache: Cache) -> None:
    market.answers = [(403, {})]
    with pytest.raises(WrongContent, match=r"^A file cannot be fetched: status 403\.$"):
        cache.file(about(), always)


def test_a_models_files_become_a_folder(market: Market, cache: Cache) -> None:
    files = {"config.json": b"{}", "sub/vocab.txt": b"a\nb\n"}
    for name, content in files.items():
        market.files[f"/files/{name}"] = content
    model = {
        "digest": "a" * 64,
        "files": [about(content, f"/files/{name}", path=name) for name, content in files.items()],
    }
    folder = cache.model(model, always)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(files)
    assert cache.model(model, always) == folder


@pytest.mark.parametrize("name", ["../up.json", "/etc/x.json", "code.py", "weights.bin", "a/../../b.json"])
def test_a_model_brings_nothing_but_weights_and_text(market: Market, cache: Cache, name: str) -> None:
    with pytest.raises(WrongContent):
        cache.model({"digest": "a" * 64, "files": [about(path=name)]}, always)


def test_a_model_that_would_run_code_is_not_used(market: Market, cache: Cache) -> None:
    market.files["/files/x"] = content = b'[{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]'
    with pytest.raises(WrongContent):
        cache.model({"digest": "a" * 64, "files": [about(content, path="modules.json")]}, always)


@pytest.mark.parametrize("digest", ["", "../x", "A" * 64, 7, None])
def test_a_name_in_the_cache_is_a_hash(cache: Cache, digest: Any) -> None:
    with pytest.raises(WrongContent):
        cache.file(about() | {"sha256": digest}, always)


def test_the_cache_forgets_what_was_not_used_for_long(
    market: Market, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Cache(tmp_path / "cache", link, most_bytes=len(CONTENT) + 10)
    first = small.file(about(), always)
    market.files["/files/y"] = b"y" * 100
    small.file(about(b"y" * 100, "/files/y"), always)
    assert first.exists(), "it has just been used"
    now = fetching.time.time()
    monkeypatch.setattr(fetching.time, "time", lambda: now + 7200)
    market.files["/files/z"] = b"z" * 100
    small.file(about(b"z" * 100, "/files/z"), always)
    assert not first.exists()


# --- Archives ---------------------------------------------------------------------------------------------


def archive(tmp_path: Path, fill: Callable[[tarfile.TarFile], None]) -> Path:
    path = tmp_path / "state.tar"
    with tarfile.open(path, "w") as tar:
        fill(tar)
    return path


def member(name: str, content: bytes = b"x", **more: Any) -> Callable[[tarfile.TarFile], None]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return lambda tar: tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    "fill",
    [
        member("../up"),
        member("/etc/passwd"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("device", type=tarfile.CHRTYPE),
        member("large", b"x" * 2000),
    ],
)
def test_an_archive_holds_plain_files_in_its_folder_only(tmp_path: Path, fill: Any) -> None:
    target = tmp_path / "target"
    with pytest.raises(packing.BadArchive):
        packing.unpack(archive(tmp_path, fill), target, most_bytes=1000)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert not (tmp_path / "up").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.tar").write_bytes(b"rubbish" * 100)
    with pytest.raises(packing.BadArchive):
        packing.unpack(tmp_path / "state.tar", tmp_path / "target", most_bytes=1000)
