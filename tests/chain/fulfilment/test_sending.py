"""What the chain says to what we have sent it."""

import itertools

import pytest
from django.db import transaction

from chain import interventions, outbox
from chain.fulfilment import finding
from chain.fulfilment.rows import Impossible
from chain.models import (
    Fulfilment,
    FulfilmentStatus,
    Log,
    Service,
    Source,
    Task,
    Transaction,
    TransactionStatus,
)
from clients.models import Client
from tests.chain import fulfilled
from tests.chain.fulfilled import HELLO, NOW, Api, advance, only, working

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api", "keys")]
Status = FulfilmentStatus


# --- What the chain says to what we have sent ------------------------------------------------------------------


def logged(sent: Transaction, name: str, **arguments: str) -> None:
    sent.refresh_from_db()
    Log.objects.create(
        network=sent.network, block_number=97, log_index=next(_logs), transaction_hash=sent.hash, block_hash="",
        address=sent.to, name=name, arguments=arguments, at=NOW,
    )  # fmt: skip


_logs = itertools.count(1000)


def attempting(source: Source) -> Fulfilment:
    fulfilled.task(source, HELLO)
    finding.discover(source.network, now=NOW)
    return advance()


def confirm(sent: Transaction, name: str = "", **arguments: str) -> None:
    Transaction.objects.filter(pk=sent.pk).update(hash=fulfilled.digest())
    if name:
        logged(sent, name, **arguments)
    sent.refresh_from_db()
    with transaction.atomic():
        assert outbox.end(sent, TransactionStatus.CONFIRMED, now=NOW)


def test_an_attempt_that_is_final_begins_the_work_too(source: Source) -> None:
    found = attempting(source)
    assert found.attempt is not None
    confirm(found.attempt, "Attempted")
    only(Status.WORKING)


def test_an_attempt_that_only_ended_the_task_has_expired(source: Source) -> None:
    found = attempting(source)
    assert found.attempt is not None
    confirm(found.attempt)
    only(Status.EXPIRED)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("Expired", Status.EXPIRED),
        ("AlreadyFinalized", Status.LOST),
        ("UnknownTask", Status.LOST),
        ("NotRegistered", Status.CHECKED),
        ("NotEligible", Status.CHECKED),
        ("AlreadyAttempted", Status.FAILED),
        ("Whatever", Status.FAILED),
    ],
)
def test_an_attempt_that_is_refused(source: Source, reason: str, status: Status) -> None:
    found = attempting(source)
    assert found.attempt is not None
    fulfilled.ended(found.attempt, TransactionStatus.REFUSED, reason)
    only(status)
    if status == Status.CHECKED:
        assert Service.objects.get().registered_at is None


def test_an_attempt_after_a_registration_that_was_lost_is_made_once_more(source: Source) -> None:
    found = attempting(source)
    assert found.attempt is not None
    fulfilled.ended(found.attempt, TransactionStatus.REFUSED, "NotRegistered")
    assert advance().code == "not_registered"
    Service.objects.update(registered_at=NOW)
    assert advance(after_s=10).status == Status.ATTEMPTING
    assert Transaction.objects.get().status == TransactionStatus.QUEUED


def test_an_attempt_that_we_had_made_already_is_one(source: Source) -> None:
    found = attempting(source)
    assert found.attempt is not None
    fulfilled.attempted(Task.objects.get())
    fulfilled.ended(found.attempt, TransactionStatus.REFUSED, "AlreadyAttempted")
    only(Status.WORKING)


def answering(source: Source) -> Fulfilment:
    working(source)
    return advance()


def test_an_answer_that_is_final_is_answered(source: Source) -> None:
    found = answering(source)
    assert found.answer is not None
    confirm(found.answer, "ResponseSubmitted", response=fulfilled.OPERATOR)
    assert only(Status.ANSWERED).response_address == fulfilled.OPERATOR


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("Expired", Status.EXPIRED),
        ("AlreadyFinalized", Status.LOST),
        ("NotAttempted", Status.FAILED),
        ("What it was to follow is the contract refused it: Expired", Status.EXPIRED),
    ],
)
def test_an_answer_that_is_refused(source: Source, reason: str, status: Status) -> None:
    found = answering(source)
    assert found.answer is not None
    fulfilled.ended(found.answer, TransactionStatus.REFUSED, reason)
    assert reason in only(status).reason


def test_an_answer_that_is_there_already_is_ours(source: Source) -> None:
    found = answering(source)
    assert found.answer is not None
    there = fulfilled.responded(Task.objects.get())
    fulfilled.ended(found.answer, TransactionStatus.REVERTED, "AlreadySubmitted")
    assert only(Status.ANSWERED).response_address == there.address


def test_an_answer_that_an_operator_has_sent_once_more_is_answered(source: Source) -> None:
    found = answering(source)
    assert found.answer is not None
    fulfilled.ended(found.answer, TransactionStatus.REFUSED, "Whatever")
    only(Status.FAILED)
    outbox.again(found.answer, at=NOW, reason="")
    confirm(found.answer, "ResponseSubmitted", response=fulfilled.OPERATOR)
    only(Status.ANSWERED)


def test_what_has_failed_goes_through_when_it_is_tried_again(
    source: Source, api: Api, operator: Client
) -> None:
    found = working(source)
    confirm(found.attempt, "Attempted")
    api.failure = Impossible("engine_failed", "It is broken.")
    found = advance()
    assert found.status == Status.FAILED
    api.failure = None
    interventions.try_now(found, by=operator, reason="It is mended.", now=NOW)
    assert advance().status == Status.ATTEMPTING
    finding.follow(source.network, now=NOW)
    assert advance().status == Status.ANSWERING
    assert Transaction.objects.filter(purpose="attempt").count() == 1
