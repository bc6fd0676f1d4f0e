"""From an attempt that is there to an answer that is on its way."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import DataError, OperationalError

from chain import functions, pins
from chain.fulfilment import asking, checking, course, finding, rows
from chain.fulfilment.rows import Impossible, Later, TakenAway
from chain.models import (
    Fulfilment,
    FulfilmentStatus,
    Pin,
    Purpose,
    Service,
    Serving,
    Source,
    Task,
    Transaction,
)
from clients.models import Client
from inference.models import Inference
from marketplace.money import TOKEN
from tests.chain import fulfilled
from tests.chain.fulfilled import HELLO, NOW, REPLY, Api, advance, answer_of, only, working

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api", "keys")]
Status = FulfilmentStatus


def test_a_node_works_and_the_answer_goes_on_its_way(source: Source, api: Api, bob: Client) -> None:
    working(source)
    found = advance()
    assert found.status == Status.ANSWERING
    assert (found.node, found.provider, found.inference_id) == (api.node, bob, Inference.objects.get().pk)
    assert answer_of(found) == {
        **REPLY, "id": "answer-0",
        "onchain": {
            "network": "test", "source": source.address, "task": found.task_address, "function": "chat",
        },
    }  # fmt: skip
    pin = Pin.objects.get(cid=pins.cid_in(found.answer_url))
    assert (pin.content_type, pin.keep_until) == ("application/json", None)
    sent = Transaction.objects.get(purpose=Purpose.RESPONSE)
    assert (sent.reference, sent.sender) == (f"respond:{found.pk}", fulfilled.PROVIDER)
    assert sent.expires_at == found.expires_at
    assert found.answer_url.encode().hex() in sent.data
    assert api.asked == [
        {
            "body": HELLO["data"] | {"model": "llama", "max_tokens": functions.USUAL_TOKENS},
            "key": f"fulfilment:{found.pk}",
            "budget": TOKEN,
            "deadline_s": 3600 - checking.ANSWERING_S,
        }
    ]


def test_what_was_taken_on_is_carried_through_although_the_source_is_refused_meanwhile(
    source: Source,
) -> None:
    working(source)
    Service.objects.update(status=Serving.REFUSED, registered_at=None)
    assert advance().status == Status.ANSWERING


def test_an_operators_function_is_answered_by_its_result(source: Source) -> None:
    Service.objects.update(functions={"analyze_sentiment": {"kind": "chat", "prompt": "Say: {text}"}})
    working(source, config={"function_name": "analyze_sentiment", "data": {"text": "I love it"}})
    assert answer_of(advance())["result"] == "one two three"


@pytest.mark.parametrize("code", ["no_capacity", "marketplace_away", "nodes_failed", "rate_limit_exceeded"])
def test_what_may_pass_is_tried_again_until_it_expires(source: Source, api: Api, code: str) -> None:
    working(source, expires_in_s=100)
    api.failure = Later(code, "Not now.")
    found = advance()
    assert (found.status, found.code, found.reason) == (Status.WORKING, code, "Not now.")
    advance(after_s=50)
    finding.follow(source.network, now=NOW + timedelta(seconds=100))
    found = only(Status.EXPIRED)
    assert found.reason == "It has expired before it was answered, after: Not now."


def test_prices_that_rise_after_it_was_taken_on_may_fall_again(source: Source, api: Api) -> None:
    working(source)
    api.failure = Impossible("payment_too_low", "This can cost up to 2.")
    assert advance().status == Status.WORKING
    api.failure = None
    assert advance(after_s=10).status == Status.ANSWERING


def test_what_the_engine_refuses_has_failed(source: Source, api: Api) -> None:
    working(source)
    api.failure = Impossible("context_length_exceeded", "It is too long.")
    found = advance()
    assert (found.status, found.code) == (Status.FAILED, "context_length_exceeded")
    assert (found.token, found.leased_until) == (None, None)


def test_an_answer_that_is_too_large_has_failed(source: Source, settings: Any) -> None:
    working(source)
    settings.PIN_MAX_BYTES = 50
    assert advance().code == "answer_too_large"
    assert Transaction.objects.filter(purpose=Purpose.RESPONSE).count() == 0


def test_no_time_left_is_not_begun(source: Source, api: Api) -> None:
    working(source, expires_in_s=100)
    found = advance(after_s=100 - checking.ANSWERING_S)
    assert (found.status, api.asked) == (Status.EXPIRED, [])


def test_an_answer_that_comes_too_late_is_not_sent(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    working(source, expires_in_s=100)
    clock = [NOW]
    ask = asking.ask

    def slowly(*args: Any, **options: Any) -> asking.Answer:
        clock[0] += timedelta(seconds=101)
        return ask(*args, **options)

    monkeypatch.setattr(asking, "ask", slowly)
    held = rows.claim(only().pk, now=NOW)
    assert held is not None
    course.advance(held, clock=lambda: clock[0])
    assert only(Status.EXPIRED).answer is None
    assert not Transaction.objects.filter(purpose=Purpose.RESPONSE).exists()


def test_an_answer_to_what_is_over_meanwhile_is_not_sent(
    source: Source, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    working(source)
    ask = asking.ask

    def meanwhile(*args: Any, **options: Any) -> asking.Answer:
        Task.objects.update(status=5)
        finding.follow(source.network, now=NOW)
        return ask(*args, **options)

    monkeypatch.setattr(asking, "ask", meanwhile)
    advance()
    only(Status.LOST)
    assert not Transaction.objects.filter(purpose=Purpose.RESPONSE).exists()


def test_of_two_that_work_at_it_the_later_one_counts(
    source: Source, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has hung for so long that its lease ran out."""
    working(source)
    first = rows.claim(only().pk, now=NOW)
    assert first is not None
    assert rows.claim(first.pk, now=NOW + rows.LEASE) is None
    later = NOW + rows.LEASE + timedelta(seconds=1)
    second = rows.claim(first.pk, now=later)
    assert second is not None
    course.advance(first, clock=lambda: later)
    only(Status.WORKING)
    course.advance(second, clock=lambda: later)
    only(Status.ANSWERING)
    assert Transaction.objects.filter(purpose=Purpose.RESPONSE).count() == 1
    assert len({each["key"] for each in api.asked}) == 1


