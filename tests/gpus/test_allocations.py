"""`/compute/allocate` and `/compute/allocations`: nodes for oneself alone."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from clients import keys, ledger, terms
from clients.models import AccountKind, Allowance, Hold
from gpus import candidates, leases
from gpus.candidates import Candidate
from gpus.models import Allocation, Gateway, Heartbeat, Lease, Node
from marketplace import money
from marketplace.money import TOKEN

URL = "/compute/allocate"
ALL = "/compute/allocations"
HOUR = {"task_type": "training", "gpu_count": 1, "duration_hours": 1}


def spendable(client: Any) -> int:
    account = ledger.account(client.pk, AccountKind.SPENDABLE)
    balance, held = ledger.balances([account])[account.pk]
    return balance - held


@pytest.fixture(autouse=True)
def _currency(settings: Any) -> None:
    settings.CURRENCY = "OMNIT"


@pytest.fixture
def rich(alice: Any) -> Any:
    ledger.grant(client_id=alice.pk, amount=100 * TOKEN, reference="grant:t", reason="tests", by_id=None)
    return alice


@pytest.fixture
def add(bob: Any, join: Any, connect: Any) -> Any:
    """`add("m1", price="3.6")` is a node of bob's that is online."""

    def online(name: str, price: str = "3.6", gpus: str = "", **fields: Any) -> Node:
        joined = join(
            bob, "toy", machine_id=name, name=name, hour_price=money.parse(price), now=timezone.now()
        )
        connect(joined.node, timezone.now())
        if gpus:
            fields["gpu_info"] = gpus
        Node.objects.filter(pk=joined.node.pk).update(state="online", **fields)
        node: Node = joined.node
        return node

    return online


def test_it_reserves_a_node_and_holds_its_price(rich: Any, api: Any, add: Any, announced: Any) -> None:
    node = add("m1")
    with announced() as said:
        reply = api(rich).post(URL, HOUR | {"duration_hours": 1.5, "gpu_type": "RTX 3080", "model_id": "toy"})

    assert reply.status_code == 201, reply.json()
    body = reply.json()
    assert (body["status"], body["gpu_count"], body["nodes"]) == ("allocated", 1, ["m1"])
    assert (body["cost"], body["charged"], body["currency"]) == ("5.4", "0", "OMNIT")
    assert body["gpu_type"] == "NVIDIA GeForce RTX 3080 (10 GB VRAM)"
    lease = Lease.objects.get()
    assert lease.expires_at - lease.started_at == timedelta(minutes=90)
    assert spendable(rich) == 100 * TOKEN - money.parse("5.4")
    assert said == [("nodes", str(node.pk))]


def test_it_can_be_read_listed_and_released(rich: Any, api: Any, add: Any) -> None:
    add("m1")
    made = api(rich).post(URL, HOUR).json()
    client, address = api(rich), f"{ALL}/{made['allocation_id']}"

    assert client.get(address).json() == made == client.get(f"{URL}/{made['allocation_id']}").json()
    listed = client.get(ALL)
    assert (listed.json(), listed.headers["X-Total-Count"]) == ([made], "1")
    ended = client.delete(address)
    assert ended.status_code == 200
    assert ended.json()["status"] == "released"
    assert money.parse(ended.json()["charged"]) + money.parse(ended.json()["refunded"]) == money.parse("3.6")
    assert spendable(rich) == 100 * TOKEN - money.parse(ended.json()["charged"])
    assert client.delete(f"{URL}/{made['allocation_id']}").json() == ended.json()


def test_a_stranger_neither_sees_nor_ends_it(rich: Any, charlie: Any, api: Any, add: Any) -> None:
    add("m1")
    made = api(rich).post(URL, HOUR).json()["allocation_id"]
    stranger = api(charlie)

    assert stranger.get(ALL).json() == []
    for reply in (
        stranger.get(f"{ALL}/{made}"),
        stranger.delete(f"{ALL}/{made}"),
        stranger.delete(f"{URL}/{made}"),
        stranger.post(f"{ALL}/{made}/extend", {"duration_hours": 1}),
        stranger.get(f"{ALL}/{uuid4()}"),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "ALLOCATION_NOT_FOUND")
    assert Allocation.objects.get().ended_at is None
    assert api().post(URL, HOUR).status_code == 401


def test_extending_holds_more_at_the_same_price(rich: Any, api: Any, add: Any, operator: Any) -> None:
    add("m1")
    made = api(rich).post(URL, HOUR).json()
    terms.change(by=operator, reason="dearer", min_hour_price=50 * TOKEN)
    reply = api(rich).post(f"{ALL}/{made['allocation_id']}/extend", {"duration_hours": 0.5})

    assert reply.status_code == 200, reply.json()
    assert reply.json()["cost"] == "5.4"
    assert reply.json()["expires_at"] > made["expires_at"]
    assert spendable(rich) == 100 * TOKEN - money.parse("5.4")
    assert Hold.objects.get().amount == money.parse("5.4")


