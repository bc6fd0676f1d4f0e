"""Our own API, asked in the name of the marketplace's own account: what its replies mean for a task."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from chain.fulfilment import asking
from chain.fulfilment.rows import Impossible, Later
from chain.functions import Request
from clients import house, terms
from clients.models import Client
from gpus.models import Heartbeat, Node, Offer, Price
from inference.models import Inference, Kind
from marketplace import money
from marketplace.money import TOKEN
from tests.chain.test_documents import Answer, listening, says
from tests.engine import Engine
from tests.served import Server

CHAT = Request(
    Kind.CHAT, {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1000}
)


def replies(status: int, said: Any) -> Answer:
    head = b"HTTP/1.1 %d X\r\nConnection: close\r\n" % status
    return says(said if isinstance(said, bytes) else json.dumps(said).encode(), head)


def failure(status: int, code: str) -> Answer:
    return replies(status, {"error": {"code": code, "message": "Because."}})


FREE = replies(200, {"node": "n1", "cost_at_most": "0", "price": {}, "refusal": None})


def ask(settings: Any, *answers: Answer) -> Exception:
    with listening(*answers) as (url, _):
        settings.INTERNAL_URL = url
        with pytest.raises((Impossible, Later)) as caught:
            asking.ask(CHAT, key="fulfilment:1", budget=TOKEN, deadline_s=5)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "context_length_exceeded", Impossible),
        (404, "model_not_found", Impossible),
        (400, "unsupported_kind", Impossible),
        (413, "request_too_large", Impossible),
        (400, "over_maximum_cost", Later),
        (400, "policy_not_met", Later),
        (409, "idempotency_key_in_use", Later),
        (401, "unknown_credential", Later),
        (429, "rate_limit_exceeded", Later),
        (500, "internal_error", Later),
        (502, "nodes_failed", Later),
        (503, "no_capacity", Later),
        (504, "deadline_exceeded", Later),
    ],
)
def test_errors_are_for_ever_or_pass(settings: Any, status: int, code: str, kind: type[Exception]) -> None:
    found = ask(settings, FREE, failure(status, code))
    assert isinstance(found, kind)
    assert (found.code, found.reason) == (code, "Because.")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "answer", [replies(200, b"no JSON"), replies(200, b"[]"), replies(302, b""), replies(418, b"{")]
)
def test_what_is_no_reply_of_ours_is_told(settings: Any, answer: Answer) -> None:
    assert ask(settings, FREE, answer)


def test_an_api_that_is_away_passes(settings: Any) -> None:
    with listening(FREE) as (url, _):
        pass
    settings.INTERNAL_URL = url
    with pytest.raises(Later) as caught:
        asking.foresee(CHAT, budget=0)
    assert caught.value.code == "marketplace_away"
    assert house.token() not in caught.value.reason


def test_no_proxy_gets_the_token(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(FREE) as (proxy, heard_there), listening(FREE) as (url, _):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        settings.INTERNAL_URL = url
        asking.foresee(CHAT, budget=0)
    assert not heard_there


def test_a_redirection_gets_no_token(settings: Any) -> None:
    with (
        listening(FREE) as (there, heard_there),
        listening(
            says(b"", b"HTTP/1.1 307 X\r\nConnection: close\r\nLocation: %s/\r\n" % there.encode())
        ) as (url, _),
    ):
        settings.INTERNAL_URL = url
        with pytest.raises(Later):
            asking.foresee(CHAT, budget=0)
    assert not heard_there


# --- Against a marketplace that runs ------------------------------------------------------------------------------


@pytest.fixture
def at(server: Server, settings: Any) -> None:
    settings.INTERNAL_URL = server.url


@pytest.fixture
def add_priced(add_node: Callable[..., Node], engine: Engine, server: Server) -> Callable[..., Node]:
    """A node that asks so many coins for a million completion tokens; the server knows it."""

    def add(name: str, price: int) -> Node:
        node = add_node(name, url=engine.url)
        made = Price.objects.create(
            node=node,
            owner=node.owner,
            model="llama",
            output_price=price * TOKEN,
            input_price=0,
            request_price=0,
        )
        Offer.objects.filter(node=node).update(price=made)
        Node.objects.get(pk=node.pk).save()
        live = server.hot.gateway.directory.nodes
        server.until(lambda: node.pk in live and live[node.pk].offers["llama"].rates.price_id == made.pk)
        return node

    return add


def test_a_node_that_is_too_dear_is_passed_over_for_a_cheaper_one(
    at: None, server: Server, add_priced: Callable[..., Node], engine: Engine
) -> None:
    cheap, _ = add_priced("cheap", 1000), add_priced("dear", 10_000)
    for number in range(12):
        # 1000 tokens cost 1 there, 10 here.
        found = asking.ask(CHAT, key=f"k{number}", budget=2 * TOKEN, deadline_s=5)
        assert found.done_by()["node"] == cheap
    assert len(engine.asked) == 12


def test_a_request_that_comes_to_a_dearer_node_than_was_looked_at_is_sent_again_within_the_price(
    at: None, server: Server, add_priced: Callable[..., Node], engine: Engine, monkeypatch: Any
) -> None:
    add_priced("dear", 10_000)
    seen = asking.Outlook(TOKEN, "prompt=2000, completion=2000, request=0")
    monkeypatch.setattr(asking, "foresee", lambda request, budget: seen)
    with pytest.raises(Later) as caught:
        asking.ask(CHAT, key="k", budget=2 * TOKEN, deadline_s=5)
    assert caught.value.code == "policy_not_met"
    assert not engine.asked


def test_where_all_are_too_dear_the_payment_is_too_low(
    at: None, server: Server, add_priced: Callable[..., Node], engine: Engine
) -> None:
    add_priced("dear", 10_000)
    add_priced("dearer", 20_000)
    with pytest.raises(Impossible) as caught:
        asking.foresee(CHAT, budget=2 * TOKEN)
    assert caught.value.code == "payment_too_low"
    assert "are for whoever does the work" in caught.value.reason
    assert money.named(2 * TOKEN) in caught.value.reason
    assert not engine.asked


def test_numbers_as_the_database_gives_them_back_can_be_sent(
    at: None, server: Server, add_node: Callable[..., Node], engine: Engine
) -> None:
    server.knows(add_node("n1", url=engine.url))
    odd = Request(Kind.CHAT, CHAT.body | {"seed": 10**30, "user": "ü"})
    assert asking.ask(odd, key="k", budget=0, deadline_s=5).body["choices"]
    assert (engine.asked[0]["seed"], engine.asked[0]["user"]) == (10**30, "ü")


def test_where_nobody_is_there_it_passes(at: None, server: Server, add_node: Callable[..., Node]) -> None:
    node = add_node("away", url="http://127.0.0.1:9")
    Heartbeat.objects.filter(node=node).update(at=timezone.now() - timedelta(hours=1))
    server.until(lambda: "llama" in server.hot.gateway.directory.pools)
    with pytest.raises(Later) as caught:
        asking.foresee(CHAT, budget=TOKEN)
    assert caught.value.code == "no_capacity"


def test_a_model_that_there_is_not_is_impossible(at: None, server: Server) -> None:
    with pytest.raises(Impossible) as caught:
        asking.foresee(CHAT, budget=TOKEN)
    assert caught.value.code == "model_not_found"


def test_a_repeated_question_gets_the_first_answer_and_costs_a_node_nothing(
    at: None, server: Server, add_node: Callable[..., Node], engine: Engine, bob: Client
) -> None:
    server.knows(add_node("n1", url=engine.url))
    first = asking.ask(CHAT, key="fulfilment:1", budget=0, deadline_s=5)
    again = asking.ask(CHAT, key="fulfilment:1", budget=0, deadline_s=4)
    assert again == first
    assert again.done_by()["provider_id"] == bob.pk
    assert len(engine.asked) == 1
    other = Request(Kind.CHAT, CHAT.body | {"max_tokens": 999})
    assert asking.ask(other, key="fulfilment:1", budget=0, deadline_s=4).inference != first.inference


def test_an_answer_that_could_not_be_kept_is_made_once_more(
    at: None, server: Server, add_node: Callable[..., Node], engine: Engine, settings: Any
) -> None:
    settings.IDEMPOTENCY_MAX_REPLY_BYTES = 0
    server.knows(add_node("n1", url=engine.url))
    asking.ask(CHAT, key="fulfilment:1", budget=0, deadline_s=5)
    assert asking.ask(CHAT, key="fulfilment:1", budget=0, deadline_s=5).body["choices"]
    assert (len(engine.asked), Inference.objects.count()) == (2, 2)


def test_what_is_left_of_the_time_is_the_deadline() -> None:
    expires = datetime.fromisoformat("2026-01-01T00:01:00+00:00")
    now = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    assert asking.left_s(expires, now=now, keep_s=5) == 55
    assert terms.UNSET.fee_bps == 0
