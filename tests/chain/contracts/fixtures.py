"""`world`: all contracts on a chain, as they were before the test again after it."""

import os
from collections.abc import Iterator

import boa
import pytest
from hypothesis import HealthCheck, settings

from tests.chain.contracts.evm import Contract
from tests.chain.contracts.world import World, create_world

# The longer search is for a night, or before a deployment: CONTRACTS_PROFILE=long scripts/contracts test
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("default", deadline=None, suppress_health_check=SLOW, derandomize=True)
settings.register_profile("long", settings.get_profile("default"), max_examples=400, derandomize=False)
settings.load_profile(os.environ.get("CONTRACTS_PROFILE", "default"))


@pytest.fixture(scope="session")
def world_session() -> World:
    return create_world()


@pytest.fixture
def world(world_session: World) -> Iterator[World]:
    with boa.env.anchor():
        yield world_session


@pytest.fixture
def source(world: World) -> Contract:
    """alice's, with manual confirmation."""
    return world.source()
