"""The marketplace as a node that trains sees it: a few calls, each repeated while it is away for a while."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from finetune.trainer.session import STOP, CalledOff, Wanted

logger = logging.getLogger(__name__)
T = TypeVar("T")

# For how long a marketplace that is away is waited for; and a node's token that it does not take (any more).
AWAY_FOR_S, TOKEN_WITHIN_S = 900.0, 60.0
TIMEOUT_S, LOOKS_WITHIN_S = 30.0, 300.0
_LOOKS_BYTES_PER_S = 20e6
CHUNK = 256 * 1024
CHECKPOINT = "checkpoint.tar"
_MOST_EVENTS, _MOST_BYTES = 200, 64 * 1024
_MOST_REPLY = 64 * 1024 * 1024


class Away(ConnectionError):
    """The marketplace cannot be reached, or fails by itself."""


class Over(Exception):
    """The marketplace has ended the attempt: whatever is done for it is in vain."""


class Refused(Exception):
    """The marketplace understood and said no. `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class Link:
    """Calls for one attempt. `path` is the attempt's, from the errand."""

    def __init__(self, url: str, path: str, *, token: str, away_for_s: float = AWAY_FOR_S) -> None:
        self._url = url.rstrip("/") + "/"
        self._base = urljoin(self._url, path.rstrip("/") + "/")
        if urlsplit(self._base)[:2] != urlsplit(self._url)[:2]:
            raise Refused(0, "The errand leads away from the marketplace.")
        self._token, self._away_for_s = token, away_for_s
        self._renewed = threading.Event()

    def renew(self, token: str) -> None:
        """Use another token from now on. From any thread."""
        self._token = token
        self._renewed.set()

    def briefing(self) -> dict[str, Any]:
        return self.call("GET", "")

    def call(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A call that repeats safely. Raises Away, Over, Refused."""
        data = None if body is None else json.dumps(body).encode()

        def once() -> dict[str, Any]:
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            request = urllib.request.Request(self._base + name, data=data, headers=headers, method=method)  # noqa: S310
            with _answered(request, timeout_s=LOOKS_WITHIN_S if name == "finish/" else TIMEOUT_S) as reply:
                found = json.loads(reply.read(_MOST_REPLY) or b"{}")
            return found if isinstance(found, dict) else {}

        return self.patiently(once)

    def send(self, file: Path, url: str, wanted: Wanted) -> None:
        """PUT a file to a link. Raises what `call` does, and CalledOff."""
        size = file.stat().st_size

        def once() -> None:
            with file.open("rb") as opened:
                request = urllib.request.Request(  # noqa: S310 - the marketplace's link
                    urljoin(self._url, url),
                    data=_chunks(opened, wanted),
                    headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
                    method="PUT",
                )
                # It answers when it has looked at all of it.
                with _answered(request, timeout_s=TIMEOUT_S + size / _LOOKS_BYTES_PER_S) as reply:
                    reply.read(_MOST_REPLY)

        self.patiently(once, wanted)

    def opened(self, url: str, *, start: int = 0) -> Any:
        """What is behind a link; from a byte on, where the other side can (status 206). Raises as `call`."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        return _answered(urllib.request.Request(urljoin(self._url, url), headers=headers))  # noqa: S310 - likewise

    def patiently(self, call: Callable[[], T], wanted: Wanted | None = None) -> T:
        """Make a call again and again while the marketplace is away. Raises what it raises at last."""
        began, pause = time.monotonic(), 0.25
        refused_since: float | None = None
        while True:
            try:
                return call()
            except Away as error:
                if time.monotonic() - began > self._away_for_s:
                    raise
                logger.warning("%s", error)
            except Refused as error:
                # The agent may be registering again, and have another token for us in a moment.
                refused_since = refused_since or time.monotonic()
                if error.status != 401 or time.monotonic() - refused_since > TOKEN_WITHIN_S:
                    raise
            if wanted is not None and not wanted():
                raise CalledOff
            self._renewed.clear()
            self._renewed.wait(random.uniform(pause / 2, pause))  # noqa: S311 - jitter is no secret
            pause = min(pause * 2, 5.0)


def _answered(request: urllib.request.Request, *, timeout_s: float = TIMEOUT_S) -> Any:
    """An answer with a good status. Raises Away, Over, Refused."""
    if request.type not in ("http", "https"):
        raise Refused(0, f"A link of another kind: {request.type}.")
    try:
        return urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - looked at above
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(2000).decode(errors="replace")
        if error.code in (408, 425, 429) or error.code >= 500:
            raise Away(f"{request.host} answers with status {error.code}.") from None
        if error.code == 409 or (error.code == 404 and "attempt_not_found" in text):
            raise Over(text) from None
        raise Refused(error.code, f"status {error.code}: {text}") from None
    except (OSError, HTTPException) as error:
        raise Away(f"{request.host} cannot be reached: {error}") from None


def _chunks(file: IO[bytes], wanted: Wanted) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        if not wanted():
            raise CalledOff
        yield chunk


class RemoteDesk:
    """A session's desk at the other end of a link."""

    def __init__(self, link: Link, *, next_event: int) -> None:
        self._link, self._next = link, next_event

    def order(self) -> str:
        try:
            reply = self._link.call("POST", "events/", {"first": 1, "events": []})
        except (Over, Refused) as error:
            logger.warning("Stopping: %s", error)
            return STOP
        return str(reply.get("order") or STOP)

    def report(self, heard: Sequence[dict[str, Any]]) -> None:
        for part in _in_parts(heard):
            try:
                self._link.call("POST", "events/", {"first": self._next, "events": part})
            except Refused as error:
                logger.warning("Events were refused: %s", error)
            self._next += len(part)

    def keep_checkpoint(self, archive: Path, *, step: int, metrics: dict[str, Any], wanted: Wanted) -> None:
        try:
            sha256 = self._send(archive, CHECKPOINT, wanted)
            self._link.call("POST", "checkpoints/", {"step": step, "sha256": sha256, "metrics": metrics})
        except Refused as error:
            logger.warning("A checkpoint was refused: %s", error)
        except Over as error:
            raise CalledOff from error

    def finish(self, folder: Path, said: dict[str, Any], *, wanted: Wanted) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path: path.relative_to(folder).as_posix() for path in paths}
        try:
            files = [{"path": names[path], "sha256": self._send(path, names[path], wanted)} for path in paths]
            self._link.call("POST", "finish/", {"files": files, "said": said})
            logger.info("The result was handed in.")
        except Refused as error:
            # The marketplace may have ended the attempt by that; then this is in vain.
            self.fail(code="result_refused", reason=str(error)[:900], retry=True)

    def fail(self, *, code: str, reason: str, retry: bool) -> None:
        logger.warning("Failed (%s): %s", code, reason)
        body = {
            "code": code[:50],
            "reason": reason.replace("\0", "")[:900] or "The training failed.",
            "retry": retry,
        }
        self._link.call("POST", "fail/", body)

    def stopped(self) -> None:
        self._link.call("POST", "stopped/", {})

    def _send(self, file: Path, name: str, wanted: Wanted) -> str:
        sha256 = sha256_of(file)
        about = {"path": name, "sha256": sha256, "size": file.stat().st_size}
        url = self._link.call("POST", "files/", about).get("url")
        if url:
            self._link.send(file, str(url), wanted)
        return sha256


def _in_parts(heard: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Events, so many at a time that a report is small."""
    part: list[dict[str, Any]] = []
    size = 0
    for event in heard:
        length = len(json.dumps(event))
        if part and (size + length > _MOST_BYTES or len(part) >= _MOST_EVENTS):
            yield part
            part, size = [], 0
        part.append(event)
        size += length
    if part:
        yield part


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
