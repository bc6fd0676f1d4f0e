"""/chain/tasks/: tasks on the chains, and having some published without a wallet of one's own."""

import json
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from chain import orders, pins
from chain.models import (
    Fulfilment,
    FulfilmentStatus,
    Pin,
    Service,
    Serving,
    TaskOrder,
    Transaction,
    TransactionStatus,
)
from clients import keys, terms, transfers
from clients.models import Wallet
from marketplace.money import TOKEN
from tests.chain.api import made
from tests.clients.conftest import ODD_VALUES

pytestmark = pytest.mark.django_db
PATH = "/chain/tasks/"
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _setting(books, settings):
    settings.CHAIN_KEY = made.KEY


@pytest.fixture
def said(source):
    return {
        "source": source.address, "function_name": "analyze_sentiment",
        "data": {"text": "I love this product! 💥"}, "payment": "1",
    }  # fmt: skip


def fulfilment(task, **fields):
    values = {
        "network": task.network, "task_address": task.address, "source_address": task.source.address,
        "published_transaction": task.transaction_hash, "payment": task.payment, "expires_at": NOW,
        "status": FulfilmentStatus.DECLINED, "code": "bad_input", "reason": "text is missing",
    }  # fmt: skip
    return Fulfilment.objects.create(**(values | fields))


def money_of(person):
    has = transfers.balances(person)
    return has.spendable / TOKEN, has.held / TOKEN


# --- Reading -------------------------------------------------------------------------------------------------


def test_everybody_who_is_signed_in_reads_them(api, charlie, task):
    (found,) = api(charlie).get(PATH).json()

    assert (found["address"], found["source"], found["network"]) == (
        task.address,
        task.source.address,
        "local",
    )
    assert (found["payment"], found["status"], found["delivery_method"]) == (
        "0.01",
        "new",
        "MANUAL_CONFIRMATION",
    )
    assert (found["expiry_time"], found["expires_at"]) == ("4000000000", "2096-10-02T07:06:40Z")
    assert found["place"] == {
        "block_number": 20, "log_index": 11, "transaction_hash": made.digest(11), "confirmations": 81, "is_final": True,
    }  # fmt: skip
    assert (found["order"], found["fulfilment"], found["client"]) == (None, None, "")
    assert api(charlie).get(f"{PATH}{task.address}/").json() == found


def test_a_date_beyond_all_calendars_is_no_date(api, charlie, source):
    made.task(source, expiry_time=2**256 - 1)
    (found,) = api(charlie).get(PATH).json()
    assert (found["expires_at"], found["expiry_time"]) == (None, str(2**256 - 1))


def test_without_a_credential_nothing(api, task):
    for path in (PATH, f"{PATH}{task.address}/"):
        assert api().get(path).status_code == 401
    for path in (PATH, f"{PATH}{task.address}/cancel/"):
        assert api().post(path, {}).status_code == 401


def test_lists_can_be_narrowed(api, alice, local):
    other = made.network("other", 5)
    source, far = made.source(local), made.source(other, 2)
    first, second = made.task(source, 11), made.task(far, 12, status=5)

    def found(query):
        return [each["address"] for each in api(alice).get(PATH + query).json()]

    assert found("") == [second.address, first.address]
    assert (
        found("?network=local")
        == found(f"?source={source.address}")
        == found("?status=new")
        == [first.address]
    )
    assert found("?status=finalized") == [second.address]
    assert found("?mine=true") == []
    assert found("?limit=1") == [second.address]


@pytest.mark.parametrize(
    "query", ["?network=nowhere", "?status=strange", "?source=0x1", "?offset=-1", "?mine=9"]
)
def test_odd_filters_are_the_callers_mistake(api, alice, task, query):
    assert api(alice).get(PATH + query).status_code == 400


