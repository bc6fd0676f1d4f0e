"""What a task wants is looked at before anything is sent: taken on, declined with a reason, or tried later."""

from datetime import timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from chain import documents, functions, gas_costs, services
from chain.documents import NotFetched
from chain.fulfilment import asking, checking, course, finding, rows
from chain.fulfilment.rows import Impossible, Later
from chain.functions import Request
from chain.models import (
    DeliveryMethod,
    Fulfilment,
    FulfilmentStatus,
    Network,
    Service,
    Serving,
    Source,
    Task,
    TaskStatus,
    Transaction,
)
from clients import house, terms
from clients.models import Client
from inference.models import Kind, Model
from marketplace.money import TOKEN
from tests.chain import fulfilled
from tests.chain.fulfilled import NOW, only

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("keys")]
Status = FulfilmentStatus
HELLO = {"function_name": "chat", "data": {"messages": [{"role": "user", "content": "Hello"}]}}


@pytest.fixture(autouse=True)
def foreseen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, int]]:
    """What our own API is asked for: a node would take everything, for nothing."""
    asked: list[tuple[Request, int]] = []

    def foresee(request: Request, *, budget: int) -> asking.Outlook:
        asked.append((request, budget))
        return asking.Outlook(0)

    monkeypatch.setattr(asking, "foresee", foresee)
    return asked


def advance(network: Network, *, after_s: float = 0) -> Fulfilment:
    """One round for the only task."""
    now = NOW + timedelta(seconds=after_s)
    finding.discover(network, now=now)
    held = rows.claim(Fulfilment.objects.get().pk, now=now)
    assert held is not None
    course.advance(held, clock=lambda: now)
    return Fulfilment.objects.get()


def declined(source: Source, config: Any, **fields: Any) -> tuple[str, str]:
    fulfilled.task(source, config, **fields)
    found = advance(source.network)
    assert found.status == Status.DECLINED, f"{found.status} {found.code} {found.reason}"
    assert not Transaction.objects.exists()
    assert (found.token, found.leased_until) == (None, None)
    return found.code, found.reason


def test_a_good_one_is_attempted(source: Source, foreseen: Any) -> None:
    task = fulfilled.task(source, HELLO)
    found = advance(source.network)
    assert (found.status, found.config, found.function) == (Status.ATTEMPTING, HELLO, "chat")
    ((request, budget),) = foreseen
    assert (request.kind, request.body["model"], budget) == (Kind.CHAT, "llama", TOKEN)
    sent = Transaction.objects.get()
    assert (sent.purpose, sent.sender, sent.to) == (
        "attempt",
        fulfilled.PROVIDER,
        source.network.address("NEXUS"),
    )
    assert sent.reference == f"attempt:{found.pk}"
    assert sent.expires_at == found.expires_at
    assert task.address[2:].lower() in sent.data
    assert (found.attempt, found.token, found.leased_until) == (sent, None, None)


def test_the_fee_is_not_for_the_node(source: Source, foreseen: Any, operator: Client) -> None:
    terms.change(by=operator, reason="x", fee_bps=2500)
    fulfilled.task(source, HELLO)
    advance(source.network)
    assert foreseen[0][1] == TOKEN * 3 // 4


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (b"<html>", "not_json"),
        (b"[1]", "invalid_config"),
        (b"{}", "invalid_config"),
        ({"function_name": "chat"}, "invalid_config"),
        ({"function_name": "chat", "data": []}, "invalid_config"),
        ({"data": {}}, "invalid_config"),
        ({"function_name": "nothing", "data": {}}, "unknown_function"),
        ({"function_name": ["chat"], "data": {}}, "unknown_function"),
        ({"function_name": "chat", "data": {"messages": "Hi"}}, "invalid_input"),
        (HELLO | {"data": {**HELLO["data"], "model": "other"}}, "model_not_found"),
        (b'{"function_name": "chat\\u0000", "data": {}}', "not_text"),
        (b'{"function_name": "chat", "data": ' + b"[" * 900 + b"]" * 900 + b"}", "too_deep"),
        (b"[" * 100_000, "not_json"),
        (b'"' + b"x" * 900_000 + b'"', "invalid_config"),
        ("http://169.254.169.254/latest/", "address_refused"),
        ("http://127.0.0.1:8000/x", "address_refused"),
        ("file:///etc/passwd", "bad_url"),
        ("", "bad_url"),
        ("ipfs://nothing", "not_pinned"),
    ],
)
def test_what_is_no_task_is_declined_with_a_reason(source: Source, config: Any, code: str) -> None:
    found, reason = declined(source, config)
    assert found == code
    assert reason.endswith(".") or code == "invalid_input"


def test_the_field_that_is_wrong_is_named(source: Source) -> None:
    _, reason = declined(source, {"function_name": "chat", "data": {"messages": [{"content": "x"}]}})
    assert reason == "data.messages[0]: 'role' is a required property"


