"""The engine in front of somebody's model server, with all that such servers get up to."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import unused_port

from gpus.agent.engines import Answer, Busy, EngineFailed, EngineUnreachable, NoSuchModel, Offer, Usage
from gpus.agent.engines.discovery import Wanted, base_url, kinds_of
from gpus.agent.engines.upstream import Upstream
from tests.gpus.agent.fakes import USAGE, ModelServer, until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello you there"}]}
STREAM = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
PATH = "/v1/chat/completions"
Start = Callable[..., Any]


async def ask(engine: Upstream, request: dict[str, Any]) -> tuple[Answer, bytes, Usage]:
    answer = await engine.open(PATH, orjson.dumps(request), request)
    try:
        body = b"".join([chunk async for chunk in answer])
        return answer, body, await answer.usage()
    finally:
        await answer.stop()


# --- Discovery -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_url_may_be_written_with_and_without_v1(url: str) -> None:
    assert str(base_url(url)) == "http://h:1/"
    assert str(base_url("https://h/api/v1")) == "https://h/api/"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({"data": [{"id": "x", "max_model_len": 99}]}, Offer("x", context_length=99, concurrency=8)),
        ({"data": [{"id": "x", "owned_by": "vllm"}]}, Offer("x", concurrency=64)),
        ({"data": [{"id": "x", "meta": {"n_ctx_train": 20}}]}, Offer("x", context_length=20, concurrency=8)),
        ({"data": [{"id": "x", "context_length": 512}]}, Offer("x", context_length=512, concurrency=8)),
        ({"models": [{"name": "llama3:8b", "model": "llama3:8b"}]}, Offer("llama3:8b", concurrency=8)),
        (["bare"], Offer("bare", concurrency=8)),
        ([{"model_id": "odd"}, 5, {"nothing": 1}], Offer("odd", concurrency=8)),
        ({"data": [{"id": "bge-x"}]}, Offer("bge-x", kinds=("embedding",), concurrency=8)),
    ],
)  # fmt: skip
async def test_it_reads_the_lists_of_many_servers(
    upstream: Start, models: ModelServer, listed: Any, expected: Offer
) -> None:
    models.models = listed
    assert (await upstream()).offers == [expected]


@pytest.mark.parametrize(
    ("page", "content", "name"),
    [
        ("/api/tags", {"models": [{"name": "gemma:2b", "size": 1}]}, "gemma:2b"),
        ("/info", {"model_id": "big/bloom", "max_total_tokens": 2048}, "big/bloom"),
    ],
)
async def test_it_finds_models_of_servers_without_a_list(
    upstream: Start, models: ModelServer, page: str, content: Any, name: str
) -> None:
    models.models, models.pages = None, {page: content}
    assert [offer.name for offer in (await upstream()).offers] == [name]


async def test_llama_cpp_tells_its_slots(upstream: Start, models: ModelServer) -> None:
    models.models = {"data": [{"id": "x.gguf", "owned_by": "llamacpp"}]}
    models.pages = {"/props": {"total_slots": 3}}
    assert (await upstream()).offers[0].concurrency == 3


async def test_a_model_that_is_named_need_not_be_listed(upstream: Start, models: ModelServer) -> None:
    models.models = {"data": []}
    engine = await upstream(names={"public": "/models/folder"})
    assert [offer.name for offer in engine.offers] == ["public"]


async def test_the_provider_has_the_last_word(upstream: Start, models: ModelServer) -> None:
    models.models = {"data": [{"id": "m"}, {"id": "n"}]}
    engine = await upstream(names={"public": "m"}, kinds=("completion",), concurrency=2)
    assert engine.offers == [Offer("public", kinds=("completion",), concurrency=2)]
    await ask(engine, CHAT | {"model": "public"})
    assert models.requests[0]["model"] == "m"


@pytest.mark.parametrize(
    "name", ["BAAI/bge-m3", "intfloat/e5-small", "all-MiniLM-L6-v2", "text-embedding-3-small"]
)
def test_embedding_models_are_known_by_their_names(name: str) -> None:
    assert kinds_of(name) == ("embedding",)
    assert kinds_of("meta-llama/Llama-3.1-8B") == ("chat", "completion")


async def test_a_server_that_was_away_is_found_again(stack: AsyncExitStack, models: ModelServer) -> None:
    port, changes = unused_port(), []
    engine = Upstream(f"http://127.0.0.1:{port}", wanted=Wanted({}))
    await engine.start(lambda: changes.append(len(engine.offers)))
    stack.push_async_callback(engine.close)
    assert engine.offers == []
    async with models.running_at(port):
        await until(lambda: engine.offers)
        assert (await ask(engine, CHAT))[2].tokens == USAGE
    with pytest.raises(EngineUnreachable):
        await engine.open(PATH, orjson.dumps(CHAT), CHAT)
    assert engine.offers == []
    async with models.running_at(port):
        await until(lambda: engine.offers)
    assert changes == [1, 0, 1]


# --- Answers ---------------------------------------------------------------------------------------------
async def test_the_body_and_the_key_arrive_as_they_are(upstream: Start, models: ModelServer) -> None:
    engine = await upstream(key="secret")
    await ask(engine, CHAT | {"tools": [{"type": "function"}], "unknown": {"x": 1}})
    assert models.requests[0]["unknown"] == {"x": 1}
    assert models.headers[0]["Authorization"] == "Bearer secret"


async def test_a_stream_without_its_end_mark_gets_one(upstream: Start, models: ModelServer) -> None:
    models.says_done = False
    _, body, usage = await ask(await upstream(), STREAM)
    assert body.endswith(b"data: [DONE]\n\n")
    assert usage == Usage(USAGE, "engine")


async def test_stream_options_are_left_out_for_servers_that_refuse_them(
    upstream: Start, models: ModelServer
) -> None:
    models.refuses_stream_options, models.usage = True, None
    engine = await upstream()
    answer, body, _ = await ask(engine, STREAM)
    assert answer.status == 200
    assert b"three" in body
    await ask(engine, STREAM)
    assert ["stream_options" in request for request in models.requests] == [True, False, False]


async def test_a_real_mistake_is_still_reported_as_it_was(upstream: Start, models: ModelServer) -> None:
    models.error = (400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
    answer, body, _ = await ask(await upstream(), STREAM)
    assert answer.status == 400
    assert orjson.loads(body)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (429, Busy),
        (503, Busy),
        (404, NoSuchModel),
        (500, EngineFailed),
        (401, EngineFailed),
        (302, EngineFailed),
    ],
)
async def test_what_is_not_the_consumers_fault_can_go_to_another_node(
    upstream: Start, models: ModelServer, status: int, refusal: type[Exception]
) -> None:
    engine = await upstream()
    models.error = (status, {"error": "internal detail"})
    with pytest.raises(refusal) as raised:
        await engine.open(PATH, orjson.dumps(CHAT), CHAT)
    assert status not in (401, 500) or "internal detail" not in str(raised.value)


async def test_an_answer_that_breaks_off_is_a_failure(upstream: Start, models: ModelServer) -> None:
    models.breaks_off = True
    engine = await upstream()
    with pytest.raises(EngineFailed, match="broke off"):
        await ask(engine, STREAM)


# --- Counting --------------------------------------------------------------------------------------------
async def test_usage_is_counted_by_the_servers_tokenizer_where_it_reports_none(
    upstream: Start, models: ModelServer
) -> None:
    models.usage = None
    models.pages = {"/tokenize": lambda asked: {"tokens": asked["content"].split()}}
    _, _, usage = await ask(await upstream(), CHAT)
    assert usage == Usage({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, "tokenizer")


async def test_usage_is_estimated_as_a_last_resort(upstream: Start, models: ModelServer) -> None:
    models.usage = None
    for request in (CHAT, STREAM):
        _, _, usage = await ask(await upstream(), request)
        # 15 characters and one message; 13 characters.
        assert usage == Usage({"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}, "estimate")


async def test_a_stopped_stream_is_counted_as_far_as_it_came(upstream: Start, models: ModelServer) -> None:
    models.words, models.pause_s = ["12345678"] * 1000, 0.01
    engine = await upstream()
    answer = await engine.open(PATH, orjson.dumps(STREAM), STREAM)
    seen = 0
    async for chunk in answer:
        seen += chunk.count(b"12345678")
        if seen >= 5:
            break
    await answer.stop()
    usage = await answer.usage()
    assert usage.source == "estimate"
    assert usage.tokens is not None
    assert usage.tokens["completion_tokens"] == 2 * seen
    await until(lambda: models.abandoned == 1)