def test_how_far_our_work_is_all_may_know_and_why_those_whom_it_concerns(
    api, alice, bob, charlie, operator, task
):
    fulfilment(task, provider=bob)
    wallet = made.address(9)
    Wallet.objects.create(client=alice, address=wallet.lower())
    made.log(task, "PaymentFrozen", {"client": wallet, "task": task.address}, block=20, index=1)

    def told(person):
        said = api(person).get(f"{PATH}{task.address}/").json()["fulfilment"]
        return said["status"], said["code"], said["reason"], said["provider"]

    assert told(charlie) == ("declined", "", "", None)
    assert told(alice) == ("declined", "bad_input", "text is missing", None)
    assert told(bob) == told(operator) == ("declined", "bad_input", "text is missing", bob.pk)


def test_the_fulfilment_of_another_task_at_the_same_address_is_not_shown(api, charlie, task):
    """A reorganisation may put another one there."""
    fulfilment(task, published_transaction=made.digest(5))
    assert api(charlie).get(f"{PATH}{task.address}/").json()["fulfilment"] is None


def test_a_page_takes_few_queries(api, alice, source, django_assert_max_num_queries):
    for number in range(11, 31):
        made.log(made.task(source, number), "PaymentFrozen", {"client": "0x", "task": ""}, block=20, index=1)
    with django_assert_max_num_queries(8):
        assert len(api(alice).get(PATH).json()) == 20


# --- Ordering ------------------------------------------------------------------------------------------------


def test_a_task_is_ordered_and_its_payment_held(api, buyer, source, said):
    before = timezone.now()
    reply = api(buyer).post(PATH, said)

    assert reply.status_code == 201
    found = reply.json()
    order = found["order"]
    assert (found["address"], found["status"], found["payment"]) == (None, None, "1")
    assert (order["status"], order["held"], order["paid"], order["function"]) == (
        "publishing", "1", None, "analyze_sentiment",
    )  # fmt: skip
    assert (order["deposit"]["status"], order["publication"]["status"]) == ("queued", "queued")
    assert found["delivery_method"] == "MANUAL_CONFIRMATION"
    assert money_of(buyer) == (9, 1)
    config = json.loads(pins.read(pins.cid_in(found["config_url"])))
    assert config == {"function_name": "analyze_sentiment", "data": {"text": "I love this product! 💥"}}
    assert api(buyer).get(f"{PATH}{order['id']}/").json() == found
    assert api(buyer).get(f"{PATH}?mine=true").json() == [found]
    assert api(buyer).get(PATH).json() == []
    hour = timedelta(hours=1)
    assert before + hour <= TaskOrder.objects.get().expires_at <= timezone.now() + hour


def test_once_it_is_on_the_chain_both_names_lead_to_it(api, buyer, charlie, source, said):
    number = api(buyer).post(PATH, said).json()["order"]["id"]
    task = made.published(TaskOrder.objects.get())

    found = api(buyer).get(f"{PATH}{number}/").json()
    assert found == api(buyer).get(f"{PATH}{task.address}/").json()
    assert (found["address"], found["client"]) == (task.address, made.ADDRESS)
    assert (found["order"]["status"], found["status"]) == ("published", "new")
    # It is on the chain for everybody; whose it is, only its owner knows.
    stranger = api(charlie).get(f"{PATH}{task.address}/").json()
    assert stranger == found | {"order": None}