def test_another_model_than_the_sources_is_declined(source: Source) -> None:
    Model.objects.create(name="other")
    config = {"function_name": "chat", "data": {**HELLO["data"], "model": "other"}}
    assert declined(source, config)[0] == "model_not_served"


def test_somebodys_private_model_is_none(source: Source, alice: Client) -> None:
    Model.objects.create(name="private", owner=alice)
    Service.objects.update(model="")
    assert (
        declined(source, {"function_name": "chat", "data": {**HELLO["data"], "model": "private"}})[0]
        == "model_not_found"
    )


def test_what_was_trained_for_a_chain_can_be_named(source: Source, foreseen: Any) -> None:
    Model.objects.create(name="ft:llama:onchain::1", owner=house.account())
    fulfilled.task(
        source, {"function_name": "chat", "data": {**HELLO["data"], "model": "ft:llama:onchain::1"}}
    )
    assert advance(source.network).status == Status.ATTEMPTING
    assert foreseen[0][0].body["model"] == "ft:llama:onchain::1"


def test_a_source_without_a_model_takes_any_that_is_named(source: Source, foreseen: Any) -> None:
    Service.objects.update(model="")
    config = {"function_name": "chat", "data": {**HELLO["data"], "model": "llama"}}
    fulfilled.task(source, config)
    assert advance(source.network).status == Status.ATTEMPTING
    Fulfilment.objects.all().delete()
    Task.objects.all().delete()
    Transaction.objects.all().delete()
    assert declined(source, HELLO)[0] == "no_model"


def test_less_than_the_source_asks_is_declined(source: Source) -> None:
    Source.objects.update(min_payment=TOKEN)
    assert declined(source, HELLO, payment=TOKEN - 1)[0] == "payment_too_low"