def test_who_cannot_pay_for_more_keeps_what_there_is(rich: Any, api: Any, add: Any) -> None:
    add("m1", price="60")
    made = api(rich).post(URL, HOUR).json()
    reply = api(rich).post(f"{ALL}/{made['allocation_id']}/extend", {"duration_hours": 1})

    assert (reply.status_code, reply.json()["error"]["code"]) == (402, "INSUFFICIENT_BALANCE")
    assert api(rich).get(f"{ALL}/{made['allocation_id']}").json() == made


def test_what_is_over_cannot_be_extended(rich: Any, api: Any, add: Any) -> None:
    add("m1")
    made = api(rich).post(URL, HOUR).json()["allocation_id"]
    api(rich).delete(f"{ALL}/{made}")
    reply = api(rich).post(f"{ALL}/{made}/extend", {"duration_hours": 1})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "ALLOCATION_ENDED")


def test_it_takes_the_cheapest_nodes_that_cover_what_is_wanted(rich: Any, api: Any, add: Any) -> None:
    add("dear", price="9")
    add("pair", price="2", gpus="A100; A100")
    add("cheap", price="1")
    assert api(rich).post(URL, HOUR).json()["nodes"] == ["cheap"]
    reply = api(rich).post(URL, HOUR | {"gpu_count": 2}).json()
    assert (reply["nodes"], reply["gpu_count"], reply["cost"]) == (["pair"], 2, "4")


def test_without_capacity_it_says_why_and_reserves_nothing(rich: Any, api: Any, add: Any) -> None:
    add("small")
    add("dear", price="30")
    add("away")
    Heartbeat.objects.filter(node__name="away").update(at=timezone.now() - timedelta(hours=1))
    add("taken", price="0")
    api(rich).post(URL, HOUR)
    reply = api(rich).post(URL, HOUR | {"gpu_count": 2, "max_hour_price": "10"})

    assert reply.status_code == 503
    error = reply.json()["error"]
    assert error["code"] == "NO_CAPACITY"
    assert error["details"]["nodes"] == {"silent": 1, "over your maximum price": 1, "reserved already": 1}
    assert error["details"]["free_gpus"] == 1
    assert "1 is silent" in error["message"]
    assert reply.headers["Retry-After"]
    assert Lease.objects.count() == 1


@pytest.mark.parametrize(
    ("demand", "why"),
    [
        ({"model_id": "other"}, "not offering other"),
        ({"gpu_type": "H100"}, "not of type H100"),
        ({"region": "eu"}, "not in region eu"),
        ({"trusted_only": True}, "not trusted by the operator"),
    ],
)
def test_it_obeys_each_demand(rich: Any, api: Any, add: Any, demand: Any, why: str) -> None:
    add("m1", region="us")
    reply = api(rich).post(URL, HOUR | demand)
    assert reply.json()["error"]["details"]["nodes"] == {why: 1}


def test_nodes_of_owners_who_are_not_approved_are_not_given(rich: Any, api: Any, add: Any, bob: Any) -> None:
    add("m1")
    type(bob).objects.filter(pk=bob.pk).update(provider_status="suspended")
    assert api(rich).post(URL, HOUR).json()["error"]["details"]["nodes"] == {"suspended": 1}


def test_who_cannot_pay_gets_nothing(alice: Any, api: Any, add: Any) -> None:
    add("m1")
    reply = api(alice).post(URL, HOUR)
    assert (reply.status_code, reply.json()["error"]["code"]) == (402, "INSUFFICIENT_BALANCE")
    assert reply.json()["error"]["details"] == {"available": "0", "needed": "3.6"}
    assert not Allocation.objects.exists()
    assert not Hold.objects.exists()


def test_the_budget_of_a_key_counts(rich: Any, api: Any, add: Any) -> None:
    add("m1")
    made = keys.create(rich, name="tests")
    Allowance.objects.create(client=rich, api_key=made.row, budget_day=TOKEN)
    client = api()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {made.key}")
    reply = client.post(URL, HOUR)

    assert reply.status_code == 429, reply.json()
    assert reply.json()["error"]["details"]["limit"] == "budget_day"
    assert not Lease.objects.exists()
    assert client.post(URL, HOUR | {"duration_hours": 0.25}).status_code == 201


def test_an_idempotency_key_reserves_once(rich: Any, api: Any, add: Any) -> None:
    add("m1")
    add("m2")
    first = api(rich).post(URL, HOUR, HTTP_IDEMPOTENCY_KEY="k")
    second = api(rich).post(URL, HOUR, HTTP_IDEMPOTENCY_KEY="k")

    assert first.json() == second.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert Lease.objects.count() == 1
    failed = api(rich).post(URL, HOUR | {"gpu_count": 9}, HTTP_IDEMPOTENCY_KEY="more")
    assert failed.status_code == 503


