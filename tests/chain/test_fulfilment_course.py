"""From an attempt that is there to an answer that is on its way; and what becomes of it when anything dies."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from chain import documents, functions, outbox, pins
from chain.fulfilment import asking, checking, course, finding, paying, rows
from chain.fulfilment.rows import Impossible, Later, TakenAway
from chain.functions import Request
from chain.models import (
    Attempt,
    Fulfilment,
    FulfilmentStatus,
    Log,
    Network,
    Pin,
    Purpose,
    Service,
    Serving,
    Source,
    Task,
    Transaction,
    TransactionStatus,
)
from clients import house, ledger
from clients.models import AccountKind, Client
from gpus.models import Node
from inference.models import Inference, Kind, Model
from marketplace.money import TOKEN
from tests.chain import fulfilled
from tests.chain.fulfilled import NOW, Killed, only

pytestmark = pytest.mark.django_db
Status = FulfilmentStatus
HELLO = {"function_name": "chat", "data": {"messages": [{"role": "user", "content": "Hello"}]}}
REPLY = {"id": "x", "model": "llama", "choices": [{"message": {"content": "one two three"}}]}


@pytest.fixture(autouse=True)
def keys(settings: Any) -> None:
    settings.CHAIN_KEY, settings.CHAIN_PROVIDER_KEY = fulfilled.KEY, fulfilled.PROVIDER_KEY


@pytest.fixture
def source(db: None) -> Source:
    Model.objects.create(name="llama")
    return fulfilled.source(fulfilled.network())


class Api:
    """Our own API: a node of bob's answers each key once, and everybody else who comes with it gets the same."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.asked: list[dict[str, Any]] = []
        self.done: dict[str, asking.Answer] = {}
        self.failure: Exception | None = None

    def foresee(self, request: Request, *, budget: int) -> asking.Outlook:
        return asking.Outlook(0)

    def ask(self, request: Request, *, key: str, budget: int, deadline_s: float) -> asking.Answer:
        self.asked.append({"body": request.body, "key": key, "budget": budget, "deadline_s": deadline_s})
        if self.failure is not None:
            raise self.failure
        if key not in self.done:
            record = Inference.objects.create(
                client=house.account(), kind=Kind.CHAT, desired_model="llama", node=self.node,
                provider=self.node.owner, status="completed",
            )  # fmt: skip
            self.done[key] = asking.Answer({**REPLY, "id": f"answer-{len(self.done)}"}, record)
        return self.done[key]


@pytest.fixture(autouse=True)
def api(monkeypatch: pytest.MonkeyPatch, add_node: Any) -> Api:
    found = Api(add_node("bobs"))
    monkeypatch.setattr(asking, "foresee", found.foresee)
    monkeypatch.setattr(asking, "ask", found.ask)
    return found


def advance(*, after_s: float = 0) -> Fulfilment:
    now = NOW + timedelta(seconds=after_s)
    held = rows.claim(Fulfilment.objects.get().pk, now=now)
    assert held is not None
    course.advance(held, clock=lambda: now)
    return Fulfilment.objects.get()


def working(source: Source, **options: Any) -> Fulfilment:
    """A fulfilment whose attempt is in a block."""
    task = fulfilled.task(source, options.pop("config", HELLO), **options)
    finding.discover(source.network, now=NOW)
    advance()
    fulfilled.attempted(task)
    finding.follow(source.network, now=NOW)
    return only(Status.WORKING)


def answer_of(found: Fulfilment) -> Any:
    return orjson.loads(pins.read(pins.cid_in(found.answer_url) or ""))


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
            "body": HELLO["data"] | {"model": "llama", "max_tokens": 256},
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
    from django.db import transaction

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
