"""`devnet`: a chain with the contracts on it, as it was before the test again after it."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chain import network
from tests.chain.network import Network


@pytest.fixture(scope="session")
def devnet_session() -> Iterator[Network]:
    """One process for all tests of the run."""
    folder = network.temporary_folder()
    found = network.start(folder)
    try:
        found.deploy(folder)
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def devnet(devnet_session: Network) -> Iterator[Network]:
    """What a test does to it is undone."""
    before = devnet_session.snapshot()
    yield devnet_session
    devnet_session.rpc("evm_setAutomine", True)
    devnet_session.revert(before)


@pytest.fixture
def sending(devnet: Network, settings: Any, db: None) -> Any:
    """The marketplace connected to `devnet`, with its keys (`tests.chain.sending.Sending`)."""
    from tests.chain import sending

    return sending.connect(devnet, settings)
