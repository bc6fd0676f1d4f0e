"""Operators, and a chain with something of everything for them to look at."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.test import Client as Browser

from chain.models import Network
from clients.models import AuditEntry
from tests.chain.admin import made
from tests.clients.conftest import books, fund

__all__ = ["books", "fund"]


def enter(person: Any) -> Browser:
    found = Browser()
    found.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return found


@pytest.fixture
def browser(operator: Any) -> Browser:
    return enter(operator)


@pytest.fixture
def clerk(charlie: Any) -> Browser:
    """Somebody of the staff who may see all of it and do nothing."""
    charlie.is_staff = True
    charlie.save()
    charlie.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return enter(charlie)


@pytest.fixture
def network(db: None) -> Network:
    return made.network()


@pytest.fixture
def everything(network: Network, alice: Any) -> SimpleNamespace:
    return made.everything(network, alice)


@pytest.fixture
def act(browser: Browser) -> Callable[..., str]:
    """Run an action on rows of a list, as the list's form does; the page that follows."""

    def run(model: str, action: str, rows: list[Any], **more: str) -> str:
        body = {"action": action, ACTION_CHECKBOX_NAME: [row.pk for row in rows]} | more
        return text_of(browser.post(f"/admin/chain/{model}/", body, follow=True))

    return run


def audited() -> list[tuple[str, str]]:
    found = AuditEntry.objects.exclude(action="change_terms").order_by("id")
    return [(entry.action, entry.reason) for entry in found]


def text_of(reply: Any) -> str:
    assert reply.status_code == 200
    found: str = reply.content.decode()
    return found
