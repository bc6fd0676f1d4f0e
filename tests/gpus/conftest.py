"""Machines for the tests of nodes."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HARDWARE = {
    "gpu_info": "NVIDIA GeForce RTX 3080 (10 GB VRAM)",
    "cpu_name": "AMD Ryzen 9",
    "cpu_core": "16",
    "cpu_frequency": "3400",
    "total_memory": "64",
    "total_swap": "8",
    "ram": "64",
    "os_name": "Linux",
    "os_version": "6.1",
}


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def hardware() -> dict[str, str]:
    return dict(HARDWARE)


@pytest.fixture
def join(db: None) -> Callable[..., Any]:
    """`join(bob, "toy", machine_id="m1")` registers a machine that serves "toy"; gives node, token, state."""

    def register(owner: Any, *models: str, now: datetime = NOW, **said: Any) -> Any:
        from gpus import nodes
        from gpus.offers import ModelSpec

        specs = [ModelSpec(model) for model in models or ("toy",)]
        return nodes.register(
            owner=owner, joining=nodes.Joining(hardware=HARDWARE, models=specs, **said), now=now
        )

    return register


@pytest.fixture
def connect() -> Callable[..., Any]:
    """`connect(node, now)` lets a living gateway hold the node's connection."""

    def hold(node: Any, now: datetime = NOW) -> Any:
        from gpus.models import Gateway, Heartbeat, Node

        gateway = Gateway.objects.create(host="test", pid=1, started_at=now, seen_at=now)
        Node.objects.filter(pk=node.pk).update(gateway=gateway, link_id=gateway.pk)
        Heartbeat.objects.update_or_create(node=node, defaults={"at": now})
        return gateway

    return hold


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> Any:
    """`with announced() as said:` collects what was told to other processes when the block was committed."""
    from contextlib import contextmanager

    from marketplace import bus

    @contextmanager
    def collecting() -> Any:
        said: list[tuple[str, str]] = []
        monkeypatch.setattr(bus, "announce", lambda topic, payload: said.append((topic, payload)))
        with django_capture_on_commit_callbacks(execute=True):
            yield said

    return collecting
