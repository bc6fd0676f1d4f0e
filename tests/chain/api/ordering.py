"""Orders of tasks, and where their money is; amounts in whole tokens."""

from datetime import timedelta

from django.db import connection
from django.utils import timezone

from chain import orders
from chain.models import VaultFloat
from clients import books as clients_books
from clients import ledger, transfers, trial_balance
from clients.models import AccountKind
from marketplace.money import TOKEN

NOW = timezone.now()


def order(buyer, source, payment=TOKEN, **fields):
    said = {
        "function": "chat",
        "config_url": "https://m.example/ipfs/x",
        "expires_at": NOW + timedelta(hours=1),
    }
    return orders.publish(buyer, source=source, payment=payment, now=NOW, **(said | fields))


def money_of(person):
    has = transfers.balances(person)
    return has.spendable / TOKEN, has.held / TOKEN


def free(network):
    row = VaultFloat.objects.filter(network=network).first()
    return row.free / TOKEN if row else 0


def outside():
    return -ledger.balance(ledger.account(None, AccountKind.OUTSIDE)) / TOKEN


def broken_checks():
    """Names of what breaks a check of orders."""
    checks = [check for check in clients_books.checks() if check.page == "chain_taskorder"]
    assert len(checks) == 2
    with connection.cursor() as cursor:
        return [each.name for check in checks for each in trial_balance._result(cursor, check).breaks]
