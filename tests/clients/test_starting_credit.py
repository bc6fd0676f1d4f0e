"""STARTING_CREDIT: what a new account is given."""

from decimal import Decimal

import pytest

from clients import accounts, transfers
from clients.models import Client, Transfer
from marketplace.money import TOKEN

REGISTER = {
    "username": "new",
    "email": "new@example.com",
    "password": "correct horse battery",
    "confirm_password": "correct horse battery",
    "terms_accepted": True,
}


@pytest.fixture(autouse=True)
def _books(books):
    pass


def test_whoever_registers_gets_it_once(api, db, settings):
    settings.STARTING_CREDIT = Decimal("2.5")
    assert api().post("/client/register/", REGISTER).status_code == 201
    client = Client.objects.get(username="new")
    assert transfers.balances(client).spendable == 5 * TOKEN // 2
    made = Transfer.objects.get()
    assert (made.reference, made.kind, made.memo) == (
        f"grant:starting:{client.pk}",
        "grant",
        "Starting credit",
    )


def test_so_does_whoever_an_operator_or_google_opens_an_account_for(api, operator, settings):
    settings.STARTING_CREDIT = Decimal(1)
    api(operator).post("/client/list/", {"user": {"username": "new", "email": "new@example.com"}})
    accounts.create(username="google", email="google@example.com", google_subject="1")
    assert [client.accounts.get().balance for client in Client.objects.exclude(pk=operator.pk)] == [
        TOKEN,
        TOKEN,
    ]


def test_without_it_nobody_gets_anything(api, db):
    assert api().post("/client/register/", REGISTER).status_code == 201
    assert not Transfer.objects.exists()


def test_a_name_that_is_taken_costs_nothing(api, alice, settings):
    settings.STARTING_CREDIT = Decimal(1)
    assert api().post("/client/register/", REGISTER | {"username": "alice"}).status_code == 400
    assert not Transfer.objects.exists()
