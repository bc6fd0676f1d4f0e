"""/v1/quote: what vouches for the key that signs results."""

import base64
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account as Signer
from eth_account.messages import encode_defunct

from inference import signing

pytestmark = pytest.mark.django_db
# A version-4 TDX quote begins like this.
QUOTE = "040002008100000000000000" + "ab" * 100


class Agent(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """What a dstack machine's guest agent does."""

    daemon_threads = True
    answer: Any = (200, {"quote": QUOTE, "event_log": "[]", "report_data": "", "vm_config": "{}"})

    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, Any]] = []
        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Agent

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        status, said = self.server.answer
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def agent(tmp_path: Path, settings: Any) -> Any:
    path = tmp_path / "dstack.sock"
    settings.DSTACK_SOCKETS = ["/nowhere.sock", str(path)]
    found = Agent(path)
    yield found
    found.shutdown()
    found.server_close()


def quote(api: Any, query: str = "") -> Any:
    reply = api().get(f"/v1/quote{query}")
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/plain")
    return json.loads(reply.content)


def test_without_such_hardware_the_marketplace_gives_its_word_and_says_so(api, settings):
    settings.DSTACK_SOCKETS = ["/nowhere.sock"]
    said = quote(api)

    assert said["attestation"] == "software"
    assert said["provider_signer"] == signing.signer()
    word = json.loads(bytes.fromhex(said["quote"]))
    statement = json.loads(word["statement"])
    assert statement["attestation"].startswith("SOFTWARE ONLY")
    assert statement["signer"] == said["provider_signer"]
    signed = Signer.recover_message(encode_defunct(text=word["statement"]), signature=word["signature"])
    assert signed == said["provider_signer"]


def test_what_is_quoted_is_the_signers_address(api):
    said = quote(api, "?legacy=true")
    assert base64.b64decode(said["report_data"]) == signing.signer().encode().ljust(64, b"\0")


def test_the_hardware_vouches_where_it_is(api, agent):
    said = quote(api)

    assert (said["attestation"], said["quote"]) == ("tdx", QUOTE)
    assert (said["event_log"], said["vm_config"]) == ("[]", "{}")
    assert agent.asked == [("/GetQuote", {"report_data": signing.signer().encode().ljust(64, b"\0").hex()})]


def test_an_older_agent_is_asked_in_its_words(api, tmp_path, settings):
    path = tmp_path / "tappd.sock"
    settings.DSTACK_SOCKETS = [str(path)]
    agent = Agent(path)
    try:
        assert quote(api)["quote"] == QUOTE
        assert agent.asked[0][0] == "/prpc/Tappd.TdxQuote"
        assert agent.asked[0][1]["hash_algorithm"] == "raw"
    finally:
        agent.shutdown()
        agent.server_close()


@pytest.mark.parametrize(
    "answer", [(500, {}), (200, b"nonsense"), (200, []), (200, {}), (200, {"quote": None}), (404, b"")]
)
def test_hardware_that_fails_is_not_replaced_by_a_word(api, agent, answer):
    agent.answer = answer
    reply = api().get("/v1/quote")
    assert reply.status_code == 503
    assert "TDX" in reply.json()["error"]


def test_an_agent_that_is_gone_is_an_error_too(api, tmp_path, settings):
    path = tmp_path / "dstack.sock"
    settings.DSTACK_SOCKETS = [str(path)]
    Agent(path).server_close()
    assert api().get("/v1/quote").status_code == 503


def test_legacy_is_yes_or_no(api):
    assert api().get("/v1/quote?legacy=maybe").status_code == 400
