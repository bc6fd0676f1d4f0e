"""What providers ask: `/llm_models/nodes/{id}/prices/`, registration, heartbeats, and the operator's limits."""

from datetime import timedelta
from typing import Any

import pytest

from clients import terms
from gpus import prices, reports
from gpus.models import Node, Offer, Price
from gpus.offers import parse
from gpus.prices import PriceOutOfRange, Rates, Wish, Wishes
from marketplace.money import TOKEN


def url(node: Node) -> str:
    return f"/llm_models/nodes/{node.pk}/prices/"


@pytest.fixture
def node(bob: Any, join: Any) -> Node:
    found: Node = join(bob, "toy", "other", machine_id="m1").node
    return found


@pytest.fixture
def limit(operator: Any) -> Any:
    """`limit(max_input_price=2 * TOKEN)` changes the operator's terms."""
    return lambda **changes: terms.change(by=operator, reason="tests", **changes)


def test_a_provider_prices_single_models_all_others_and_hours(bob: Any, api: Any, node: Node) -> None:
    body = {
        "models": [{"name": "toy", "input_price": "0.5", "output_price": "1.5"}],
        "all_models": {"request_price": "0.01"},
        "hour_price": "2",
    }
    reply = api(bob).put(url(node), body)

    assert reply.status_code == 200, reply.json()
    other, toy = reply.json()["models"]
    assert (toy["name"], toy["input_price"], toy["output_price"], toy["request_price"]) == (
        "toy",
        "0.5",
        "1.5",
        "0",
    )
    assert (other["input_price"], other["request_price"]) == ("0", "0.01")
    assert reply.json()["hour_price"] == reply.json()["hour_price_asked"] == "2"
    assert api(bob).get(url(node)).json() == reply.json()


def test_nothing_new_makes_no_new_row_and_is_told_to_nobody(
    bob: Any, api: Any, node: Node, announced: Any
) -> None:
    body = {"all_models": {"input_price": "1"}, "hour_price": "2"}
    with announced() as said:
        api(bob).put(url(node), body)
    assert said == [("nodes", str(node.pk))]
    with announced() as said:
        api(bob).put(url(node), body)
    assert said == []
    assert Price.objects.count() == 3


def test_every_price_stays_readable(bob: Any, api: Any, node: Node) -> None:
    for asked in ("1", "2"):
        api(bob).put(url(node), {"models": [{"name": "toy", "input_price": asked}]})
    reply = api(bob).get(f"{url(node)}history/")

    assert [row["input_price"] for row in reply.json()] == ["2", "1"]
    assert reply.headers["X-Total-Count"] == "2"


def test_what_is_left_out_stays_and_at_first_is_the_default(
    bob: Any, api: Any, node: Node, limit: Any
) -> None:
    limit(default_output_price=3 * TOKEN)
    api(bob).put(url(node), {"models": [{"name": "toy", "input_price": "1"}]})
    limit(default_output_price=7 * TOKEN)
    api(bob).put(url(node), {"models": [{"name": "toy", "input_price": "2"}]})

    price = Offer.objects.get(node=node, model="toy").price
    assert price is not None
    assert (price.input_price, price.output_price) == (2 * TOKEN, 3 * TOKEN)


def test_the_refusal_names_the_limit_and_changes_nothing(
    bob: Any, api: Any, node: Node, limit: Any, settings: Any
) -> None:
    settings.CURRENCY = "OMNIT"
    limit(max_input_price=2 * TOKEN, min_hour_price=TOKEN)
    too_much = api(bob).put(
        url(node), {"all_models": {"output_price": "1"}, "models": [{"name": "toy", "input_price": "2.5"}]}
    )
    too_little = api(bob).put(url(node), {"hour_price": "0.5"})

    assert (too_much.status_code, too_little.status_code) == (400, 400)
    assert too_much.json() == {
        "models": {
            "toy": {"input_price": ["This marketplace allows at most 2 OMNIT per million prompt tokens."]}
        }
    }
    assert too_little.json() == {"hour_price": ["This marketplace allows at least 1 OMNIT per GPU and hour."]}
    assert not Price.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"models": [{"name": "unknown", "input_price": "1"}]},
        {"models": [{"input_price": "1"}]},
        {"models": "toy"},
        {"all_models": {"input_price": "-1"}},
        {"hour_price": "NaN"},
        {"hour_price": "0.0000000000000000001"},
        {"hour_price": None},
        [],
    ],
)
def test_a_wrong_price_is_refused(bob: Any, api: Any, node: Node, body: Any) -> None:
    assert api(bob).put(url(node), body).status_code == 400
    assert not Price.objects.exists()


