"""A prompt that is paid for, its receipt, and the program that checks it: from one end to the other."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from django.core.management import call_command
from django.utils import timezone

from clients import ledger, terms
from clients.models import Client
from gpus.models import Node
from inference import batches, signing, verification
from marketplace import money
from tests.served import Server, last_record

CHAT = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}


@pytest.fixture
def paid_node(server: Server, add_priced: Callable[..., Node], operator: Client) -> Node:
    # What is charged is the operator's maximum, which is less than what the provider asks.
    told = terms.change(
        by=operator, reason="A share.", fee_bps=250, max_output_price=money.parse("333.333333333333333333")
    )
    node = add_priced("n1", input="0.000000000000000007", output="1000", request="0.01")
    server.until(lambda: server.hot.gateway.directory.terms.pk == told.pk)
    return node


@pytest.mark.parametrize("stream", [False, True])
def test_every_reply_names_a_receipt_that_proves_what_it_cost(
    http: httpx.Client, paid_node: Node, alice: Client, tmp_path: Path, stream: bool
) -> None:
    ledger.grant(client_id=alice.pk, amount=money.TOKEN, reference="grant:1", reason="", by_id=None)

    reply = http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert reply.status_code == 200, reply.text
    record = last_record("completed")
    open_one = http.get(reply.headers["x-receipt"]).json()
    assert batches.seal(now=timezone.now()) == 1
    sealed = http.get(reply.headers["x-receipt"]).json()

    signer = http.get("/receipts/key/").json()["address"]
    verdict = verification.verify(sealed, signer)
    assert signer == signing.signer()
    assert verdict.receipt == open_one["receipt"] == sealed["receipt"]
    assert verdict.receipt["charged"] == money.render(record.charged)
    assert verdict.receipt["price"]["output"] == "333.333333333333333333"
    assert verdict.receipt["node"] == paid_node.pk
    assert verdict.receipt["request_id"] == reply.headers["x-request-id"]
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(sealed))
    call_command("verify_receipt", str(file), signer=signer)
