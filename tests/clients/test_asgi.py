"""The same under ASGI, as it is run: logins from threads, lockouts through async middleware."""

import asyncio
import csv

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import AsyncClient

from clients import ledger
from tests.clients.conftest import PASSWORD

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
async def _no_connection_is_left():
    """Django's views run in a thread of the event loop, which has a connection of its own."""
    yield
    await sync_to_async(connections.close_all)()


async def post(path, body, **options):
    return await AsyncClient().post(path, body, **options)


async def test_simultaneous_guesses_all_count(alice):
    body = {"email": alice.email, "password": "wrong"}
    answers = await asyncio.gather(
        *(post("/client/login/", body, content_type="application/json") for _ in range(8))
    )
    assert {answer.status_code for answer in answers} == {401, 429}
    reply = await post("/client/login/", body | {"password": PASSWORD}, content_type="application/json")
    assert reply.status_code == 429
    assert reply.json()["code"] == "locked_out"
    assert int(reply["Retry-After"]) > 60


async def test_the_admins_form_locks_out_too(operator):
    for _ in range(6):
        reply = await post("/admin/login/", {"username": "operator", "password": "wrong"})
    assert reply.status_code == 429


async def test_a_statement_streams_as_a_table(alice):
    grant = {"client_id": alice.pk, "amount": 5, "reference": "grant:1", "reason": "r", "by_id": None}
    await sync_to_async(ledger.grant)(**grant)
    client = AsyncClient()
    await client.aforce_login(alice)
    reply = await client.get("/account/transactions?format=csv")
    text = b"".join([piece async for piece in reply.streaming_content]).decode()
    assert [row["kind"] for row in csv.DictReader(text.splitlines())] == ["grant"]
