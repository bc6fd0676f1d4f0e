"""Whoever works on a task dies at any moment: it is worked on once, answered once, and paid once."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from chain import documents, outbox, pins
from chain.fulfilment import asking, course, finding, paying, rows
from chain.models import (
    Attempt,
    Fulfilment,
    FulfilmentStatus,
    Network,
    Purpose,
    Source,
    Task,
    Transaction,
)
from clients import ledger
from clients.models import AccountKind, Client
from inference.models import Model
from marketplace.money import TOKEN
from tests.chain import fulfilled
from tests.chain.fulfilled import HELLO, NOW, Api, Killed, answer_of, only

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api", "keys")]
Status = FulfilmentStatus


# --- Killed at any moment --------------------------------------------------------------------------------------


class Reaper:
    """Kills whoever makes the n-th call of those that it watches, before it is made or after."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after, self.calls = at, after, 0

    def watch(self, patch: pytest.MonkeyPatch, place: Any, name: str) -> None:
        real = getattr(place, name)

        def watched(*args: Any, **options: Any) -> Any:
            self.calls += 1
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            found = real(*args, **options)
            if self.left == 0:
                self.left = -1
                raise Killed
            return found

        patch.setattr(place, name, watched)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, at: int, *, after: bool) -> Iterator[Reaper]:
    reaper = Reaper(at, after=after)
    with monkeypatch.context() as patch:
        for place, name in (
            (documents, "fetch_json"), (asking, "foresee"), (asking, "ask"), (pins, "keep"), (outbox, "queue"),
            (rows, "_write"), (rows, "open_task_of"),
        ):  # fmt: skip
            reaper.watch(patch, place, name)
        yield reaper


def live(source: Source, now: datetime) -> None:
    """A worker's life: it finds and advances what it can, with the chain's help in between."""
    for _ in range(6):
        finding.discover(source.network, now=now)
        task = Task.objects.get()
        sent = Transaction.objects.filter(purpose=Purpose.ATTEMPT).first()
        if sent is not None and not Attempt.objects.exists():
            fulfilled.attempted(task)
        finding.follow(source.network, now=now)
        found = Fulfilment.objects.get()
        held = rows.claim(found.pk, now=now)
        if held is not None:
            course.advance(held, clock=lambda: now)


@pytest.mark.parametrize("after", [False, True])
def test_a_worker_that_is_killed_anywhere_is_followed_by_one_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, api: Api, bob: Client, after: bool
) -> None:
    Model.objects.create(name="llama")
    for at in itertools.count(1):
        source = fulfilled.source(Network.objects.first() or fulfilled.network())
        fulfilled.task(source, HELLO, expires_in_s=10**6)
        with killed_at(monkeypatch, at, after=after) as reaper:
            try:
                live(source, NOW)
                was_killed = False
            except Killed:
                was_killed = True
        live(source, NOW + rows.LEASE + timedelta(seconds=1))
        found = only(Status.ANSWERING)
        assert Transaction.objects.filter(purpose=Purpose.ATTEMPT).count() == 1
        assert Transaction.objects.filter(purpose=Purpose.RESPONSE).count() == 1
        assert answer_of(found)["onchain"]["task"] == found.task_address
        # Whatever happened, a node has worked once for it, and that is what is answered.
        assert len(api.done) == 1
        assert (answer_of(found)["id"], found.provider) == ("answer-0", bob)
        fulfilled.responded(Task.objects.get(), confirmed_block=98)
        assert paying.sweep(source.network, now=NOW) == 1
        assert only(Status.CONFIRMED)
        for model in (Fulfilment, Transaction, Task):
            model._default_manager.all().delete()
        api.done.clear()
        if not was_killed:
            break
    assert at > 12, "all steps were tried"
    assert reaper.calls
    assert ledger.balance(ledger.account(bob.pk, AccountKind.EARNED)) == at * TOKEN
