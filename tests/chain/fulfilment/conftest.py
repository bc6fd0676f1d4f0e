"""A marketplace that serves one source, and our own API as far as fulfilment knows it."""

from typing import Any

import pytest

from chain.fulfilment import asking
from chain.models import Network, Source
from inference.models import Model
from tests.chain import fulfilled
from tests.chain.fulfilled import Api


@pytest.fixture
def keys(settings: Any) -> None:
    settings.CHAIN_KEY, settings.CHAIN_PROVIDER_KEY = fulfilled.KEY, fulfilled.PROVIDER_KEY


@pytest.fixture
def network(db: None) -> Network:
    return fulfilled.network()


@pytest.fixture
def source(network: Network, keys: None) -> Source:
    Model.objects.create(name="llama")
    return fulfilled.source(network)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, add_node: Any) -> Api:
    """What takes the place of our own API: a node that answers everything, for nothing."""
    found = Api(add_node("bobs"))
    monkeypatch.setattr(asking, "foresee", found.foresee)
    monkeypatch.setattr(asking, "ask", found.ask)
    return found