def test_limits_are_refusals_with_a_sentence(api, buyer, source, said, operator):
    terms.change(by=operator, reason="x", withdrawal_approval_above=TOKEN // 2)
    reply = api(buyer).post(PATH, said)
    assert (reply.status_code, reply.json()["code"]) == (403, "approval_needed")
    source.network.confirmations = 200
    source.network.save()
    reply = api(buyer).post(PATH, said)
    assert (reply.status_code, reply.json()["code"], reply["Retry-After"]) == (409, "not_final", "5")
    assert not TaskOrder.objects.exists()


def test_somebody_elses_order_does_not_exist(api, buyer, charlie, operator, source, said):
    number = api(buyer).post(PATH, said).json()["order"]["id"]
    assert api(charlie).get(f"{PATH}{number}/").status_code == 404
    assert api(charlie).get(f"{PATH}?mine=true").json() == []
    assert api(operator).get(f"{PATH}{number}/").status_code == 200
    for person in (charlie, operator):
        assert api(person).post(f"{PATH}{number}/cancel/").status_code == 404
    task = made.published(TaskOrder.objects.get())
    for person in (charlie, operator):
        assert api(person).post(f"{PATH}{task.address}/cancel/").status_code == 404
    assert TaskOrder.objects.get().status == "published"


def test_the_time_can_be_said_both_ways(api, buyer, source, said):
    moment = int(NOW.timestamp()) + 7200
    found = api(buyer).post(PATH, said | {"expiry_time": moment}).json()
    assert found["expiry_time"] == str(moment)
    before = int(time.time())
    found = api(buyer).post(PATH, said | {"expires_in": 600}).json()
    assert before + 600 <= int(found["expiry_time"]) <= time.time() + 600
    assert api(buyer).post(PATH, said | {"expires_in": 600, "expiry_time": moment}).status_code == 400


def test_who_cannot_pay_orders_nothing(api, alice, source, said):
    reply = api(alice).post(PATH, said)

    assert (reply.status_code, reply.json()["code"]) == (402, "insufficient_balance")
    assert not TaskOrder.objects.exists()
    assert not Transaction.objects.exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [({"source": made.address(99)}, None), ({"payment": "0.0001"}, "not_offered"),
     ({"expires_in": 86401}, "not_offered"), ({"expiry_time": 5}, "not_offered"), ({"network": "nowhere"}, None)],
)  # fmt: skip
def test_what_the_source_does_not_offer_is_refused(api, buyer, source, said, change, code):
    reply = api(buyer).post(PATH, said | change)

    assert reply.status_code == 400
    assert code is None or reply.json()["code"] == code
    assert money_of(buyer) == (10, 0)


