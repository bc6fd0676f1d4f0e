"""Operators, and jobs of alice's for them to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.test import Client as Browser
from django.utils import timezone

from clients import terms
from clients.models import AuditEntry
from finetune import attempts, tasks
from finetune.models import Job
from finetune.results import Made
from gpus.models import Node
from inference.models import Model, RevisionKind
from tests.finetune import made


def enter(person: Any) -> Browser:
    found = Browser()
    found.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return found


@pytest.fixture(autouse=True)
def rung(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which tasks would have been sent."""
    found: list[Any] = []
    monkeypatch.setattr(tasks, "ring", found.append)
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
def act(browser: Browser) -> Callable[..., str]:
    """Run an action on rows of a list, as the list's form does; the page that follows."""

    def run(model: str, action: str, rows: list[Any], **more: str) -> str:
        body = {"action": action, ACTION_CHECKBOX_NAME: [row.pk for row in rows]} | more
        return text_of(browser.post(f"/admin/finetune/{model}/", body, follow=True))

    return run


@pytest.fixture
def toy(db: None) -> Model:
    return made.model(None, "toy")


@pytest.fixture
def attic(bob: Any) -> Node:
    return made.node(bob)


@pytest.fixture
def train(alice: Any, toy: Model, attic: Node, operator: Any) -> Callable[..., Job]:
    """`train()` is a job of alice's that bob's node has finished: she has paid 3 tokens, 0.3 of them the fee."""
    terms.change(by=operator, reason="A share.", fee_bps=1000)

    def one(**more: Any) -> Job:
        job = made.job(alice, **more)
        attempt = made.begin(job, attic)
        said: list[dict[str, Any]] = [
            {"event": "started", "hardware": {"name": "One <b>GPU</b>", "device": "cuda"}, "versions": {}},
            {"event": "evaluated", "when": "before", "step": 0, "metrics": {"eval_loss": 2.5}},
            *(
                {"event": "progress", "step": step, "steps": 20, "loss": 3 - step / 10}
                for step in range(1, 21)
            ),
            {"event": "evaluated", "when": "epoch", "step": 20, "metrics": {"eval_loss": 1.25}},
        ]
        attempts.hear(attempt.token, said, first_number=1, now=timezone.now())
        attempts.keep_checkpoint(attempt.token, made.blob(2048), step=20, metrics={}, now=timezone.now())
        measured = {"main": "eval_loss", "before": {"eval_loss": 2.5}, "after": {"eval_loss": 1.25}}
        what = Made({"model.safetensors": made.blob()}, RevisionKind.FULL, measured, is_better=True)
        attempts.succeed(attempt.token, what, now=timezone.now())
        job.refresh_from_db()
        return job

    return one


def audited() -> list[tuple[str, str]]:
    found = AuditEntry.objects.exclude(action="change_terms").order_by("id")
    return [(entry.action, entry.reason) for entry in found]


def text_of(reply: Any) -> str:
    assert reply.status_code == 200
    found: str = reply.content.decode()
    return found
