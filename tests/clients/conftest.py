"""What the tests of accounts share."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.conf import settings
from rest_framework.test import APIClient

from clients import ledger
from clients.models import AccountKind, TransferKind
from marketplace.money import TOKEN
from tests.clients import ledger_books

PASSWORD = "correct horse battery"
# What fuzzers put where a string is expected.
ODD_VALUES = [
    None,
    [],
    {},
    0,
    10**30,
    -1,
    1.5,
    True,
    "",
    "\0",
    "a\0b",
    "x" * 10_000,
    ["x"],
    {"a": 1},
    "💥",
    "‮",
]


@pytest.fixture
def fund() -> Callable[..., None]:
    """`fund(alice, 10)` gives alice 10 tokens to spend; `fund(bob, 5, kind="earned")` lets bob have earned 5."""

    def give(person: Any, tokens: int, kind: str = "spendable") -> None:
        ledger.transfer(
            source=ledger.account(None, AccountKind.OUTSIDE),
            destination=ledger.account(person.pk, AccountKind(kind)),
            amount=tokens * TOKEN,
            reference=f"deposit:{uuid4()}",
            kind=TransferKind.DEPOSIT,
        )

    return give


@pytest.fixture
def books(db: None) -> Iterator[None]:
    """After the test the books add up: each account, what is held of it, and all of them together."""
    yield
    assert ledger_books.wrong() == []


@pytest.fixture
def holder() -> Callable[[str], APIClient]:
    """`holder("Token …")` is an API client that sends this Authorization header."""
    return lambda authorization: APIClient(HTTP_AUTHORIZATION=authorization)


@pytest.fixture
def login(db: None) -> Callable[..., dict[str, Any]]:
    """`login(alice)` logs alice in on one more device: the answer's body."""

    def log_in(person: Any, password: str = PASSWORD, **extra: Any) -> dict[str, Any]:
        reply = APIClient().post("/client/login/", {"email": person.email, "password": password}, **extra)
        assert reply.status_code == 201, reply.data
        return dict(reply.json())

    return log_in


@pytest.fixture
def announced(
    django_capture_on_commit_callbacks: Callable[..., AbstractContextManager[Any]],
) -> Callable[[str], AbstractContextManager[None]]:
    """`with announced("key:1"):` the block's transaction tells all processes so, once committed."""

    @contextmanager
    def expect(payload: str) -> Iterator[None]:
        with redis.Redis.from_url(settings.CACHE_URL).pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe("marketplace:credentials")
            pubsub.get_message(timeout=1)
            with django_capture_on_commit_callbacks(execute=True):
                yield
            heard, until = [], time.monotonic() + 2
            while payload not in heard and time.monotonic() < until:
                message = pubsub.get_message(timeout=0.1)
                heard += [message["data"].decode()] if message else []
            assert payload in heard

    return expect
