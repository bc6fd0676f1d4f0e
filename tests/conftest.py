"""A real PostgreSQL and a real Valkey for every run, and the people that the tests are about.

`DATABASE_URL` and `REDIS_URL` are used where the environment has them; what is missing is started for this run.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import hypothesis
import pytest

from marketplace.embedded import services
from marketplace.embedded.home import PROJECT, AlreadyRuns, Home
from marketplace.embedded.supervisor import Supervisor

DEFAULTS = {
    "SECRET_KEY": "only-for-tests-only-for-tests-only-for-tests",
    "HTTPS": "false",
    "ALLOWED_HOSTS": "*",
    "DJANGO_SETTINGS_MODULE": "marketplace.settings",
    # Threads of torch do not spin while they wait: the tests' servers need the cores too.
    "OMP_WAIT_POLICY": "PASSIVE",
}
PASSWORD = "correct horse battery"
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A server with nodes, for the tests that need one.
pytest_plugins = ["tests.served"]

supervisor = Supervisor(say=print)
# Homes of this run: who lets go of one lets go of its lock.
homes: list[Home] = []


def _home() -> Home:
    """`.local/test`, kept between runs because that is quicker; another folder while a run is using it."""
    home = Home(PROJECT / ".local" / "test")
    try:
        home.lock()
    except AlreadyRuns:
        return Home(Path(tempfile.mkdtemp(prefix="marketplace-test-")))
    return home


def _set_up() -> None:
    """Before anything reads the settings, the conftests further down included."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not {"DATABASE_URL", "REDIS_URL"} <= set(os.environ):
        home = _home()
        homes.append(home)
        os.environ.setdefault("MARKETPLACE_HOME", str(home.folder))
        os.environ.update(services.start(supervisor, home, durable=False))
    django.setup()


def pytest_unconfigure(config: pytest.Config) -> None:
    supervisor.stop()
    for home in homes:
        home.unlock()


if not {"-h", "--help", "-V", "--version"} & set(sys.argv):
    _set_up()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """Tests with transactions of their own empty all tables at their end; let them, though nobody else may."""
    from django.db import connection

    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for table in ("clients_transfer", "clients_auditentry", "clients_terms"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER final_all")


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _empty_cache(settings: Any) -> Iterator[None]:
    """Each test has a corner of Valkey of its own, so that runs beside each other do not meet."""
    from django.core.cache import caches

    default = settings.CACHES["default"] | {"KEY_PREFIX": secrets.token_hex(8)}
    settings.CACHES = settings.CACHES | {"default": default}
    yield
    # Nobody else closes the connections of a cache that is replaced.
    for cache in caches.all(initialized_only=True):
        if "_cache" in vars(cache):
            for pool in cache._cache._pools.values():
                pool.disconnect()


def _person(name: str, **fields: Any) -> Any:
    from clients.models import Client

    return Client.objects.create_user(username=name, email=f"{name}@example.com", password=PASSWORD, **fields)


@pytest.fixture
def alice(db: None) -> Any:
    """She buys."""
    return _person("alice")


@pytest.fixture
def bob(db: None) -> Any:
    """He provides, and an operator has approved him."""
    return _person("bob", provider_status="approved")


@pytest.fixture
def charlie(db: None) -> Any:
    """A stranger."""
    return _person("charlie")


@pytest.fixture
def operator(db: None) -> Any:
    return _person("operator", is_staff=True, is_superuser=True)


@pytest.fixture
def api() -> Callable[..., Any]:
    """`api(alice)` is an API client that speaks for alice, `api()` one that nobody knows."""
    from rest_framework.test import APIClient

    def client(person: Any = None) -> Any:
        found = APIClient()
        if person is not None:
            found.force_authenticate(person)
        return found

    return client
