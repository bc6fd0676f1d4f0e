"""OpenAI's endpoints that make a node work: chat completions, completions, embeddings. On the hot path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings

from clients.credentials import Principal
from clients.identities import Identities
from gpus.gateway import Gateway
from gpus.placement import Policy
from inference.models import Kind
from inference.relay import Ask, Relay, Run
from inference.shelf import Shelf
from marketplace.errors import Face, InvalidRequest, MarketplaceError, render
from marketplace.http import Call

EVENT_STREAM = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
# What each endpoint cannot do without.
REQUIRED = {Kind.CHAT: "messages", Kind.COMPLETION: "prompt", Kind.EMBEDDING: "input"}


@dataclass(slots=True)
class Desk:
    """What the endpoints of one process share."""

    identities: Identities
    gateway: Gateway
    relay: Relay
    shelf: Shelf

    async def principal(self, call: Call) -> Principal:
        """Who calls. Raises Unauthenticated, TooManyRequests."""
        client = call.scope.get("client")
        return await self.identities.of(call.header(b"authorization"), client[0] if client else None)


_UNPRINTABLE = re.compile(r"[^ -~]")


def _missing(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_value", param=param)


async def answer(call: Call, desk: Desk, kind: Kind) -> None:
    """`POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`: one request, from its body to its last byte."""
    principal = await desk.principal(call)
    body, said = await call.json_object()
    ask = _ask(call, principal, kind, body, said)
    desk.shelf.check(ask.model, kind, principal)
    run = await desk.relay.open(ask)
    watching = call.watch(lambda: run.interrupt("consumer_left", "The consumer closed the connection."))
    try:
        await desk.relay.begin(run)
        if ask.stream:
            await _stream(call, desk, run)
        else:
            await desk.relay.complete(run)
            await call.answer(200, run.body, reply_headers(desk, run))
    except MarketplaceError as error:
        if call.started:
            raise
        await call.fail(error, reply_headers(desk, run))
    finally:
        watching.cancel()


async def _stream(call: Call, desk: Desk, run: Run) -> None:
    headers = {**reply_headers(desk, run), b"cache-control": b"no-cache", b"x-accel-buffering": b"no"}
    await call.begin(200, EVENT_STREAM, headers)
    try:
        await desk.relay.pour(run, call.write)
        await desk.relay.complete(run)
    except MarketplaceError as error:
        # The head has gone out; what OpenAI's clients understand from here on is an event with an error.
        await call.end(b"data: " + orjson.dumps(render(error, Face.OPENAI)) + b"\n\n")
    else:
        await call.end(DONE)


def _ask(call: Call, principal: Principal, kind: Kind, body: bytes, said: dict[str, Any]) -> Ask:
    stream = said.get("stream") or False
    if not isinstance(stream, bool):
        raise _missing("stream", "stream must be true or false.")
    if not said.get(REQUIRED[kind]):
        raise _missing(REQUIRED[kind], f"You must provide {REQUIRED[kind]}.")
    options = said.get("stream_options") or {}
    if not isinstance(options, dict):
        raise _missing("stream_options", "stream_options must be an object.")
    pass_usage = bool(options.get("include_usage"))
    if stream and kind is Kind.EMBEDDING:
        raise _missing("stream", "Embeddings cannot be streamed.")
    if stream and not pass_usage:
        # The engine's own count is what is recorded; its report goes on only to who asked for it.
        body = orjson.dumps({**said, "stream_options": {**options, "include_usage": True}})
    return Ask(
        principal,
        face=call.path,
        kind=kind,
        model=model_name(said.get("model"), "model"),
        body=body,
        stream=stream,
        pass_usage=pass_usage,
        policy=policy_of(call, kind),
        deadline_s=deadline_of(call),
    )


def model_name(value: Any, param: str) -> str:
    """The model that a request names. Raises InvalidRequest."""
    if not isinstance(value, str) or not value:
        raise _missing(param, "You must provide a model.")
    if len(value) > 255 or not value.isprintable():
        raise _missing(param, "A model's name has at most 255 printable characters.")
    return value


def policy_of(call: Call, kind: Kind) -> Policy:
    """What a consumer demands of the node: `X-Region`, `X-Trusted-Only: true`."""
    region, trusted = call.header(b"x-region"), call.header(b"x-trusted-only")
    return Policy(kind.value, region or "", (trusted or "").lower() in ("1", "true", "yes"))


def deadline_of(call: Call) -> float:
    """`X-Deadline-S`: seconds within which the whole answer is wanted. Raises InvalidRequest."""
    value = call.header(b"x-deadline-s")
    if not value:
        return settings.REQUEST_DEADLINE_S
    try:
        deadline = float(value)
    except ValueError:
        deadline = 0.0
    if not 0 < deadline <= settings.REQUEST_DEADLINE_S:
        raise _missing(
            "X-Deadline-S", f"X-Deadline-S must be a number of seconds up to {settings.REQUEST_DEADLINE_S:g}."
        )
    return deadline


def reply_headers(desk: Desk, run: Run) -> dict[bytes, bytes]:
    """What a reply says about itself: which record it is, and which node answered."""
    record = run.record
    headers = {b"x-request-id": record.request_id.hex.encode(), b"x-inference-id": b"%d" % record.id}
    node = desk.gateway.directory.nodes.get(record.node_id or 0)
    if node is not None:
        # A provider chose it: nothing in it may end the header.
        headers[b"x-node"] = _UNPRINTABLE.sub("?", node.name).encode()
    return headers
