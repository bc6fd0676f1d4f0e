"""The ASGI application: the hot path (whatever waits for nodes) beside Django (everything else)."""

import asyncio
import gc
import logging
import os
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
django.setup(set_prefix=False)  # before anything that needs the models

from django.conf import settings  # noqa: E402
from starlette.middleware.cors import CORSMiddleware  # noqa: E402

from clients import ledger  # noqa: E402
from clients.identities import Identities  # noqa: E402
from finetune.senders import Senders  # noqa: E402
from gpus import connections, gateway, heartbeats  # noqa: E402
from gpus.gateway import Gateway  # noqa: E402
from gpus.protocol import CONNECT_PATH  # noqa: E402
from inference import journal, replays  # noqa: E402
from inference.api import completions, questions  # noqa: E402
from inference.api.completions import Desk  # noqa: E402
from inference.journal import Journal  # noqa: E402
from inference.models import Kind  # noqa: E402
from inference.relay import Relay  # noqa: E402
from inference.replays import Replays  # noqa: E402
from inference.shelf import Shelf  # noqa: E402
from marketplace import bodies  # noqa: E402
from marketplace.bodies import Bodies  # noqa: E402
from marketplace.bus import Bus  # noqa: E402
from marketplace.errors import MarketplaceError, MethodNotAllowed  # noqa: E402
from marketplace.groupcommit import GroupCommit  # noqa: E402
from marketplace.http import Call, ConsumerLeft, Endpoint, Receive, Scope, Send, serve  # noqa: E402

logger = logging.getLogger(__name__)
django_application = bodies.Handler()

_MODEL_INFERENCE = re.compile(r"^/ai/models/(.+)/inference/?$")


class HotPath:
    """Everything that waits for nodes, in one process."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.commits = GroupCommit(
            [gateway.ALIVE, heartbeats.BEAT, replays.STORE, replays.FREE, *journal.STATEMENTS],
            lock=ledger.LOCK,
        )
        self.claims = GroupCommit([replays.CLAIM])
        self.gateway = Gateway(commits=self.commits, bus=self.bus)
        self.shelf = Shelf(self.gateway.directory)
        self.journal = Journal(self.commits, self.gateway.id)
        self.relay = Relay(self.gateway, self.journal, self.shelf)
        self.identities = Identities(self.bus)
        self.replays = Replays(
            claims=self.claims, commits=self.commits, journal=self.journal, gateway_id=self.gateway.id
        )
        self.desk = Desk(self.identities, self.gateway, self.relay, self.shelf, self.replays)
        self.endpoints: dict[str, Endpoint] = {
            "/v1/chat/completions": partial(completions.answer, desk=self.desk, kind=Kind.CHAT),
            "/v1/completions": partial(completions.answer, desk=self.desk, kind=Kind.COMPLETION),
            "/v1/embeddings": partial(completions.answer, desk=self.desk, kind=Kind.EMBEDDING),
            "/inference": partial(questions.ask, desk=self.desk),
            "/inference/stream": partial(questions.stream, desk=self.desk),
            "/llm_models/heartbeat": self.gateway.heartbeats.take,
        }

    async def start(self) -> None:
        self.commits.start()
        self.claims.start()
        await self.gateway.start()
        self.relay.start()
        await self.shelf.start(self.bus)
        self.bus.start()

    async def stop(self) -> None:
        await self.relay.stop()
        await self.shelf.stop()
        await self.gateway.stop()
        await self.identities.stop()
        await self.bus.stop()
        await self.claims.stop()
        await self.commits.stop()

    def endpoint(self, path: str) -> Endpoint | None:
        """What answers a path with POST here; None: Django does."""
        found = self.endpoints.get(path.rstrip("/"))
        if found is None and path.startswith("/ai/models/") and (match := _MODEL_INFERENCE.match(path)):
            return partial(questions.infer, desk=self.desk, model=match[1])
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(scope["endpoint"], scope, receive, send)


class Application:
    """Decides who answers, and starts the hot path on the event loop that it will run on."""

    def __init__(self) -> None:
        self._hot: HotPath | None = None
        self._hot_application: Callable[..., Awaitable[None]] | None = None
        self._places: asyncio.Semaphore | None = None
        self._bodies: Bodies | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._hot is not None, "the server must run ASGI's lifespan"
        assert self._hot_application is not None
        endpoint = self._hot.endpoint(scope["path"])
        if endpoint is None or (scope["method"] != "POST" and scope["path"].rstrip("/") == "/inference"):
            await self._django(scope, receive, send)
            return
        scope["endpoint"] = endpoint if scope["method"] == "POST" else _not_allowed
        if any(name == b"origin" for name, _ in scope["headers"]):
            await self._hot_application(scope, receive, send)
        else:
            await self._hot(scope, receive, send)

    async def _django(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Django, as often at once as the database can take.

        Who is still sending holds no place; neither does who is being sent a file.
        """
        assert self._bodies is not None
        try:
            received = await self._bodies.take(scope, receive)
        except ConsumerLeft:
            return
        except MarketplaceError as error:
            await bodies.refuse(error, scope, send)
            return
        assert self._places is not None
        place = _Place(self._places, scope, send)
        await self._places.acquire()
        try:
            await django_application(scope, received, place.send)  # type: ignore[arg-type]
        finally:
            place.leave()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._hot is None or scope["path"].rstrip("/") != CONNECT_PATH.rstrip("/"):
            await receive()
            await send({"type": "websocket.close", "code": 4404})
            return
        hot = self._hot.gateway
        await connections.connect(scope, receive, send, directory=hot.directory, links=hot.links)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._hot = HotPath()
        self._places = asyncio.Semaphore(settings.DJANGO_CONCURRENCY)
        self._bodies = Bodies(Senders(self._hot.identities).check)
        self._hot_application = _with_cors(self._hot)
        await self._hot.start()
        _spare_the_collector()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._hot.stop()
        await send({"type": "lifespan.shutdown.complete"})


class _Place:
    """One of Django's places. An answer that needs none leaves it when it begins."""

    def __init__(self, places: asyncio.Semaphore, scope: Scope, send: Send) -> None:
        self._places: asyncio.Semaphore | None = places
        self._scope = scope
        self._send = send

    async def send(self, message: dict[str, Any]) -> None:
        if bodies.NEEDS_NO_PLACE in self._scope:
            self.leave()
        await self._send(message)

    def leave(self) -> None:
        if self._places is not None:
            self._places.release()
            self._places = None


def _spare_the_collector() -> None:
    """Take what the start has made, which stays, from the garbage collector: looking through it stops all requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _with_cors(application: Any) -> Any:
    """The same rules for other origins as django-cors-headers applies to the rest."""
    return CORSMiddleware(
        application,
        allow_origins=["*"] if settings.CORS_ALLOW_ALL_ORIGINS else settings.CORS_ALLOWED_ORIGINS,
        allow_methods=["POST"],
        allow_headers=["*"],
        expose_headers=settings.CORS_EXPOSE_HEADERS,
    )


async def _not_allowed(call: Call) -> None:
    await call.fail(MethodNotAllowed("Only POST is allowed here."), {b"allow": b"POST"})


application = Application()
