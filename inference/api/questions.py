"""The documents' own ways to ask a model: `POST /inference/`, `/inference/stream/`, `/ai/models/{id}/inference`.

On the hot path like OpenAI's endpoints, and the same request to the node; only what goes in and comes out differs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
from django.db import close_old_connections
from rest_framework.exceptions import ValidationError

from clients.credentials import Principal
from inference import metering, pricing
from inference.api.completions import EVENT_STREAM, Desk, finish, model_name, reply_headers, terms_of
from inference.api.idempotency import once
from inference.api.inferences import InferenceRequestSerializer, InferenceSerializer, check_client
from inference.journal import Record
from inference.models import Inference, Kind, Status
from inference.replays import Reply
from inference.runs import Ask, Run
from marketplace.errors import InvalidRequest, MarketplaceError
from marketplace.http import Call


@once
async def ask(call: Call, desk: Desk) -> None:
    """`POST /inference/`: the answer, whole, as the stored record."""
    run = await _question(call, desk, stream=False)
    if run is None:
        return
    await _begun(call, desk, run)
    if not call.started:
        claim = run.ask.claim
        if claim is not None:
            claim.reply = lambda: Reply(201, reply_headers(desk, run))
        await desk.relay.complete(run)
        body = orjson.dumps(await asyncio.to_thread(_stored, run.record.id))
        if claim is not None:
            await claim.fill(body)
        await call.answer(201, body, reply_headers(desk, run))


@once
async def stream(call: Call, desk: Desk) -> None:
    """`POST /inference/stream/`: the answer as it is made, as events {"token"}, then {"done", "id", "answer_text"}."""
    run = await _question(call, desk, stream=True)
    if run is None:
        return
    await _begun(call, desk, run)
    if call.started:
        return
    if run.ask.claim is not None:
        run.ask.claim.ending = lambda record: (
            _done(record)
            if record.status == Status.COMPLETED
            else _broken(record, record.reason, record.code)
        )
    headers = {**reply_headers(desk, run), b"cache-control": b"no-cache", b"x-accel-buffering": b"no"}
    await call.begin(201, EVENT_STREAM, headers)
    try:
        await desk.relay.pour(run, lambda block: _write_tokens(call, block))
        await desk.relay.complete(run)
    except MarketplaceError as error:
        await call.end(_broken(run.record, error.message, error.code))
    else:
        await call.end(_done(run.record))


def _done(record: Record) -> bytes:
    return _event({"done": True, "id": record.id, "answer_text": record.answer_text})


def _broken(record: Record, message: str, code: str) -> bytes:
    return _event({"error": message, "code": code, "id": record.id})


async def _question(call: Call, desk: Desk, *, stream: bool) -> Run | None:
    principal = await desk.principal(call)
    _, said = await call.json_object()
    question = InferenceRequestSerializer(data=said)
    try:
        question.is_valid(raise_exception=True)
    except ValidationError as error:
        raise InvalidRequest(fields=error.detail) from None
    data = question.validated_data
    check_client(data["client"], principal.client_id)
    model, text = data["desired_model"], data["question_text"]
    kind = desk.shelf.kind_for_text(model)
    body = _text_request(kind, model, text)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return await desk.open(
        call,
        Ask(
            principal,
            face=call.path,
            kind=kind,
            model=model,
            body=orjson.dumps(body),
            stream=stream,
            question_text=text,
            keep_text=True,
            **terms_of(call, principal, kind),
        ),
    )


def _text_request(kind: Kind, model: str, text: str) -> dict[str, Any]:
    match kind:
        case Kind.CHAT:
            return {"model": model, "messages": [{"role": "user", "content": text}]}
        case Kind.COMPLETION:
            return {"model": model, "prompt": text}
    raise InvalidRequest(
        f"{model!r} makes embeddings and answers no questions. Use POST /v1/embeddings.",
        fields={
            "desired_model": [
                f"{model!r} makes embeddings and answers no questions. Use POST /v1/embeddings."
            ]
        },
    )


async def _begun(call: Call, desk: Desk, run: Run) -> None:
    """Let a request begin; on an error it has been answered, with what names the record."""
    watching = call.watch(lambda: run.interrupt("consumer_left", "The consumer closed the connection."))
    run.task.add_done_callback(lambda _: watching.cancel())
    try:
        await desk.relay.begin(run)
    except MarketplaceError as error:
        await call.fail(error, reply_headers(desk, run))


async def _write_tokens(call: Call, block: bytes) -> None:
    tokens = []
    for event in block.split(b"\n\n"):
        data = event.partition(b"data:")[2].strip()
        text = metering.text_of(orjson.loads(data)) if data else ""
        if text:
            tokens.append(_event({"token": text}))
    if tokens:
        await call.write(b"".join(tokens))


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(said) + b"\n\n"


def _stored(inference_id: int) -> dict[str, Any]:
    close_old_connections()
    try:
        row = Inference.objects.select_related("client", "node").get(pk=inference_id)
        return dict(InferenceSerializer(row).data)
    finally:
        close_old_connections()


@once
async def infer(call: Call, desk: Desk, model: str) -> None:
    """`POST /ai/models/{model_id}/inference`: an input to a model, and its output."""
    started = time.monotonic()
    principal = await desk.principal(call)
    _, said = await call.json_object()
    kind, body = _any_request(desk, model_name(model, "model_id"), said)
    run = await desk.open(call, _plain_ask(call, principal, kind, model, body))
    if run is None:
        return
    await _begun(call, desk, run)
    if call.started:
        return
    record = run.record
    reply = {
        "inference_id": str(record.id),
        "model_id": model,
        "status": Status.COMPLETED.value,
        "output": _output(kind, orjson.loads(run.body)),
        "latency": round(time.monotonic() - started, 4),
        "usage": {"prompt_tokens": record.prompt_tokens, "completion_tokens": record.completion_tokens},
    }
    await finish(call, desk, run, 200, orjson.dumps(reply))


def _plain_ask(call: Call, principal: Principal, kind: Kind, model: str, body: dict[str, Any]) -> Ask:
    return Ask(
        principal,
        face="/ai/models/inference",
        kind=kind,
        model=model,
        body=orjson.dumps(body),
        most_tokens=pricing.answer_tokens(body),
        copies=pricing.answers(body),
        **terms_of(call, principal, kind),
    )


def _any_request(desk: Desk, model: str, said: dict[str, Any]) -> tuple[Kind, dict[str, Any]]:
    """What kind of request an input is, and that request in OpenAI's words. Raises InvalidRequest."""
    value, params = said.get("input", said.get("input_data")), said.get("params", {})
    params = {} if params is None else params
    if not isinstance(params, dict) or params.keys() & {"stream", "model", "n"}:
        raise InvalidRequest(
            '`params` must be an object like {"temperature", "top_p", "max_tokens"}.', param="params"
        )
    kind = desk.shelf.kind_for_text(model)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    messages = (
        isinstance(value, list) and value and all(isinstance(each, dict) and "role" in each for each in value)
    )
    texts = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    if messages:
        return Kind.CHAT, {**params, "model": model, "messages": value}
    if kind is Kind.EMBEDDING and (texts or (isinstance(value, str) and value)):
        return kind, {**params, "model": model, "input": value}
    if isinstance(value, str) and value:
        return kind, {**params, **_text_request(kind, model, value)}
    raise InvalidRequest(
        "`input` must be a text, a list of chat messages, or, for a model that makes embeddings, a list of texts.",
        param="input",
    )


def _output(kind: Kind, said: dict[str, Any]) -> Any:
    if kind is not Kind.EMBEDDING:
        return metering.text_of(said)
    vectors = [each.get("embedding") for each in said.get("data", [])]
    return vectors[0] if len(vectors) == 1 else vectors