def test_a_repeat_with_its_key_is_ordered_once(api, buyer, source, said):
    first, again = (api(buyer).post(PATH, said, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (TaskOrder.objects.count(), money_of(buyer)) == (1, (9, 1))
    changed = api(buyer).post(PATH, said | {"payment": "2"}, headers={"Idempotency-Key": "k"})
    assert changed.status_code == 409


def test_a_refused_order_leaves_its_key_free(api, alice, fund, source, said):
    assert api(alice).post(PATH, said, headers={"Idempotency-Key": "k"}).status_code == 402
    fund(alice, 10)
    assert api(alice).post(PATH, said, headers={"Idempotency-Key": "k"}).status_code == 201


def test_there_is_no_dry_run(api, buyer, source, said):
    reply = api(buyer).post(PATH, said, headers={"X-Dry-Run": "true"})
    assert (reply.status_code, reply.json()["code"]) == (400, "no_dry_run")
    assert not TaskOrder.objects.exists()


def test_what_an_api_key_orders_counts_in_its_budget(buyer, source, said, holder):
    caller = holder(f"Bearer {keys.create(buyer, name='k', budget_day=TOKEN * 3 // 2).key}")
    assert [caller.post(PATH, said).status_code for _ in range(2)] == [201, 429]


def test_so_many_may_be_open(api, buyer, source, said, monkeypatch):
    monkeypatch.setattr(orders, "MAX_OPEN", 1)
    assert [api(buyer).post(PATH, said).status_code for _ in range(2)] == [201, 409]


def test_orders_are_counted_over_time(api, buyer, source, said, settings, monkeypatch):
    monkeypatch.setitem(settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"], "chain", "1/min")
    assert [api(buyer).post(PATH, said).status_code for _ in range(2)] == [201, 429]
    assert api(buyer).get(PATH).status_code == 200


def test_without_a_key_of_the_marketplace_nothing_is_ordered(api, buyer, source, said, settings):
    settings.CHAIN_KEY = ""
    reply = api(buyer).post(PATH, said)

    assert (reply.status_code, reply.json()["code"]) == (503, "no_chain_key")
    assert money_of(buyer) == (10, 0)


@pytest.mark.parametrize(
    "field", ["source", "function_name", "data", "payment", "expires_in", "expiry_time", "network"]
)
@pytest.mark.parametrize("value", ODD_VALUES)
def test_odd_values_are_the_callers_mistake(api, buyer, source, said, field, value):
    assert api(buyer).post(PATH, said | {field: value}).status_code in (201, 400, 402, 413)


def test_an_unknown_field_is_not_overlooked(api, buyer, source, said):
    assert api(buyer).post(PATH, said | {"expires": 60}).status_code == 400


def test_an_input_that_is_too_large_is_refused(api, buyer, source, said, settings):
    settings.PIN_MAX_BYTES = 1024
    reply = api(buyer).post(PATH, said | {"data": {"text": "x" * 1024}})
    assert (reply.status_code, reply.json()["code"]) == (413, "file_too_large")


@pytest.mark.parametrize("size", [2 * 10**6, 4 * 10**6])
def test_a_body_beyond_all_measure_is_refused(api, buyer, source, said, size):
    for headers in ({}, {"Idempotency-Key": "k"}):
        assert (
            api(buyer).post(PATH, said | {"data": {"text": "x" * size}}, headers=headers).status_code == 413
        )
    assert not TaskOrder.objects.exists()


def test_an_input_that_nobody_could_read_is_refused(api, buyer, source, said):
    deep = {}
    for _ in range(100):
        deep = {"a": deep}
    for data in (deep, {"text": "a\0b"}):
        assert api(buyer).post(PATH, said | {"data": data}).status_code == 400


def test_its_config_stays_for_as_long_as_the_order_is_there(api, buyer, source, said):
    api(buyer).post(PATH, said)
    pin = Pin.objects.get()
    assert pins.sweep(now=pin.keep_until + timedelta(days=1)) == 0


# --- Taking back ----------------------------------------------------------------------------------------------


def test_the_owner_takes_it_back(api, buyer, source, said):
    number = api(buyer).post(PATH, said).json()["order"]["id"]
    reply = api(buyer).post(f"{PATH}{number}/cancel/")

    assert (reply.status_code, reply.json()["order"]["status"]) == (200, "cancelled")
    assert reply.json()["order"]["held"] == "0"
    assert money_of(buyer) == (10, 0)
    again = api(buyer).post(f"{PATH}{number}/cancel/")
    assert (again.status_code, again.json()["code"]) == (409, "order_not_ready")


def test_a_published_task_is_taken_back_by_its_address(api, buyer, source, said):
    api(buyer).post(PATH, said)
    task = made.published(TaskOrder.objects.get())
    reply = api(buyer).post(f"{PATH}{task.address}/cancel/", headers={"Idempotency-Key": "c"})

    assert (reply.status_code, reply.json()["order"]["status"]) == (200, "cancelling")
    assert reply.json()["order"]["cancellation"]["status"] == "queued"
    assert (
        api(buyer).post(f"{PATH}{task.address}/cancel/", headers={"Idempotency-Key": "c"}).json()
        == reply.json()
    )


def test_what_is_being_published_is_not_taken_back(api, buyer, source, said):
    number = api(buyer).post(PATH, said).json()["order"]["id"]
    Transaction.objects.filter(purpose="publish_task").update(status=TransactionStatus.SENT)
    assert api(buyer).post(f"{PATH}{number}/cancel/").status_code == 409


@pytest.mark.parametrize("task", ["999", "0x12", "nothing", made.address(77), "%00", "9" * 40, "²"])
def test_what_is_not_there_is_not_found(api, alice, task):
    assert api(alice).get(f"{PATH}{task}/").status_code == 404
    assert api(alice).post(f"{PATH}{task}/cancel/").status_code == 404


@pytest.mark.parametrize(
    ("function", "data", "words"),
    [("sing", {"text": "la"}, "There is no function"), ("chat", {"messages": "hello"}, "messages")],
)
def test_what_our_nodes_would_decline_is_refused_before_it_costs_anything(
    api, buyer, said, source, function, data, words
):
    Service.objects.create(
        network=source.network, source_address=source.address, status=Serving.SERVED, model="llama"
    )
    answer = api(buyer).post(PATH, said | {"function_name": function, "data": data})
    assert answer.status_code == 400, answer.content
    assert words in answer.json()["detail"]
    assert money_of(buyer) == (10, 0)
    assert not TaskOrder.objects.exists()
