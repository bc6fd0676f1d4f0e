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
from gpus.prices import ANY_PRICE, Ceiling
from inference import dry_run, pricing
from inference.api.idempotency import once
from inference.catalogue import ModelNotFound
from inference.models import Kind, Status
from inference.relay import Relay
from inference.replays import Replays, Reply
from inference.runs import Ask, Run
from inference.shelf import Shelf
from marketplace import money
from marketplace.errors import BadGateway, Face, InvalidRequest, MarketplaceError, render
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
    replays: Replays

    async def principal(self, call: Call) -> Principal:
        """Who calls. Raises Unauthenticated, TooManyRequests."""
        client = call.scope.get("client")
        return await self.identities.of(call.header(b"authorization"), client[0] if client else None)

    async def open(self, call: Call, ask: Ask) -> Run | None:
        """Take a request in; None for a dry run, which has been answered then.

        Raises what `Shelf.find` and `Relay.open` do.
        """
        is_question = dry_run.wanted(call)
        try:
            serving = await self.shelf.find(ask.model, ask.kind, ask.principal)
        except ModelNotFound as missing:
            if not is_question:
                self.relay.demand.count(ask.model, ask.kind.value, ask.policy, missing.code)
            raise
        if serving != ask.model:
            ask.lead_to(serving)
        if is_question:
            await call.answer(200, orjson.dumps(await dry_run.foresee(ask, self.gateway.directory)))
            return None
        return await self.relay.open(ask)


_UNPRINTABLE = re.compile(r"[^ -~]")


def _missing(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_value", param=param)


@once
async def answer(call: Call, desk: Desk, kind: Kind) -> None:
    """`POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`: one request, from its body to its last byte."""
    principal = await desk.principal(call)
    body, said = await call.json_object()
    run = await desk.open(call, _ask(call, principal, kind, body, said))
    if run is None:
        return
    watching = call.watch(lambda: run.interrupt("consumer_left", "The consumer closed the connection."))
    try:
        await desk.relay.begin(run)
        if run.ask.stream:
            await _stream(call, desk, run)
        else:
            await finish(call, desk, run, 200, run.body)
    except MarketplaceError as error:
        if call.started:
            raise
        await call.fail(error, reply_headers(desk, run))
    finally:
        watching.cancel()


async def finish(call: Call, desk: Desk, run: Run, status: int, body: bytes) -> None:
    """Give out a whole answer, once it is settled. Raises NotRecorded."""
    if run.ask.claim is not None:
        run.ask.claim.reply = lambda: Reply(status, reply_headers(desk, run), body)
    await desk.relay.complete(run)
    await call.answer(status, body, reply_headers(desk, run))


async def _stream(call: Call, desk: Desk, run: Run) -> None:
    if run.ask.claim is not None:
        run.ask.claim.ending = lambda record: (
            DONE
            if record.status == Status.COMPLETED
            else _broken(BadGateway(record.reason, code=record.code))
        )
    headers = {**reply_headers(desk, run), b"cache-control": b"no-cache", b"x-accel-buffering": b"no"}
    await call.begin(200, EVENT_STREAM, headers)
    try:
        await desk.relay.pour(run, call.write)
        await desk.relay.complete(run)
    except MarketplaceError as error:
        # The head has gone out; what OpenAI's clients understand from here on is an event with an error.
        await call.end(_broken(error))
    else:
        await call.end(DONE)


def _broken(error: MarketplaceError) -> bytes:
    return b"data: " + orjson.dumps(render(error, Face.OPENAI)) + b"\n\n"


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
        most_tokens=pricing.answer_tokens(said),
        copies=pricing.answers(said),
        **terms_of(call, principal, kind),
    )


def model_name(value: Any, param: str) -> str:
    """The model that a request names. Raises InvalidRequest."""
    if not isinstance(value, str) or not value:
        raise _missing(param, "You must provide a model.")
    if len(value) > 255 or not value.isprintable():
        raise _missing(param, "A model's name has at most 255 printable characters.")
    return value


def terms_of(call: Call, principal: Principal, kind: Kind) -> dict[str, Any]:
    """What a consumer demands of the node, the price and the time: fields of `Ask`. Raises InvalidRequest.

    `X-Region`, `X-Trusted-Only: true`, `X-Max-Price`, `X-Max-Cost`, `X-Allocation`, `X-Deadline-S`.
    """
    region, trusted = call.header(b"x-region"), call.header(b"x-trusted-only")
    cost = call.header(b"x-max-cost")
    return {
        "policy": Policy(
            kind.value,
            region or "",
            (trusted or "").lower() in ("1", "true", "yes"),
            _ceiling(call, principal),
        ),
        "allocation": call.header(b"x-allocation") or "",
        "most_cost": None if cost is None else money.parse(cost, param="X-Max-Cost"),
        "deadline_s": deadline_of(call),
        "claim": call.scope.get("claim"),
    }


def _ceiling(call: Call, principal: Principal) -> Ceiling:
    """`X-Max-Price: 2.5` (tokens of either kind), or `prompt=1, completion=2.5, request=0.01`; and the key's own."""
    said = call.header(b"x-max-price")
    if said is None and not principal.limited:
        return ANY_PRICE
    own = Ceiling(principal.ceiling_input, principal.ceiling_output, principal.ceiling_request)
    asked = ANY_PRICE if said is None else _parsed_ceiling(said)
    found = asked.lower(own)
    return found if any(part is not None for part in found) else ANY_PRICE


_CEILING_PARTS = {"prompt": "input", "completion": "output", "request": "request"}


def _parsed_ceiling(said: str) -> Ceiling:
    if "=" not in said:
        price = money.parse(said, param="X-Max-Price")
        return Ceiling(price, price)
    parts = [part.partition("=") for part in said.split(",")]
    named = {name.strip().lower(): value.strip() for name, _, value in parts}
    if named.keys() - _CEILING_PARTS.keys():
        raise _missing("X-Max-Price", "X-Max-Price must be a number, or prompt=…, completion=…, request=….")
    return Ceiling(
        **{_CEILING_PARTS[name]: money.parse(value, param="X-Max-Price") for name, value in named.items()}
    )


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
    headers = {b"x-request-id": record.request_id.hex.encode()}
    if record.limits:
        headers |= _rate_headers(record.limits)
    if record.refused:
        return headers
    headers[b"x-inference-id"] = b"%d" % record.id
    node = desk.gateway.directory.nodes.get(record.node_id or 0)
    if node is not None:
        # A provider chose it: nothing in it may end the header.
        headers[b"x-node"] = _UNPRINTABLE.sub("?", node.name).encode()
    if record.held and record.status in (Status.RUNNING, Status.COMPLETED, Status.PARTIAL):
        headers[b"x-receipt"] = b"/inference/%d/receipt" % record.id
        if record.status == Status.COMPLETED:
            headers[b"x-cost"] = money.render(record.charged).encode()
    return headers


def _rate_headers(limits: dict[str, Any]) -> dict[bytes, bytes]:
    """OpenAI's names for what limits leave in this minute."""
    headers = {}
    reset = f"{float(limits['reset']):.3f}s".encode()
    for what in ("requests", "tokens"):
        if limits[what] is not None:
            allowed, left = limits[what]
            headers[f"x-ratelimit-limit-{what}".encode()] = b"%d" % allowed
            headers[f"x-ratelimit-remaining-{what}".encode()] = b"%d" % max(left, 0)
            headers[f"x-ratelimit-reset-{what}".encode()] = reset
    return headers
