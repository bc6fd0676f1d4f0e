"""Push delivery: a small web server that the marketplace calls, with the same engines behind it.

Every call must show the push secret that the marketplace gave at registration. Where the engine reports no
usage, it travels as headers (`X-Usage`, `X-Usage-Source`) of a plain answer, and as a last comment
(`: usage {…}`) of a stream.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from gpus.agent.engines import JSON_TYPE, KIND_OF_PATH, SSE_TYPE, Answer, Refusal, Usage
from gpus.agent.intake import Intake, Visit

MAX_REQUEST_BYTES = 64 * 1024 * 1024
_STATUS_OF_CODE = {
    "busy": 503,
    "draining": 503,
    "no_such_model": 404,
    "engine_unreachable": 502,
    "engine_failed": 502,
}


class PushServer:
    """Listens until it is stopped; then it lets what runs come to its end."""

    def __init__(self, intake: Intake, *, host: str, port: int, secret: Callable[[], str]) -> None:
        self._intake = intake
        self._host, self._port = host, port
        self._secret = secret
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError when the address cannot be listened on."""
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[self._guard])
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/v1/models", self._models)
        for path in KIND_OF_PATH:
            app.router.add_post(path, self._infer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, keepalive_timeout=75)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port in use, which the system chooses where 0 was asked for."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        secret = self._secret()
        known = bool(secret) and hmac.compare_digest(shown.encode(), secret.encode())
        if request.path != "/healthz" and not known:
            return _error(401, "unauthorized", "The push secret is missing or wrong.")
        return await handler(request)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "draining" if self._intake.draining else "ok"})

    async def _models(self, _request: web.Request) -> web.Response:
        models = [
            {"id": offer.name, "object": "model", "owned_by": "node"} for offer in self._intake.offers()
        ]
        return web.json_response({"object": "list", "data": models})

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        visit = self._intake.visit(request.path, body)
        response: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(_deadline(request)), visit as answer:
                if not answer.content_type.startswith(SSE_TYPE):
                    return await _plain(answer, visit)
                response = web.StreamResponse(
                    status=answer.status, headers={"Content-Type": answer.content_type}
                )
                await response.prepare(request)
                await _stream(answer, visit, response)
                return response
        except (Refusal, TimeoutError) as error:
            if response is None:
                return _refused(error)
            # The stream has begun: an end without its terminator tells the marketplace that it broke.
            if request.transport is not None:
                request.transport.abort()
            return response


async def _plain(answer: Answer, visit: Visit) -> web.Response:
    whole = b"".join([chunk async for chunk in answer])
    usage = await visit.usage()
    headers = {"Content-Type": answer.content_type} | (_usage_headers(usage) if answer.status == 200 else {})
    return web.Response(body=whole, status=answer.status, headers=headers)


async def _stream(answer: Answer, visit: Visit, response: web.StreamResponse) -> None:
    async for chunk in answer:
        await response.write(chunk)
    usage = await visit.usage()
    if usage.source != "engine":
        await response.write(b": usage " + orjson.dumps(usage.to_json()) + b"\n\n")
    await response.write_eof()


def _usage_headers(usage: Usage) -> dict[str, str]:
    if usage.source == "engine":
        return {}
    return {"X-Usage": orjson.dumps(usage.tokens).decode(), "X-Usage-Source": usage.source}


def _deadline(request: web.Request) -> float | None:
    """The marketplace's deadline in seconds, if it names one."""
    try:
        return float(request.headers.get("X-Deadline-S", "")) or None
    except ValueError:
        return None


def _refused(error: Refusal | TimeoutError) -> web.Response:
    code = error.code if isinstance(error, Refusal) else "engine_failed"
    return _error(_STATUS_OF_CODE[code], code, str(error) or "The deadline has passed.")


def _error(status: int, code: str, message: str) -> web.Response:
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    headers = {"X-Agent-Error": code} | ({"Retry-After": "1"} if status == 503 else {})
    return web.Response(body=orjson.dumps(body), status=status, content_type=JSON_TYPE, headers=headers)