def test_strangers_see_no_prices_and_set_none(charlie: Any, operator: Any, api: Any, node: Node) -> None:
    for reply in (
        api(charlie).get(url(node)),
        api(charlie).get(f"{url(node)}history/"),
        api(charlie).put(url(node), {"hour_price": "1"}),
    ):
        assert reply.status_code == 404
    assert api().get(url(node)).status_code == 401
    assert api(operator).put(url(node), {"hour_price": "1"}).status_code == 200


def test_prices_come_with_the_registration(bob: Any, api: Any, hardware: Any) -> None:
    body = hardware | {
        "machine_id": "m9",
        "models": [{"name": "toy", "input_price": "0.25", "output_price": 1}, "plain"],
        "hour_price": "3",
    }
    reply = api(bob).post("/llm_models/register/", body)

    assert reply.status_code == 201, reply.json()
    node = Node.objects.get(pk=reply.json()["node_id"])
    toy = Offer.objects.get(node=node, model="toy")
    assert toy.price is not None
    assert (toy.price.input_price, toy.price.output_price, toy.kinds) == (
        TOKEN // 4,
        TOKEN,
        ["chat", "completion"],
    )
    assert Offer.objects.get(node=node, model="plain").price is None
    assert node.hour_price is not None
    assert node.hour_price.hour_price == 3 * TOKEN


def test_registering_again_without_prices_keeps_them(bob: Any, api: Any, hardware: Any, join: Any) -> None:
    node = join(bob, "toy", machine_id="m9", hour_price=TOKEN).node
    prices.change(node_id=node.pk, wishes=Wishes(Wish(TOKEN)), now=node.created_at)
    before = Offer.objects.get(node=node).price_id

    join(bob, "toy", machine_id="m9")

    assert Offer.objects.get(node=node).price_id == before
    node.refresh_from_db()
    assert node.hour_price is not None


def test_a_registration_at_a_forbidden_price_leaves_no_node(
    bob: Any, api: Any, hardware: Any, limit: Any
) -> None:
    limit(max_request_price=0)
    body = hardware | {"models": [{"name": "toy", "request_price": "1"}]}
    reply = api(bob).post("/llm_models/register/", body)

    assert reply.status_code == 400
    assert "request_price" in reply.json()["models"]["toy"]
    assert not Node.objects.exists()


def test_a_heartbeat_may_change_a_price_and_says_nothing_else_by_it(node: Node) -> None:
    said = parse(["other", {"name": "toy", "input_price": "4"}])
    Offer.objects.filter(node=node, model="toy").update(kinds=["embedding"], concurrency=7)
    reports.hear(
        node_id=node.pk,
        models=said,
        draining=False,
        maintenance=False,
        agent_version=None,
        engine=None,
        now=node.created_at + timedelta(seconds=1),
    )

    toy = Offer.objects.get(node=node, model="toy")
    assert toy.price is not None
    assert (toy.price.input_price, toy.kinds, toy.concurrency) == (4 * TOKEN, ["embedding"], 7)


def test_the_models_price_is_checked_line_by_line() -> None:
    with pytest.raises(Exception, match="not valid") as refused:
        parse([{"name": "toy", "input_price": "cheap"}])
    assert "input_price" in str(refused.value.fields)  # type: ignore[attr-defined]


def test_what_is_charged_stays_within_limits_that_came_later(bob: Any, node: Node, limit: Any) -> None:
    prices.change(node_id=node.pk, wishes=Wishes(Wish(5 * TOKEN, 5 * TOKEN)), now=node.created_at)
    now = limit(max_input_price=3 * TOKEN, min_output_price=6 * TOKEN)
    price = Offer.objects.select_related("price").filter(node=node)[0].price

    assert price is not None
    assert prices.of(price, now) == Rates(3 * TOKEN, 6 * TOKEN, 0, price.pk)
    assert prices.of(None, now) == Rates()
    with pytest.raises(PriceOutOfRange):
        prices.change(node_id=node.pk, wishes=Wishes(Wish(input_price=4 * TOKEN)), now=node.created_at)
    # What is not touched may stay beyond.
    assert prices.change(node_id=node.pk, wishes=Wishes(Wish(request_price=1)), now=node.created_at) == 2


def test_a_new_price_holds_in_every_process_at_once(
    serve: Any, add_node: Any, bob: Any, operator: Any
) -> None:
    node = add_node("n1", url="http://127.0.0.1:1")
    first, second = serve(), serve()
    first.knows(node)
    second.knows(node)
    prices.change(node_id=node.pk, wishes=Wishes(Wish(2 * TOKEN)), now=node.created_at)
    offers = [each.hot.gateway.directory.nodes[node.pk].offers["llama"] for each in (first, second)]
    first.until(lambda: all(offer.rates.input == 2 * TOKEN for offer in offers), timeout=2)

    terms.change(by=operator, reason="dear", max_input_price=TOKEN)
    first.until(lambda: all(offer.rates.input == TOKEN for offer in offers))
    assert all(offer.asked.input == 2 * TOKEN for offer in offers)
