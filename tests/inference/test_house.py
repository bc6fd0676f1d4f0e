"""Requests of the marketplace's own account: placed, metered and recorded like everybody's, and paid by nobody here."""

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from clients import house, ledger, terms
from clients.models import AccountKind, Client, Hold, Transfer
from gpus.models import Node
from marketplace import money
from tests.engine import Engine
from tests.served import Server, last_record

CHAT = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}


@pytest.fixture
def node(server: Server, add_priced: Callable[..., Node], operator: Client) -> Node:
    terms.change(by=operator, reason="A share.", fee_bps=1000)
    server.until(lambda: server.hot.gateway.directory.terms.fee_bps == 1000)
    found = add_priced("n1")
    server.knows(found)
    return found


def post(
    server: Server, body: Any = CHAT, *, path: str = "/v1/chat/completions", **headers: str
) -> httpx.Response:
    said = {"Authorization": f"Bearer {house.token()}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return httpx.post(server.url + path, json=body, headers=said, timeout=20)


def test_it_costs_nothing_and_is_recorded(server: Server, node: Node, bob: Client) -> None:
    reply = post(server)
    record = last_record("completed")
    assert reply.status_code == 200, reply.text
    assert (record.client_id, record.node_id, record.provider_id) == (house.account().pk, node.pk, bob.pk)
    assert (record.charged, record.fee, record.price_id) == (0, 0, None)
    assert record.prompt_tokens
    assert record.completion_tokens
    assert not Hold.objects.exists()
    assert not Transfer.objects.exists()
    assert ledger.balance(ledger.account(bob.pk, AccountKind.EARNED)) == 0
    assert "x-cost" not in reply.headers


def test_a_stream_costs_nothing_either(server: Server, node: Node) -> None:
    reply = post(server, CHAT | {"stream": True})
    assert reply.text.endswith("data: [DONE]\n\n")
    assert last_record("completed").charged == 0
    assert not Transfer.objects.exists()


def test_the_maximum_cost_is_compared_with_what_the_node_really_asks(
    server: Server, node: Node, engine: Engine
) -> None:
    reply = post(server, X_Max_Cost="0.01")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "over_maximum_cost")
    assert not engine.asked
    assert post(server, X_Max_Cost="100").status_code == 200


def test_a_dry_run_tells_the_real_price_and_that_it_can_be_afforded(server: Server, node: Node) -> None:
    said = post(server, X_Dry_Run="true").json()
    assert money.parse(said["cost_at_most"]) > 0
    assert said["affordable"] is True
    assert said["refusal"] is None


def test_a_repeat_gets_the_same_answer_and_reaches_no_node(
    server: Server, node: Node, engine: Engine
) -> None:
    first = post(server, Idempotency_Key="fulfilment:1")
    again = post(server, Idempotency_Key="fulfilment:1")
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-inference-id"] == first.headers["x-inference-id"]
    assert len(engine.asked) == 1


def test_others_pay_at_the_same_time(server: Server, node: Node, http: httpx.Client, alice: Client) -> None:
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 402
    ledger.grant(
        client_id=alice.pk, amount=100 * money.TOKEN, reference="grant:test", reason="test", by_id=None
    )
    assert post(server).status_code == 200
    reply = http.post("/v1/chat/completions", json=CHAT)
    assert reply.status_code == 200, reply.text
    assert last_record("completed").charged > 0
    assert Transfer.objects.filter(kind="inference").count() == 1


def test_a_key_that_looks_like_the_token_is_nobodys(server: Server, node: Node) -> None:
    for wrong in ("house-", f"house-{'0' * 64}", house.token()[:-1], house.token().upper()):
        reply = httpx.post(
            f"{server.url}/v1/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {wrong}"}
        )
        assert reply.status_code == 401, wrong


def test_the_token_opens_no_other_door(server: Server) -> None:
    headers = {"Authorization": f"Bearer {house.token()}"}
    for path in ("/client/api-keys/", "/client/tokens/", "/v1/files", "/v1/fine_tuning/jobs", "/inference/"):
        assert httpx.get(server.url + path, headers=headers).status_code == 401, path
    assert (
        httpx.post(f"{server.url}/client/api-keys/", json={"name": "x"}, headers=headers).status_code == 401
    )
