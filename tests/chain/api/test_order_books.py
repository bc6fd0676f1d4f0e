"""What the books say of orders."""

import pytest

from clients import books as clients_books
from tests.chain.api import made
from tests.chain.api.ordering import order

pytestmark = pytest.mark.django_db


def test_the_page_of_holds_says_what_they_are_for(settings, alice, fund, source):
    settings.CHAIN_KEY = made.KEY
    fund(alice, 10)
    made_ = order(alice, source)
    assert clients_books.standings([made_.reference])[made_.reference].says == "on its way to the chain"
