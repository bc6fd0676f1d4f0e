"""What vouches for the key that signs results: a quote of the TDX hardware where this runs in a dstack machine, and
else the marketplace's own word, clearly named so.

The dstack guest agent answers on a Unix socket: POST /GetQuote {"report_data": hex}. Older ones (tappd) have
/prpc/Tappd.TdxQuote. What is quoted is the signer's address in ASCII, with zeros up to 64 bytes.
"""

from __future__ import annotations

import base64
import http.client
import socket
from pathlib import Path
from typing import Any, Protocol

import orjson
from django.conf import settings
from eth_account.messages import encode_defunct

from inference import signing
from marketplace.errors import Unavailable

TDX, SOFTWARE = "tdx", "software"
TIMEOUT_S = 10.0
MOST_BYTES = 4 * 1024 * 1024


class NoQuote(Unavailable):
    """There is hardware that should vouch, and it does not answer."""

    code = "attestation_unavailable"


class Attestor(Protocol):
    """Whoever vouches. The report is what /v1/quote answers, apart from the signer."""

    def report(self, data: bytes) -> dict[str, Any]:
        """A quote over 64 bytes. Raises NoQuote."""


class Word:
    """The marketplace's own word: proves that whoever runs it has the key, and nothing of the hardware."""

    def report(self, data: bytes) -> dict[str, Any]:
        statement = orjson.dumps(
            {
                "attestation": "SOFTWARE ONLY - not a hardware quote; it proves nothing of the machine",
                "marketplace": settings.PUBLIC_URL,
                "report_data": data.hex(),
                "signer": signing.signer(),
            }
        )
        signature = signing.sign(encode_defunct(statement))
        said = orjson.dumps({"statement": statement.decode(), "signature": signature})
        return {"attestation": SOFTWARE, "quote": said.hex(), "event_log": "", "vm_config": ""}


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


class Dstack:
    """The guest agent of a dstack machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def report(self, data: bytes) -> dict[str, Any]:
        asked = {"report_data": data.hex()}
        if "tappd" in self._path.name:
            found = self._asked("/prpc/Tappd.TdxQuote", {**asked, "hash_algorithm": "raw"})
        else:
            found = self._asked("/GetQuote", asked)
        quote = str(found.get("quote") or "").removeprefix("0x")
        if not quote:
            raise NoQuote(f"The TDX agent at {self._path} answers without a quote.", retry_after=30)
        more = {name: found.get(name) or "" for name in ("event_log", "vm_config")}
        return {"attestation": TDX, "quote": quote, **more}

    def _asked(self, path: str, said: dict[str, str]) -> dict[str, Any]:
        line = _Unix(self._path)
        try:
            line.request("POST", path, orjson.dumps(said), {"Content-Type": "application/json"})
            reply = line.getresponse()
            body = reply.read(MOST_BYTES)
            found = orjson.loads(body) if reply.status == 200 else None
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            raise NoQuote(f"The TDX agent at {self._path} does not answer: {error}", retry_after=30) from None
        finally:
            line.close()
        if not isinstance(found, dict):
            raise NoQuote(f"The TDX agent at {self._path} answers with an error.", retry_after=30)
        return found


def current() -> Attestor:
    """Who vouches here: the hardware where its agent's socket is, else the marketplace itself."""
    for name in settings.DSTACK_SOCKETS:
        if Path(name).is_socket():
            return Dstack(Path(name))
    return Word()


def quote() -> dict[str, Any]:
    """All that /v1/quote answers: for clients of 2025 and of 2026. Raises NoQuote."""
    signer = signing.signer()
    data = signer.encode().ljust(64, b"\0")
    found = current().report(data)
    return {
        "quote": found["quote"],
        "provider_signer": signer,
        "report_data": base64.b64encode(data).decode(),
        **{name: found[name] for name in ("attestation", "event_log", "vm_config")},
    }
