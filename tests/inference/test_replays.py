"""`Idempotency-Key` on the hot path: carried out once, charged once, answered alike."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2 as httpx
import openai
import pytest
from aiohttp import web
from django.db import connection
from django.utils import timezone

from clients import idempotency, keys, ledger
from clients.models import AccountKind, Client, Hold, StoredReply, Transfer
from gpus.models import Gateway, Node
from inference import records, replays
from inference.models import Inference, Running
from marketplace import money
from tests.engine import Engine, answer, chunk, stream
from tests.served import Server, last_record

CHAT = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
URL = "/v1/chat/completions"
KEY = {"Idempotency-Key": "order 1"}
# Four prompt tokens, three completion tokens and the request: see `tests.engine.answer`.
COST = money.parse("0.51")


@pytest.fixture(autouse=True)
def node(add_priced: Callable[..., Node], alice: Client) -> Node:
    """A node with a price, and alice with credit."""
    ledger.grant(client_id=alice.pk, amount=100 * money.TOKEN, reference="grant:1", reason="test", by_id=None)
    return add_priced("one")


def charged() -> list[int]:
    return list(Transfer.objects.filter(kind="inference").order_by("id").values_list("amount", flat=True))


def settled() -> bool:
    """Whether no hold is open, and alice has paid what was charged and nothing else."""
    [(total, held)] = ledger.balances(
        [ledger.account(Client.objects.get(username="alice").pk, AccountKind.SPENDABLE)]
    ).values()
    return not Hold.objects.filter(ended_at=None).exists() and (total, held) == (
        100 * money.TOKEN - sum(charged()),
        0,
    )


def code_of(reply: httpx.Response) -> str:
    said: dict[str, Any] = reply.json()
    return said["error"]["code"] if "error" in said else said["code"]


def ways(alice: Client) -> dict[str, tuple[str, dict[str, Any]]]:
    question = {"client": alice.pk, "question_text": "Count!", "desired_model": "llama"}
    return {
        "plain": (URL, CHAT),
        "streamed": (URL, CHAT | {"stream": True}),
        "completion": ("/v1/completions", {"model": "llama", "prompt": "Hi", "max_tokens": 50}),
        "question": ("/inference/", question),
        "streamed question": ("/inference/stream/", question),
        "model": ("/ai/models/llama/inference", {"input": "Count!"}),
    }


@pytest.mark.parametrize("way", ["plain", "streamed", "completion", "question", "streamed question", "model"])
def test_a_repeat_gets_the_same_reply_and_costs_nothing(
    http: httpx.Client, alice: Client, engine: Engine, way: str
) -> None:
    url, body = ways(alice)[way]
    first = http.post(url, json=body, headers=KEY)
    assert first.status_code in (200, 201), first.text
    assert "idempotent-replayed" not in first.headers
    again = http.post(url, json=body, headers=KEY)
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    names = ("content-type", "x-inference-id", "x-request-id", "x-node", "x-receipt", "x-cost")
    assert [again.headers.get(name) for name in names] == [first.headers.get(name) for name in names]
    assert len(engine.asked) == 1
    assert charged() == [COST]
    assert Inference.objects.count() == 1
    assert settled()


def test_without_the_header_nothing_is_kept(http: httpx.Client, engine: Engine) -> None:
    assert http.post(URL, json=CHAT).status_code == http.post(URL, json=CHAT).status_code == 200
    assert (len(engine.asked), len(charged())) == (2, 2)
    assert not StoredReply.objects.exists()


def test_the_openai_client_may_repeat(server: Server, key: str, engine: Engine) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key) as client:
        make = client.chat.completions.create
        plain = [make(**CHAT, extra_headers={"Idempotency-Key": "a"}) for _ in range(2)]
        assert plain[0] == plain[1]
        streams = [
            [part.choices for part in make(**CHAT, stream=True, extra_headers={"Idempotency-Key": "b"})]
            for _ in range(2)
        ]
        assert streams[0] == streams[1]
        assert len(streams[0]) == 3
        with pytest.raises(openai.ConflictError) as refused:
            make(**CHAT | {"max_tokens": 7}, extra_headers={"Idempotency-Key": "a"})
    assert refused.value.code == "idempotency_key_reused"
    assert len(engine.asked) == 2
    assert charged() == [COST, COST]


def test_another_request_with_the_same_key_is_refused_for_good(http: httpx.Client, engine: Engine) -> None:
    http.post(URL, json=CHAT, headers=KEY)
    for url, body in ((URL, CHAT | {"max_tokens": 7}), ("/v1/completions", CHAT)):
        reply = http.post(url, json=body, headers=KEY)
        assert (reply.status_code, code_of(reply)) == (409, "idempotency_key_reused")
        assert reply.headers["x-should-retry"] == "false"
    assert (len(engine.asked), charged()) == (1, [COST])


@pytest.mark.parametrize("bad", ["", "x" * 256, "naïve"])
def test_a_bad_key_is_a_400(http: httpx.Client, engine: Engine, bad: str) -> None:
    reply = http.post(URL, json=CHAT, headers={"Idempotency-Key": bad.encode("latin-1")})  # type: ignore[dict-item]
    assert (reply.status_code, code_of(reply)) == (400, "invalid_idempotency_key")
    assert reply.json()["error"]["param"] == "Idempotency-Key"
    assert engine.asked == []


def test_keys_of_different_clients_have_nothing_to_do_with_each_other(
    http: httpx.Client, charlie: Client, engine: Engine
) -> None:
    ledger.grant(client_id=charlie.pk, amount=money.TOKEN, reference="grant:2", reason="test", by_id=None)
    http.post(URL, json=CHAT, headers=KEY)
    his = {"Authorization": f"Bearer {keys.create(charlie, name='his').key}"}
    reply = http.post(URL, json=CHAT | {"max_tokens": 7}, headers=KEY | his)
    assert reply.status_code == 200
    assert "idempotent-replayed" not in reply.headers
    assert len(engine.asked) == 2


async def slow(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(1.0)
    return await answer(request, body)


def test_while_the_first_runs_the_second_is_told_to_wait(
    http: httpx.Client, server: Server, engine: Engine
) -> None:
    engine.behaviour = slow
    replies: list[httpx.Response] = []
    lock = threading.Lock()

    def send() -> None:
        reply = httpx.post(server.url + URL, json=CHAT, headers={**http.headers, **KEY}, timeout=20)
        with lock:
            replies.append(reply)

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting = [reply for reply in replies if reply.status_code == 409]
    assert (len(replies), len(waiting)) == (5, 4)
    assert {code_of(reply) for reply in waiting} == {"idempotency_key_in_use"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in waiting)
    assert all("x-should-retry" not in reply.headers for reply in waiting)
    assert http.post(URL, json=CHAT, headers=KEY).headers["idempotent-replayed"] == "true"
    assert (len(engine.asked), charged()) == (1, [COST])


def test_two_processes_share_the_keys(
    http: httpx.Client, serve: Callable[[], Server], node: Node, engine: Engine
) -> None:
    other = serve()
    other.knows(node)
    first = http.post(URL, json=CHAT, headers=KEY)
    again = httpx.post(other.url + URL, json=CHAT, headers={**http.headers, **KEY})
    assert (again.headers["idempotent-replayed"], again.content) == ("true", first.content)
    assert (len(engine.asked), charged()) == (1, [COST])


async def fail(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return web.json_response({"error": {"message": "out of memory"}}, status=500)


def test_a_failure_that_cost_nothing_frees_the_key(http: httpx.Client, engine: Engine) -> None:
    engine.behaviour = fail
    assert http.post(URL, json=CHAT, headers=KEY).status_code == 502
    assert not StoredReply.objects.exists()
    engine.behaviour = answer
    reply = http.post(URL, json=CHAT, headers=KEY)
    assert (reply.status_code, "idempotent-replayed" in reply.headers) == (200, False)
    assert charged() == [COST]


@pytest.mark.parametrize("wrong", [{"messages": []}, {"model": "lama"}, {"stream": "yes"}])
def test_a_wrong_request_frees_the_key(http: httpx.Client, wrong: dict[str, Any]) -> None:
    assert http.post(URL, json=CHAT | wrong, headers=KEY).status_code in (400, 404)
    assert not StoredReply.objects.exists()
    assert http.post(URL, json=CHAT, headers=KEY).status_code == 200


def test_who_cannot_pay_may_repeat_when_he_can(
    http: httpx.Client, server: Server, charlie: Client, engine: Engine
) -> None:
    his = KEY | {"Authorization": f"Bearer {keys.create(charlie, name='his').key}"}
    assert http.post(URL, json=CHAT, headers=his).status_code == 402
    assert not StoredReply.objects.exists()
    ledger.grant(
        client_id=charlie.pk, amount=10 * money.TOKEN, reference="grant:2", reason="test", by_id=None
    )
    assert http.post(URL, json=CHAT, headers=his).status_code == 200
    assert len(engine.asked) == 1


async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return await stream(request, [chunk("word ")] * 1000, pause_s=0.02)


@pytest.mark.parametrize("way", ["streamed", "streamed question"])
def test_who_left_in_the_middle_gets_what_was_delivered_and_charged(
    http: httpx.Client, alice: Client, engine: Engine, way: str
) -> None:
    engine.behaviour = endless
    url, body = ways(alice)[way]
    with http.stream("POST", url, json=body, headers=KEY) as reply:
        begun = next(reply.iter_bytes())
    record = last_record("partial")
    assert (record.code, charged()) == ("consumer_left", [record.charged])
    again = http.post(url, json=body, headers=KEY)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content.startswith(begun)
    *words, last = [line.removeprefix("data: ") for line in again.text.split("\n\n") if line]
    assert len(words) == record.completion_tokens
    said = json.loads(last)
    assert (said["error"] if way == "streamed" else said)["code"] == "consumer_left"
    assert (len(engine.asked), len(charged())) == (1, 1)
    assert settled()


def test_a_stream_that_broke_off_is_repeated_with_its_error(http: httpx.Client, engine: Engine) -> None:
    async def break_off(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await stream(request, [chunk("one "), chunk("two ")], end=False)
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    engine.behaviour = break_off
    first = http.post(URL, json=CHAT | {"stream": True}, headers=KEY)
    assert last_record("partial").charged > 0
    again = http.post(URL, json=CHAT | {"stream": True}, headers=KEY)
    assert (again.headers["idempotent-replayed"], again.content) == ("true", first.content)
    assert (len(engine.asked), len(charged())) == (1, 1)


@pytest.mark.parametrize("way", ["plain", "streamed", "question"])
def test_a_reply_that_is_too_large_is_named_instead(
    http: httpx.Client, alice: Client, settings: Any, engine: Engine, way: str
) -> None:
    settings.IDEMPOTENCY_MAX_REPLY_BYTES = 40
    url, body = ways(alice)[way]
    first = http.post(url, json=body, headers=KEY)
    again = http.post(url, json=body, headers=KEY)
    assert (again.status_code, code_of(again)) == (409, "idempotency_reply_not_kept")
    assert f"/inference/{first.headers['x-inference-id']}/" in again.text
    assert again.headers["x-should-retry"] == "false"
    assert (len(engine.asked), charged()) == (1, [COST])


def lose(row: StoredReply, **more: Any) -> None:
    """As if the process that worked on a request had been killed a while ago."""
    StoredReply.objects.filter(pk=row.pk).update(
        status=None, body=None, gateway_id=uuid4(), created_at=timezone.now() - timedelta(minutes=1), **more
    )


@pytest.fixture
def claimed(alice: Client) -> StoredReply:
    """A key of a request that a process has taken in, and nothing more."""
    sha256 = idempotency.fingerprint("POST", URL, json.dumps(CHAT, separators=(",", ":")).encode())
    return StoredReply.objects.create(
        client=alice,
        key=KEY["Idempotency-Key"],
        request_sha256=sha256,
        subject="inference:999999",
        expires_at=timezone.now() + timedelta(hours=1),
    )


def send(http: httpx.Client) -> httpx.Response:
    return http.post(
        URL,
        content=json.dumps(CHAT, separators=(",", ":")),
        headers=KEY | {"Content-Type": "application/json"},
    )


def test_a_process_that_died_frees_the_key(http: httpx.Client, claimed: StoredReply) -> None:
    assert code_of(send(http)) == "idempotency_key_in_use"
    assert replays.sweep(now=timezone.now()) == 0
    lose(claimed)
    assert replays.sweep(now=timezone.now()) == 1
    assert send(http).status_code == 200


def test_a_process_that_lives_keeps_the_key_until_long_after_the_deadline(
    http: httpx.Client, claimed: StoredReply, settings: Any
) -> None:
    lose(claimed)
    StoredReply.objects.update(gateway_id=Gateway.objects.get().pk)
    assert replays.sweep(now=timezone.now()) == 0
    settings.REQUEST_DEADLINE_S = -60
    assert replays.sweep(now=timezone.now()) == 1


def test_a_key_stays_taken_while_the_record_runs(alice: Client, claimed: StoredReply) -> None:
    record = Inference.objects.create(client=alice, kind="chat", desired_model="llama")
    Running.objects.create(
        inference=record,
        client_id=alice.pk,
        gateway_id=uuid4(),
        created_at=timezone.now() - timedelta(minutes=1),
    )
    lose(claimed, subject=f"inference:{record.pk}")
    assert replays.sweep(now=timezone.now()) == 0
    assert records.sweep(now=timezone.now()) == 1
    assert replays.sweep(now=timezone.now()) == 1
    assert not StoredReply.objects.exists()


def test_what_was_charged_is_never_done_again(http: httpx.Client, engine: Engine) -> None:
    send(http)
    lose(StoredReply.objects.get())
    assert replays.sweep(now=timezone.now()) == 0
    assert code_of(send(http)) == "idempotency_reply_not_kept"
    assert (len(engine.asked), charged()) == (1, [COST])


def test_a_late_process_does_not_write_over_the_key_of_another(
    http: httpx.Client, engine: Engine, server: Server
) -> None:
    engine.behaviour = slow
    thread = threading.Thread(target=send, args=[http])
    thread.start()
    server.until(lambda: StoredReply.objects.exists() and Inference.objects.exists())
    StoredReply.objects.update(subject="inference:999999")
    thread.join()
    assert StoredReply.objects.get().status is None


def test_replies_are_deleted_when_their_life_is_over(http: httpx.Client) -> None:
    send(http)
    assert idempotency.sweep(now=timezone.now() + timedelta(hours=23)) == 0
    assert idempotency.sweep(now=timezone.now() + timedelta(hours=25)) == 1
    assert "idempotent-replayed" not in send(http).headers
    assert len(charged()) == 2


def test_who_deletes_a_record_deletes_the_reply_too(http: httpx.Client, alice: Client) -> None:
    url, body = ways(alice)["question"]
    first = http.post(url, json=body, headers=KEY)
    assert http.delete(f"/inference/{first.json()['id']}/").status_code == 204
    assert StoredReply.objects.get().body is None
    assert code_of(http.post(url, json=body, headers=KEY)) == "idempotency_reply_not_kept"


def test_in_a_crowd_each_key_is_carried_out_once(
    http: httpx.Client, serve: Callable[[], Server], server: Server, node: Node, engine: Engine
) -> None:
    """Two processes, eight keys, forty-eight requests, and a database that drops its connections now and then."""

    async def brief(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return await answer(request, body)

    engine.behaviour = brief
    other = serve()
    other.knows(node)
    replies: dict[str, set[bytes]] = {f"key {number}": set() for number in range(8)}

    def insist(url: str, key: str) -> None:
        headers = {**http.headers, "Idempotency-Key": key}
        for _ in range(200):
            reply = httpx.post(url + URL, json=CHAT | {"user": key}, headers=headers, timeout=20)
            if reply.status_code == 200:
                replies[key].add(reply.content + reply.headers["x-inference-id"].encode())
                return
            assert code_of(reply) in ("idempotency_key_in_use", "database_unavailable"), reply.text
            time.sleep(0.05)

    threads = [
        threading.Thread(target=insist, args=[url, key])
        for key in replies
        for url in (server.url, other.url) * 3
    ]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.1)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'group-commit' "
                "AND datname = current_database()"
            )
    for thread in threads:
        thread.join()
    assert {key: len(found) for key, found in replies.items()} == dict.fromkeys(replies, 1)
    assert charged() == [COST] * 8
    assert settled()