@pytest.mark.parametrize(
    "wrong",
    [
        {"task_type": "mining"},
        {"gpu_count": 0},
        {"gpu_count": 1.5},
        {"duration_hours": 0},
        {"duration_hours": -1},
        {"duration_hours": "NaN"},
        {"duration_hours": "inf"},
        {"duration_hours": True},
        {"duration_hours": "1" + "0" * 400},
        {"duration_hours": 721},
        {"duration_hours": None},
        {"max_hour_price": "-1"},
        {"region": "x" * 51},
        {"model_id": "a\0b"},
    ],
)
def test_a_wrong_demand_is_refused(rich: Any, api: Any, add: Any, wrong: Any) -> None:
    add("m1")
    reply = api(rich).post(URL, HOUR | wrong)
    assert reply.status_code == 400, reply.content
    assert set(reply.json()["error"]["details"]["fields"]) == set(wrong)
    assert not Lease.objects.exists()


def test_extending_has_the_same_limit(rich: Any, api: Any, add: Any, settings: Any) -> None:
    settings.ALLOCATION_MAX_HOURS = 2
    add("m1")
    made = api(rich).post(URL, HOUR).json()["allocation_id"]
    assert api(rich).post(f"{ALL}/{made}/extend", {"duration_hours": 1.5}).status_code == 400
    assert api(rich).post(f"{ALL}/{made}/extend", {"duration_hours": 0.5}).status_code == 200


def test_a_released_node_can_be_reserved_again(rich: Any, api: Any, add: Any) -> None:
    add("m1")
    made = api(rich).post(URL, HOUR).json()["allocation_id"]
    assert api(rich).post(URL, HOUR).status_code == 503
    api(rich).delete(f"{ALL}/{made}")
    assert api(rich).post(URL, HOUR).status_code == 201


def test_the_price_and_the_fee_are_those_of_its_beginning(
    rich: Any, api: Any, add: Any, operator: Any, bob: Any
) -> None:
    terms.change(by=operator, reason="t", fee_bps=1000, default_hour_price=TOKEN, max_hour_price=2 * TOKEN)
    node = add("m1", price="1.5")
    made = api(rich).post(URL, HOUR).json()
    terms.change(by=operator, reason="t", fee_bps=0, max_hour_price=TOKEN)
    Node.objects.filter(pk=node.pk).update(hour_price=None)
    later = timezone.now() + timedelta(hours=2)
    Heartbeat.objects.update(at=later)
    Gateway.objects.update(seen_at=later)
    leases.sweep(now=later)

    ended = api(rich).get(f"{ALL}/{made['allocation_id']}").json()
    assert (ended["status"], ended["charged"], ended["refunded"]) == ("expired", "1.5", "0")
    assert ledger.balance(ledger.account(bob.pk, AccountKind.EARNED)) == money.parse("1.35")


def test_a_limit_that_came_later_holds_for_new_allocations(
    rich: Any, api: Any, add: Any, operator: Any
) -> None:
    add("m1", price="5")
    terms.change(by=operator, reason="t", max_hour_price=2 * TOKEN)
    assert api(rich).post(URL, HOUR).json()["cost"] == "2"


@pytest.mark.parametrize(
    ("name", "wanted", "fits"),
    [
        ("NVIDIA GeForce RTX 3080 (10 GB VRAM)", "nvidia rtx 3080", True),
        ("NVIDIA GeForce RTX 3080 (10 GB VRAM)", "RTX 308", False),
        ("NVIDIA A100-SXM4-80GB", "a100", True),
        ("No GPU", "A100", False),
    ],
)
def test_a_type_is_recognised_by_its_words(name: str, wanted: str, fits: bool) -> None:
    assert candidates.is_of_type(name, wanted) is fits


@pytest.mark.parametrize(
    ("nodes", "wanted", "chosen"),
    [
        ([(8, 8), (1, 2)], 1, {1}),
        ([(8, 8), (1, 2)], 6, {0}),
        ([(1, 1), (4, 8)], 4, {1}),  # the small one would be needless beside the large one
        ([(1, 0), (1, 0), (1, 5)], 2, {0, 1}),
        ([(1, 1)], 5, {0}),
        ([], 1, set()),
    ],
)
def test_cover_spends_little(nodes: Any, wanted: int, chosen: set[int]) -> None:
    found = [
        Candidate(number, "", 1, ("A100",) * gpus, price, None) for number, (gpus, price) in enumerate(nodes)
    ]
    assert {each.node_id for each in candidates.cover(found, wanted)} == chosen
