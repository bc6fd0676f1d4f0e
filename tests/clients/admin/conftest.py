"""Operators, and what they look at, for the tests of their pages about money."""

from datetime import timedelta

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.test import Client as Browser
from django.utils import timezone

from clients import ledger
from clients.models import (
    AccountKind,
    AuditEntry,
    Hold,
    Transfer,
    TransferKind,
)
from marketplace.money import TOKEN


def enter(person):
    found = Browser()
    found.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return found


@pytest.fixture
def browser(operator):
    return enter(operator)


@pytest.fixture
def clerk(charlie):
    """Somebody of the staff who may see all of it and do nothing."""
    charlie.is_staff = True
    charlie.save()
    charlie.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return enter(charlie)


@pytest.fixture
def act(browser):
    """Run an action on rows of a list, as the list's form does."""

    def run(model, action, rows, **more):
        body = {"action": action, ACTION_CHECKBOX_NAME: [row.pk for row in rows]} | more
        return browser.post(f"/admin/clients/{model}/", body, follow=True)

    return run


@pytest.fixture
def pay(alice, bob, fund):
    """alice pays bob for a request: 5 tokens, one of them the fee."""

    def one(number=1, tokens=5):
        reference = f"inference:{number}"
        ledger.hold(reference=reference, client_id=alice.pk, amount=tokens * TOKEN)
        ledger.settle(
            reference=reference,
            amount=tokens * TOKEN,
            fee=TOKEN,
            payee_id=bob.pk,
            kind=TransferKind.INFERENCE,
            memo="A long answer.",
        )
        return Transfer.objects.get(reference=reference)

    fund(alice, 100)
    return one


@pytest.fixture
def wallet(alice):
    return ledger.account(alice.pk, AccountKind.SPENDABLE)


def has(person, kind=AccountKind.SPENDABLE):
    return ledger.balance(ledger.account(person.pk, kind)) / TOKEN


def audited():
    return [(entry.action, entry.reason) for entry in AuditEntry.objects.order_by("id")]


def text_of(reply):
    assert reply.status_code == 200
    return reply.content.decode()


def hold_of(person, reference="inference:99", tokens=3, age=timedelta(0)):
    ledger.hold(reference=reference, client_id=person.pk, amount=tokens * TOKEN)
    Hold.objects.filter(pk=reference).update(created_at=timezone.now() - age)
    return Hold.objects.get(pk=reference)
