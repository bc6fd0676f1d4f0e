"""The hot path, served for real: uvicorn, PostgreSQL, Valkey, and nodes that do what a test wants."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from django.db import connections, transaction
from django.utils import timezone

from clients import credentials, keys
from clients.models import Client
from gpus import directory
from gpus.models import Heartbeat, Node, Offer
from inference.models import Inference
from tests.engine import Background, Engine

HARDWARE = dict.fromkeys(
    (
        "gpu_info",
        "cpu_name",
        "cpu_core",
        "cpu_frequency",
        "total_memory",
        "total_swap",
        "ram",
        "os_name",
        "os_version",
    ),
    "1",
)


@dataclass
class Server:
    url: str
    hot: Any

    def until(self, true: Callable[[], bool], timeout: float = 5.0) -> None:
        """Wait for something that the server does by itself."""
        end = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)

    def knows(self, *nodes: Node) -> None:
        """Wait until the server has read these nodes."""
        live = self.hot.gateway.directory.nodes
        self.until(lambda: all(node.pk in live and live[node.pk].takes_work for node in nodes))


@pytest.fixture
def background() -> Iterator[Background]:
    found = Background()
    yield found
    found.stop()


@pytest.fixture
def serve(
    transactional_db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Server]]:
    """Starts web processes' worth of server, each in a thread."""
    settings.ALLOW_PRIVATE_NODE_URLS = True
    # Rows that tests write by themselves are announced to nobody: most of a test would be waiting for the next look.
    monkeypatch.setattr(directory, "POLL_S", 0.1)
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start() -> Server:
        from marketplace.asgi import Application

        application = Application()
        config = uvicorn.Config(
            application, port=0, log_level="warning", lifespan="on", ws="websockets-sansio"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(_run(server)), daemon=True)
        thread.start()
        started.append((server, thread))
        end = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return Server(f"http://127.0.0.1:{port}", application._hot)

    async def _run(server: uvicorn.Server) -> None:
        await server.serve()
        await asyncio.to_thread(connections.close_all)

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()
    # Connections of its other threads: the server has made the collector slow.
    gc.collect()


@pytest.fixture
def server(serve: Callable[[], Server]) -> Server:
    return serve()


@pytest.fixture
def engine(background: Background) -> Iterator[Engine]:
    found = Engine(background)
    yield found
    found.stop()


@pytest.fixture
def add_node(bob: Client) -> Callable[..., Node]:
    """A node of bob's that has just called. `node.token` is its token."""

    @transaction.atomic  # nobody may see it without its offer
    def add(name: str, *, model: str = "llama", url: str = "", concurrency: int = 10, **fields: Any) -> Node:
        token = credentials.new_secret("")
        node = Node.objects.create(
            owner=bob,
            machine_id=name,
            name=name,
            token_prefix=token[:8],
            token_digest=credentials.digest(token),
            delivery="push" if url else "pull",
            push_url=url,
            **HARDWARE,
            **fields,
        )
        kinds = ["embedding"] if model.startswith("embed") else ["chat", "completion"]
        Offer.objects.create(node=node, model=model, kinds=kinds, concurrency=concurrency)
        Heartbeat.objects.create(node=node, at=timezone.now())
        node.token = token  # type: ignore[attr-defined]
        return node

    return add


@pytest.fixture
def key(alice: Client) -> str:
    return keys.create(alice, name="tests").key


@pytest.fixture
def http(server: Server, key: str) -> Iterator[httpx.Client]:
    """Alice, as a program."""
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
        yield client


def last_record(status: str = "") -> Inference:
    """The newest record; with `status`, once it has that."""
    end = time.monotonic() + 5
    while True:
        found = Inference.objects.order_by("-id").first()
        if found is not None and status in ("", found.status):
            return found
        assert time.monotonic() < end, f"the record is {found and found.status}"
        time.sleep(0.02)
