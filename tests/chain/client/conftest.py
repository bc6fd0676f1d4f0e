"""alice's environment: the test network is selected, and her key is set."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chain.client import (
    ChainConfig,
    DeliveryMethod,
    ImageEnvironments,
    SourceInfo,
    TaskInfo,
    TaskInput,
    deposit,
    provider,
    publish_source,
    rpc,
)
from tests.chain.network import Network
from tests.chain.pinboard import Pinboard, pinboard

COIN = 10**18


@pytest.fixture
def pins() -> Iterator[Pinboard]:
    with pinboard() as found:
        yield found


@pytest.fixture(autouse=True)
def _nothing_selected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in (
        "CLIENT_PRIVATE_KEY",
        "CLIENT_KEYSTORE",
        "CHAIN_NETWORK",
        "CHAIN_RPC_URL",
        "PROVIDER_PRIVATE_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHAIN_LOCK_DIR", str(tmp_path / "locks"))
    networks, contracts = dict(ChainConfig._networks), {**ChainConfig.CHAIN_CONTRACTS}
    ChainConfig.reset()
    rpc.forget()
    yield
    ChainConfig._networks, ChainConfig.CHAIN_CONTRACTS = networks, contracts
    ChainConfig.reset()


@pytest.fixture
def network(devnet: Network, pins: Pinboard, monkeypatch: pytest.MonkeyPatch) -> Network:
    ChainConfig.use(devnet.manifest | {"file_url": pins.file_url, "api_url": pins.url})
    monkeypatch.setenv("CLIENT_PRIVATE_KEY", devnet.alice.private_key)
    monkeypatch.setenv("PROVIDER_PRIVATE_KEY", devnet.bob.private_key)
    return devnet


def source_info(**changes: Any) -> SourceInfo:
    fields: dict[str, Any] = {
        "name": "sentiment-service",
        "description": "AI sentiment analysis service",
        "logoUrl": "https://example.com/logo.png",
        "imageEnvs": ImageEnvironments(cpu="https://example.com/docker-compose.yml"),
        "minPayment": COIN // 1000,
        "minAvailableLockup": 0,
        "maxExpiryDuration": 86_400,
        "deliveryMethod": DeliveryMethod.MANUAL_CONFIRMATION,
    }
    return SourceInfo(**(fields | changes))


@pytest.fixture
def source(network: Network) -> str:
    """alice's, and bob stands ready for it."""
    found = publish_source(source_info())
    provider.register(found)
    return found


@pytest.fixture
def deposited(network: Network) -> int:
    deposit(COIN)
    return COIN


@pytest.fixture
def task_info(network: Network) -> Callable[..., TaskInfo]:
    def info(source: str, **changes: Any) -> TaskInfo:
        fields: dict[str, Any] = {
            "config": TaskInput("analyze_sentiment", {"text": "I love this product!"}),
            "expiryTime": int(time.time()) + 3600,
            "payment": COIN // 100,
        }
        return TaskInfo(source=source, **(fields | changes))

    return info