def test_less_than_a_node_asks_is_declined(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def foresee(request: Request, *, budget: int) -> asking.Outlook:
        raise Impossible("payment_too_low", "This can cost up to 2.")

    monkeypatch.setattr(asking, "foresee", foresee)
    assert declined(source, HELLO) == ("payment_too_low", "This can cost up to 2.")


def test_less_than_our_own_transactions_cost_is_declined(source: Source) -> None:
    gas_costs.note(source.network, base_fee=10**9, tip=10**9)
    # 193,808 + 715,049 of gas for 2 gwei each.
    code, reason = declined(source, HELLO, payment=0)
    assert (code, "0.001817714 " in reason) == ("payment_too_low", True)


@pytest.mark.parametrize(("more", "status"), [(-2, Status.DECLINED), (0, Status.ATTEMPTING)])
def test_a_payment_must_be_for_the_fee_and_the_gas(
    source: Source, operator: Client, more: int, status: FulfilmentStatus
) -> None:
    terms.change(by=operator, reason="x", fee_bps=1000)
    gas_costs.note(source.network, base_fee=10**9)
    payment = services.payment_for((193_808 + 715_049) * 10**9, 1000)
    fulfilled.task(source, HELLO, payment=payment + more)
    assert advance(source.network).status == status


def test_what_is_left_for_a_node_is_less_the_gas(source: Source, foreseen: list[tuple[Request, int]]) -> None:
    gas_costs.note(source.network, base_fee=1, tip=1)
    Task.objects.filter(pk=fulfilled.task(source, HELLO).pk).update(
        delivery_method=DeliveryMethod.MANUAL_CONFIRMATION
    )
    advance(source.network)
    assert foreseen[0][1] == TOKEN - 2 * (193_808 + 599_687)


def test_an_old_price_of_gas_counts_for_nothing(source: Source) -> None:
    gas_costs.note(source.network, base_fee=10**18)
    gas_costs.note(source.network, base_fee=0)
    fulfilled.task(source, HELLO, payment=0)
    assert advance(source.network).status == Status.ATTEMPTING


def test_a_source_that_is_refused_meanwhile_is_declined(source: Source) -> None:
    fulfilled.task(source, HELLO)
    finding.discover(source.network, now=NOW)
    Service.objects.update(status=Serving.REFUSED)
    assert advance(source.network).code == "not_served"


def test_what_expires_too_soon_is_not_begun(source: Source) -> None:
    fulfilled.task(source, HELLO, expires_in_s=checking.LEAST_LEFT_S - 1)
    found = advance(source.network)
    assert (found.status, found.code) == (Status.EXPIRED, "too_little_time")
    assert not Transaction.objects.exists()


def test_what_somebody_else_has_ended_is_left(source: Source) -> None:
    fulfilled.task(source, HELLO)
    finding.discover(source.network, now=NOW)
    Task.objects.update(status=TaskStatus.CANCELED)
    held = rows.claim(Fulfilment.objects.get().pk, now=NOW)
    assert held is not None
    course.advance(held, clock=lambda: NOW)
    assert (only(Status.FOUND).token, Transaction.objects.count()) == (None, 0)
    finding.follow(source.network, now=NOW)
    only(Status.LOST)


def test_without_a_node_it_is_tried_later_and_never_attempted_before(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foresee(request: Request, *, budget: int) -> asking.Outlook:
        raise Later("no_capacity", "1 node holds llama: 1 is full.")

    fulfilled.task(source, HELLO)
    with monkeypatch.context() as patch:
        patch.setattr(asking, "foresee", foresee)
        found = advance(source.network)
        assert (found.status, found.code, found.tries) == (Status.FOUND, "no_capacity", 1)
        assert found.next_try_at == NOW + timedelta(seconds=1)
        assert rows.claim(found.pk, now=NOW) is None
        found = advance(source.network, after_s=10)
        assert found.next_try_at == NOW + timedelta(seconds=12)
        for after in range(100, 1000, 100):
            found = advance(source.network, after_s=after)
        assert found.next_try_at == NOW + timedelta(seconds=900 + 60)
    assert not Transaction.objects.exists()
    assert advance(source.network, after_s=1000).status == Status.ATTEMPTING


def test_a_link_that_may_be_followed_later_is_tried_some_times(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(url: str, **_options: Any) -> Any:
        raise NotFetched("unreachable", "The link cannot be followed.", may_pass=True)

    monkeypatch.setattr(documents, "fetch_json", fetch)
    fulfilled.task(source, "http://example.com/x")
    for number in range(checking.MOST_FETCHES - 1):
        assert advance(source.network, after_s=100 * number).status == Status.FOUND
    found = advance(source.network, after_s=1000)
    assert (found.status, found.code) == (Status.DECLINED, "unreachable")


def test_a_config_is_fetched_once(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(url: str, **_options: Any) -> Any:
        fetched.append(url)
        return HELLO

    monkeypatch.setattr(documents, "fetch_json", fetch)
    fulfilled.task(source, "http://example.com/x")
    with monkeypatch.context() as patch:
        patch.setattr(asking, "foresee", _later)
        advance(source.network)
    assert advance(source.network, after_s=10).status == Status.ATTEMPTING
    assert len(fetched) == 1


def _later(request: Request, *, budget: int) -> asking.Outlook:
    raise Later("no_capacity", "Nobody.")


def test_without_registration_it_waits(source: Source) -> None:
    fulfilled.task(source, HELLO)
    finding.discover(source.network, now=NOW)
    Service.objects.update(registered_at=None, obstacle="5 coins have to be staked.")
    found = advance(source.network)
    assert (found.status, found.code) == (Status.CHECKED, "not_registered")
    assert "5 coins" in found.reason
    Service.objects.update(registered_at=NOW)
    assert advance(source.network, after_s=10).status == Status.ATTEMPTING


def test_without_a_key_it_waits(source: Source, settings: Any) -> None:
    settings.CHAIN_KEY = settings.CHAIN_PROVIDER_KEY = ""
    fulfilled.task(source, HELLO)
    found = advance(source.network)
    assert (found.status, found.code) == (Status.CHECKED, "no_chain_key")


def test_a_task_that_has_vanished_waits_and_is_the_same_when_it_is_back(source: Source) -> None:
    task = fulfilled.task(source, HELLO)
    finding.discover(source.network, now=NOW)
    Task.objects.all().delete()
    assert advance(source.network).code == "vanished"
    task.pk = None
    task.save()
    assert advance(source.network, after_s=10).status == Status.ATTEMPTING


def test_a_fault_of_ours_is_told_and_does_not_end_it(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fulfilled.task(source, HELLO)
    with monkeypatch.context() as patch:
        patch.setattr(checking, "budget_of", lambda _held: 1 // 0)
        found = advance(source.network)
    assert (found.status, found.code) == (Status.FOUND, "internal_error")
    assert "ZeroDivisionError" in caplog.text
    assert advance(source.network, after_s=10).status == Status.ATTEMPTING


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
JSON = st.recursive(
    SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=8), each, max_size=4)
)
NAMES = st.sampled_from([*functions.USUAL, "analyze", "other"]) | JSON
FIELDS = (
    "messages",
    "prompt",
    "input",
    "inputs",
    "parameters",
    "model",
    "max_tokens",
    "stop",
    "n",
    "text",
    "training_data",
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name"]), JSON, max_size=3), max_size=3
)
DATA = st.dictionaries(st.sampled_from(FIELDS), JSON | st.text(min_size=1) | MESSAGES, max_size=5) | JSON


@hypothesis.settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=st.fixed_dictionaries({"function_name": NAMES, "data": DATA}) | JSON)
def test_whatever_a_config_says_it_is_taken_or_declined(source: Source, config: Any) -> None:
    Service.objects.update(functions={"analyze": {"kind": "text", "prompt": "{text} {model}"}})
    held = Fulfilment(network=source.network, source_address=source.address, config=config, payment=1)
    try:
        wanted = checking.wanted_by(held)
    except Impossible:
        return
    if not wanted.is_training:
        found = wanted.request
        assert found.body["model"] == wanted.model == "llama"
        assert found.kind in asking.PATHS