def test_a_lease_that_is_prolonged_is_not_taken_over(source: Source) -> None:
    working(source)
    held = rows.claim(only().pk, now=NOW)
    assert held is not None
    assert held.token is not None
    rows.keep([held.token], now=NOW + timedelta(seconds=25))
    assert rows.claim(held.pk, now=NOW + timedelta(seconds=54)) is None
    assert rows.claim(held.pk, now=NOW + timedelta(seconds=56)) is not None


def test_what_the_database_refuses_is_a_fault_that_is_told(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    working(source)

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise DataError("value too long")

    with monkeypatch.context() as patch:
        patch.setattr(pins, "keep", refuse)
        found = advance()
    assert (found.status, found.code, found.token) == (Status.WORKING, "internal_error", None)
    assert "value too long" in caplog.text
    assert advance(after_s=10).status == Status.ANSWERING


def test_a_database_that_is_away_leaves_it_to_its_lease(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    working(source)

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise OperationalError("server closed the connection")

    with monkeypatch.context() as patch:
        patch.setattr(pins, "keep", refuse)
        found = advance()
    assert (found.status, found.code) == (Status.WORKING, "")
    assert found.token is not None
    assert "the database failed" in caplog.text
    assert advance(after_s=31).status == Status.ANSWERING


def test_whoever_has_lost_it_writes_nothing(source: Source) -> None:
    working(source)
    held = rows.claim(only().pk, now=NOW)
    assert held is not None
    Fulfilment.objects.update(token=None)
    for write in (
        lambda: rows.move(held, Status.ANSWERING, now=NOW),
        lambda: rows.note(held, function="x"),
        lambda: rows.postpone(held, Later("x", "x"), now=NOW),
        lambda: rows.end(held, Status.FAILED, Impossible("x", "x"), now=NOW),
    ):
        with pytest.raises(TakenAway):
            write()
    rows.give_back(held)
    assert only(Status.WORKING).code == ""
