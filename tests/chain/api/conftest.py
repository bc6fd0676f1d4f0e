"""What the tests of the chains' endpoints share: rows as the indexer leaves them, and money."""

from typing import Any

import pytest

from chain.models import Network, Response, Source, Task
from clients.models import Client
from tests.chain.api import made
from tests.clients.conftest import books, fund, holder

__all__ = ["books", "fund", "holder"]


@pytest.fixture
def local(db: None) -> Network:
    return made.network()


@pytest.fixture
def source(local: Network) -> Source:
    return made.source(local)


@pytest.fixture
def task(source: Source) -> Task:
    return made.task(source)


@pytest.fixture
def response(task: Task) -> Response:
    return made.response(task)


@pytest.fixture
def manifest(settings: Any, tmp_path: Any) -> Any:
    """A network that the settings name, which nobody can reach."""
    return made.manifest(settings, tmp_path)


@pytest.fixture
def key(settings: Any) -> None:
    settings.CHAIN_KEY = made.KEY


@pytest.fixture
def buyer(alice: Client, fund: Any) -> Client:
    fund(alice, 10)
    return alice
